"""Letters of any script on a picture: a font of the system that has them, or their code points where none does."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from typing import Any, cast

from PIL import ImageFont

# What has most scripts on systems without fontconfig: macOS, then Windows.
_NAMES = ("Arial Unicode.ttf", "segoeui.ttf", "msyh.ttc", "msgothic.ttc", "malgun.ttf", "Nirmala.ttf")


@cache
def lettered(text: str, size: int) -> tuple[str, ImageFont.FreeTypeFont]:
    """A text as it can be drawn, and the font to draw it in.

    Args:
        text: in any script.
        size: of the font, in pixels.

    Returns:
        The text, in which a letter that no font here has stands as its code point, e.g. "U+65E5".
    """
    letters = {letter for letter in text if not letter.isspace()}
    fewest, chosen = letters, plain(size)
    for font in _fonts(letters, size):
        lacking = {letter for letter in letters if _lacks(font, letter)}
        if not lacking:
            return text, font
        if len(lacking) < len(fewest):
            fewest, chosen = lacking, font
    spelled = "".join(f" U+{ord(letter):04X} " if letter in fewest else letter for letter in text)
    return " ".join(spelled.split()), chosen


def plain(size: int) -> ImageFont.FreeTypeFont:
    """The one outline font that Pillow brings along; it has the letters of English."""
    # load_default(size) is typed as if it might be a bitmap.
    return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size))


def _fonts(letters: set[str], size: int) -> Iterator[ImageFont.FreeTypeFont]:
    yield plain(size)
    matcher = shutil.which("fc-match")
    if matcher is not None:
        wanted = " ".join(f"{ord(letter):x}" for letter in sorted(letters))
        command = [matcher, "-f", "%{index} %{file}", f":charset={wanted}"]
        # A face without outlines, such as one of coloured emoji, has no sizes to choose from.
        with suppress(OSError, ValueError, subprocess.SubprocessError):
            found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
            index, _, path = found.stdout.partition(" ")
            yield ImageFont.truetype(path, size, int(index))
    for name in _NAMES:
        with suppress(OSError):
            yield ImageFont.truetype(name, size)


def _lacks(font: ImageFont.FreeTypeFont, letter: str) -> bool:
    """Whether the font draws the letter as it draws what is none."""
    return _drawn(font, letter) == _drawn(font, "\uffff")


@cache
def _drawn(font: ImageFont.FreeTypeFont, letter: str) -> tuple[tuple[int, int], bytes]:
    mask: Any = font.getmask(letter)
    return mask.size, bytes(mask)
