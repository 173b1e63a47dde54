"""How far apart coupled predictions are, and how hard they pull, from step to step: as a table and as a plot.

Where a run has the trajectories of an edge a second time without one, their gap is traced beside that of the edge: it
is what the coupling has closed.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from couple.cli.coupling import ROWS
from couple.cli.lettering import lettered
from couple.cli.sheet import PAPER

if TYPE_CHECKING:
    from couple import Edge, Trajectory
    from couple.engine.watch import Info

#: What is traced of coupled trajectories, and what the plot says of it.
KINDS = {
    "gap": "gap between the ends of an edge, root mean square of the difference",
    "energy": "energy of an edge before its weight",
    "pull": "length of the pull on a trajectory",
}
#: The gap between the trajectories that are those of an edge but for having none; drawn with the gap of the edge.
UNCOUPLED = "uncoupled gap"
# Colours that stay apart for colour-blind eyes (Okabe and Ito 2008).
_INKS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6b5b00", "#000000")
_INK, _GRID = "#1d1d1f", "#d9d8d4"
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 960, 240, 84, 300, 44, 34
# Drawn so many times larger and reduced, which makes smooth lines.
_FINE = 2
_LETTERS, _LINE, _DASH = 13 * _FINE, 2 * _FINE, 5 * _FINE
# Of numbers beyond, no axis can be made.
_LEAST, _MOST = 1e-300, 1e300


@dataclass(frozen=True)
class Point:
    """One number of one meeting.

    Attributes:
        step: number of the meeting, from 1.
        progress: how far the calls that stepped were before it, in [0, 1).
        kind: one of `KINDS`, or `UNCOUPLED`.
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
    pulled = {trajectory for edge in info.energies for trajectory in edge.trajectories}
    alone = {one: _alone(one, [other for other in info.x0 if other not in pulled]) for one in pulled}
    for edge, energy in info.energies.items():
        a, b = edge.trajectories
        yield Point(step, progress, "gap", edge.label, _gap(edge, info.x0[a], info.x0[b]))
        if (left := alone[a]) is not None and (right := alone[b]) is not None:
            yield Point(step, progress, UNCOUPLED, edge.label, _gap(edge, info.x0[left], info.x0[right]))
        yield Point(step, progress, "energy", edge.label, energy)
    for trajectory, norm in info.pull_norms.items():
        if trajectory not in pulled:
            continue
        yield Point(step, progress, "pull", trajectory.name, norm)


def _gap(edge: Edge, x0_a: torch.Tensor, x0_b: torch.Tensor) -> float:
    a, b = edge.a(x0_a).float(), edge.b(x0_b).float()
    return float((a - b.to(a.device)).square().mean().sqrt()) if a.shape == b.shape else math.nan


def _alone(trajectory: Trajectory, others: Sequence[Trajectory]) -> Trajectory | None:
    """The one of the others that makes the same call from the same seed."""
    called = trajectory.call_kwargs
    for other in others:
        if other.pipeline is trajectory.pipeline and other.call_kwargs.keys() == called.keys():
            if all(_same(called[name], given) for name, given in other.call_kwargs.items()):
                return other
    return None


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Generator) and isinstance(other, torch.Generator):
        return one.initial_seed() == other.initial_seed()
    return one is other or (isinstance(one, str | int | float | Image.Image) and one == other)


