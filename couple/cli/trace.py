"""How far apart coupled predictions are, and how hard they pull, from step to step: as a table and as a plot."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from typing import TYPE_CHECKING, cast

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from couple.engine.watch import Info

#: What is traced, and what the plot says of it.
KINDS = {
    "gap": "gap between the ends of an edge, root mean square of the difference",
    "energy": "energy of an edge before its weight",
    "pull": "length of the pull on a trajectory",
}
# Colours that stay apart for colour-blind eyes (Okabe and Ito 2008).
_INKS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6b5b00", "#000000")
_PAPER, _INK, _GRID = "#faf9f6", "#1d1d1f", "#d9d8d4"
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 960, 240, 84, 300, 44, 34
# Drawn so many times larger and reduced, which makes smooth lines.
_FINE = 2


@dataclass(frozen=True)
class Point:
    """One number of one meeting.

    Attributes:
        step: number of the meeting, from 1.
        progress: how far the calls that stepped were before it, in [0, 1).
        kind: one of `KINDS`.
        of: the edge or the trajectory.
        value: never negative; may be nan or inf.
    """

    step: int
    progress: float
    kind: str
    of: str
    value: float


def points(info: Info) -> Iterator[Point]:
    """What a meeting has to say: gap and energy of every edge, pull on every end that stepped."""
    step, progress = info.step + 1, info.progress
    for edge, energy in info.energies.items():
        a, b = (end(info.x0[end.trajectory]).float() for end in (edge.a, edge.b))
        gap = (a - b.to(a.device)).square().mean().sqrt() if a.shape == b.shape else math.nan
        yield Point(step, progress, "gap", edge.label, float(gap))
        yield Point(step, progress, "energy", edge.label, energy)
    pulled = {trajectory for edge in info.energies for trajectory in edge.trajectories}
    for trajectory, norm in info.pull_norms.items():
        if trajectory not in pulled:
            continue
        yield Point(step, progress, "pull", trajectory.name, norm)


def table(traced: Sequence[Point]) -> str:
    """The points as comma-separated values under a head; numbers as exact as they are."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(field.name for field in fields(Point))
    rows.writerows(astuple(point) for point in traced)
    return text.getvalue()


def plot(traced: Sequence[Point]) -> Image.Image:
    """Draw each kind in a panel of its own over the steps, logarithms without zeros; one line for each edge."""
    found = [kind for kind in KINDS if any(point.kind == kind for point in traced)]
    last = max((point.step for point in traced), default=1)
    panels = [_panel(KINDS[kind], _lines(traced, kind), last) for kind in found]
    sheet = Image.new("RGB", (_WIDTH, _HEIGHT * max(len(panels), 1)), _PAPER)
    for k, panel in enumerate(panels):
        sheet.paste(panel, (0, k * _HEIGHT))
    return sheet


def _lines(traced: Sequence[Point], kind: str) -> dict[str, dict[int, float]]:
    """By edge or trajectory, its values by step; those that have no logarithm are left out."""
    lines: dict[str, dict[int, float]] = {}
    for point in traced:
        if point.kind == kind:
            line = lines.setdefault(point.of, {})
            if 0 < point.value < math.inf:
                line[point.step] = math.log10(point.value)
    return lines


def _panel(title: str, lines: Mapping[str, Mapping[int, float]], last: int) -> Image.Image:
    panel = Image.new("RGB", (_WIDTH * _FINE, _HEIGHT * _FINE), _PAPER)
    draw = ImageDraw.Draw(panel)
    left, right, top, bottom = (edge * _FINE for edge in (_LEFT, _WIDTH - _RIGHT, _TOP, _HEIGHT - _BOTTOM))
    font = cast(ImageFont.FreeTypeFont, ImageFont.load_default(13 * _FINE))
    draw.text((left, 14 * _FINE), title, fill=_INK, font=font)
    values = [value for line in lines.values() for value in line.values()]
    low, high = (min(values), max(values)) if values else (-1.0, 0.0)
    # A flat line is drawn in the middle of a tenth of a decade.
    low, high = (low, high) if high - low > 0.1 else (low - 0.05, high + 0.05)

    def place(step: float, value: float) -> tuple[float, float]:
        across = (step - 1) / max(last - 1, 1)
        return left + across * (right - left), bottom - (value - low) / (high - low) * (bottom - top)

    for value in _ticks(low, high):
        y = place(1, value)[1]
        draw.line([(left, y), (right, y)], fill=_GRID, width=_FINE)
        draw.text((left - 6 * _FINE, y), f"{float(f'{10**value:.3g}'):g}", fill=_INK, font=font, anchor="rm")
    for step in sorted({1, *(round(1 + (last - 1) * k / 4) for k in range(5))}):
        draw.text(
            (place(step, low)[0], bottom + 6 * _FINE),
            str(step) if step > 1 else "step 1",
            fill=_INK,
            font=font,
            anchor="mt",
        )
    for k, (name, line) in enumerate(lines.items()):
        ink = _INKS[k % len(_INKS)]
        path = [place(step, value) for step, value in line.items()]
        draw.line(path, fill=ink, width=2 * _FINE, joint="curve")
        if len(path) == 1:
            (x, y), radius = path[0], 2 * _FINE
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=ink)
        if k < len(_INKS):
            _legend(draw, name if k < len(_INKS) - 1 or len(lines) == len(_INKS) else _more(lines), k, ink, font)
    return panel.resize((_WIDTH, _HEIGHT), Image.Resampling.LANCZOS)


def _legend(draw: ImageDraw.ImageDraw, name: str, place: int, ink: str, font: ImageFont.FreeTypeFont) -> None:
    x, y = (_WIDTH - _RIGHT + 16) * _FINE, (_TOP + 10 + 19 * place) * _FINE
    room = (_RIGHT - 16 - 22 - 12) * _FINE
    # A line of letters as narrow as they come has less than 80 of them.
    name = " ".join(name.split())[:80]
    whole = name
    while font.getlength(name) > room:
        whole = whole[:-1]
        name = f"{whole}..."
    draw.line([(x, y), (x + 14 * _FINE, y)], fill=ink, width=3 * _FINE)
    draw.text((x + 22 * _FINE, y), name, fill=_INK, font=font, anchor="lm")


def _more(lines: Mapping[str, Mapping[int, float]]) -> str:
    return f"and {len(lines) - len(_INKS) + 1} more, in the same colours again"


def _ticks(low: float, high: float) -> list[float]:
    """Logarithms of about five numbers in the range, as round as its width allows."""
    for parts in ((1,), (1, 2, 5), range(1, 10), [k / 10 for k in range(10, 100)]):
        ticks = [
            exponent + math.log10(part) for exponent in range(math.floor(low), math.ceil(high) + 1) for part in parts
        ]
        ticks = [tick for tick in ticks if low - 1e-9 <= tick <= high + 1e-9]
        if len(ticks) >= 3:
            break
    else:
        ticks = [low, (low + high) / 2, high]
    apart = [ticks[0]]
    for tick in ticks[1:]:
        if tick - apart[-1] >= (high - low) / 7:
            apart.append(tick)
    return apart
