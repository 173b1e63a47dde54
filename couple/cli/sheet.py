"""The contact sheet: prompts across, one row of pictures for each way of sampling them.

Pictures are shown at one height, small ones enlarged, so that a 64 pixel sample can be judged on a screen.
Nothing here knows where the pictures come from.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from couple.cli.lettering import lettered

#: The ground of all sheets: one that a video keeps, and that of pages.
PAPER = (252, 250, 248)
_INK, _PALE = (29, 29, 31), (118, 118, 123)
_LABEL, _NOTE = 19, 14
_MARGIN, _GAP, _LABEL_LINES = 32, 12, 3
_NOTE_WIDTH, _APART = 208, 24


@dataclass(frozen=True)
class Row:
    """One row of the sheet.

    Attributes:
        name: What the row shows, e.g. "coupled".
        note: A short fact under the name, or "".
        pictures: One RGB picture for each label of the sheet.
        apart: Whether a new group of rows begins here, with more room above.
    """

    name: str
    note: str
    pictures: Sequence[Image.Image]
    apart: bool = False


def contact_sheet(rows: Sequence[Row], labels: Sequence[str], *, height: int = 288) -> Image.Image:
    """Lay rows of pictures out under their labels.

    Args:
        rows: From top to bottom; each holds as many pictures as there are labels.
        labels: One for each column; wrapped to its width, cut after three lines.
        height: Height of a picture on the sheet, in pixels.

    Returns:
        An RGB image.

    Raises:
        ValueError: If a row and the labels differ in number.
    """
    for row in rows:
        if len(row.pictures) != len(labels):
            raise ValueError(f"row {row.name!r} has {len(row.pictures)} pictures for {len(labels)} labels.")
    pictures = [[_scaled(picture, height) for picture in row.pictures] for row in rows]
    widths = [max(column[i].width for column in pictures) for i in range(len(labels))]
    wrapped = [_Text(label, _LABEL, width) for label, width in zip(labels, widths, strict=True)]
    names = [_Text(row.name, _LABEL) for row in rows]
    notes = [_Text(row.note, _NOTE, _NOTE_WIDTH) for row in rows]
    line = _LABEL * 1.3
    top = _MARGIN + round(line * max(len(text.lines) for text in wrapped)) + _GAP
    left = _MARGIN + round(max(text.width for text in (*names, *notes))) + 2 * _GAP
    tops = _tops(rows, top, height)
    size = (left + sum(widths) + _GAP * (len(widths) - 1) + _MARGIN, tops[-1] + height + _MARGIN)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)

    x = left
    for text, width in zip(wrapped, widths, strict=True):
        bottom = top - 1.5 * _GAP
        for k, words in enumerate(reversed(text.lines)):
            draw.text((x + width / 2, bottom - k * line), words, fill=_INK, font=text.font, anchor="ms")
        x += width + _GAP
    for name, note, y, scaled in zip(names, notes, tops, pictures, strict=True):
        middle = y + height / 2
        draw.text((left - 2 * _GAP, middle), name.lines[0], fill=_INK, font=name.font, anchor="rs")
        for k, words in enumerate(note.lines):
            place = (left - 2 * _GAP, middle + 8 + k * _NOTE * 1.3)
            draw.text(place, words, fill=_PALE, font=note.font, anchor="rt")
        x = left
        for picture, width in zip(scaled, widths, strict=True):
            sheet.paste(picture, (x + (width - picture.width) // 2, y))
            x += width + _GAP
    return sheet


class _Text:
    """A text in lines of a width, or in one; `width` is that of the longest."""

    def __init__(self, text: str, size: int, width: int | None = None) -> None:
        text, self.font = lettered(text, size)
        self.lines = [text] if width is None else _wrap(text, self.font, width)
        self.width = max(self.font.getlength(line) for line in self.lines)


def _tops(rows: Sequence[Row], top: int, height: int) -> list[int]:
    """Where the pictures of each row begin; a group is set apart from what is above it."""
    tops = [top]
    for row in rows[1:]:
        tops.append(tops[-1] + height + (_APART if row.apart else _GAP))
    return tops


def _scaled(picture: Image.Image, height: int) -> Image.Image:
    width = round(picture.width * height / picture.height)
    return picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    if len(lines) > _LABEL_LINES:
        lines = [*lines[: _LABEL_LINES - 1], f"{lines[_LABEL_LINES - 1]} ..."]
    return [_cut(line, font, width) for line in lines]


def _cut(line: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(f"{line}...") > width:
        line = line[:-1]
    return f"{line}..."