def table(traced: Sequence[Point]) -> str:
    """The points as comma-separated values under a head; numbers as exact as they are."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(field.name for field in fields(Point))
    rows.writerows(astuple(point) for point in traced)
    return text.getvalue()


def plot(traced: Sequence[Point]) -> Image.Image:
    """Draw each kind in a panel of its own over the steps, from 0 up; one line for each edge or trajectory."""
    found = [kind for kind in KINDS if any(point.kind == kind for point in traced)]
    last = max((point.step for point in traced), default=1)
    panels = [
        _panel(KINDS[kind], _lines(traced, kind), _lines(traced, UNCOUPLED) if kind == "gap" else {}, last)
        for kind in found
    ]
    sheet = Image.new("RGB", (_WIDTH, _HEIGHT * max(len(panels), 1)), PAPER)
    for k, panel in enumerate(panels):
        sheet.paste(panel, (0, k * _HEIGHT))
    return sheet


_Line = list[tuple[int, float]]


def _lines(traced: Sequence[Point], kind: str) -> dict[str, _Line]:
    """By edge or trajectory, steps and values."""
    lines: dict[str, _Line] = {}
    for point in traced:
        if point.kind == kind:
            lines.setdefault(point.of, []).append((point.step, point.value))
    return lines


def _panel(title: str, lines: Mapping[str, _Line], dashed: Mapping[str, _Line], last: int) -> Image.Image:
    panel = Image.new("RGB", (_WIDTH * _FINE, _HEIGHT * _FINE), PAPER)
    draw = ImageDraw.Draw(panel)
    left, right, top, bottom = (edge * _FINE for edge in (_LEFT, _WIDTH - _RIGHT, _TOP, _HEIGHT - _BOTTOM))
    _write(draw, (left, 14 * _FINE), title, "la")
    values = [value for drawn in (lines, dashed) for line in drawn.values() for _, value in line]
    ticks = _ticks(max((value for value in values if value <= _MOST), default=0.0))

    def place(step: int, value: float) -> tuple[float, float]:
        across = (step - 1) / max(last - 1, 1)
        return left + across * (right - left), bottom - value / ticks[-1] * (bottom - top)

    for value in ticks:
        y = place(1, value)[1]
        draw.line([(left, y), (right, y)], fill=_GRID, width=_FINE)
        _write(draw, (left - 8 * _FINE, y), f"{float(f'{value:.3g}'):g}", "rm")
    for step in sorted({1, *(round(1 + (last - 1) * k / 4) for k in range(5))}):
        _write(draw, (place(step, 0)[0], bottom + 9 * _FINE), str(step) if step > 1 else "step 1", "mt")
    paths = {name: _paths(line, place) for name, line in lines.items()}
    for k, (name, pieces) in enumerate(paths.items()):
        ink = _INKS[k % len(_INKS)]
        # What later lines will cover shows on both sides of them.
        covered = [path for other in list(paths)[k + 1 :] for path in paths[other] if path in pieces]
        for path in pieces:
            _draw(draw, path, ink, _LINE * (1 + 2 * min(covered.count(path), 2)))
        for path in _paths(dashed.get(name, []), place):
            for dash in _dashes(path):
                _draw(draw, dash, ink, _LINE)
    _legend(draw, list(lines), bool(dashed))
    return panel.resize((_WIDTH, _HEIGHT), Image.Resampling.LANCZOS)


def _paths(line: _Line, place: Callable[[int, float], tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Where a line goes, in whole pixels, broken where it has no number."""
    paths = [[]]
    for step, value in line:
        if value <= _MOST:
            x, y = place(step, value)
            paths[-1].append((round(x), round(y)))
        else:
            paths.append([])
    return [path for path in paths if path]


def _dashes(path: list[tuple[float, float]]) -> Iterator[list[tuple[float, float]]]:
    x, y = np.transpose(path)
    along = np.concatenate([[0.0], np.hypot(np.diff(x), np.diff(y)).cumsum()])
    for start in np.arange(0, along[-1], 2 * _DASH):
        ends = [start, min(start + _DASH, along[-1])]
        yield list(zip(np.interp(ends, along, x).tolist(), np.interp(ends, along, y).tolist(), strict=True))


def _draw(draw: ImageDraw.ImageDraw, path: list[tuple[float, float]], ink: str, width: int) -> None:
    draw.line(path, fill=ink, width=width, joint="curve")
    if len(path) == 1:
        (x, y), radius = path[0], width
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=ink)


def _legend(draw: ImageDraw.ImageDraw, names: Sequence[str], dashed: bool) -> None:
    left, room = (_WIDTH - _RIGHT + 16) * _FINE, (_RIGHT - 16 - 22 - 12) * _FINE
    # Edges are between coupled ones.
    shown = [_fitting(name.replace(f" ({ROWS[1]})", ""), room) for name in names[: len(_INKS)]]
    if len(names) > len(_INKS):
        shown[-1] = f"and {len(names) - len(_INKS) + 1} more, in the same colours again"
    entries = [(name, _INKS[k], [[0, 14]]) for k, name in enumerate(shown)]
    if dashed:
        entries.append(("the same, uncoupled", _INK, [[0, 6], [9, 14]]))
    for k, (name, ink, pieces) in enumerate(entries):
        y = (_TOP + 10 + 19 * k) * _FINE
        for start, end in pieces:
            draw.line([(left + start * _FINE, y), (left + end * _FINE, y)], fill=ink, width=_LINE)
        _write(draw, (left + 22 * _FINE, y), name, "lm")


def _fitting(name: str, room: float) -> str:
    """The name; of an edge that is too long for the room, the beginnings of both ends."""
    # A line of letters as narrow as they come has less than 80 of them.
    name = " ".join(name.split())
    parts = re.split(r"(?<=')( ->? )(?=')", name)
    for most in range(80, 0, -1):
        cut = "".join(part if len(part) <= most else f"{part[:most]}..." for part in parts)
        text, font = lettered(cut, _LETTERS)
        if font.getlength(text) <= room:
            break
    return cut


def _write(draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, anchor: str) -> None:
    text, font = lettered(text, _LETTERS)
    draw.text(place, text, fill=_INK, font=font, anchor=anchor)


def _ticks(most: float) -> list[float]:
    """Round numbers from 0, about five, the last of them no less than `most`."""
    if most < _LEAST:
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(most))
    unit = next(unit for unit in (power / 5, power / 2, power, 2 * power, 5 * power) if most <= 5 * unit)
    return [k * unit for k in range(math.ceil(most / unit) + 1)]
