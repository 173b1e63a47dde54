"""`--preview N`: what a run looks like while it goes on, and the filmstrip and trace that stay of it.

Every few steps each trajectory's clean prediction is written as a small picture, and the table and plot of gaps,
energies and pulls so far. The filmstrip is laid out at the end. A file is whole or not there, so that it can be looked
at any time. A preview is not worth a run: what cannot be painted or written is told once and left out.
"""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from couple import Trajectory, atomic
from couple.backends.previews import Painter
from couple.cli import trace
from couple.cli.folder import slug
from couple.cli.sheet import Row, contact_sheet
from couple.engine.watch import Info

PREVIEWS, FILMSTRIP, TABLE, PLOT = "previews", "filmstrip.png", "trace.csv", "trace.png"
# Columns of a filmstrip, and the height of its pictures in pixels.
_COLUMNS, _HEIGHT = 12, 128
_FILE = re.compile(r"step-(\d{4,})-(\d+)-.*\.png")


class Previews:
    """A `callback` of `couple.sample` that leaves pictures and numbers in a folder.

    Args:
        folder: where; it exists. What a run that was stopped has left there is gone on with.
        trajectories: whose predictions are painted, from top to bottom.
        every: after how many meetings; the first and the last are always painted.
        decoder: an autoencoder for the latents of all of them, see `Painter`.

    Example:
        previews = Previews(folder, [a, b], every=5)
        couple.sample([a, b], edges, callback=previews)
        previews.finish()
    """

    def __init__(self, folder: Path, trajectories: Sequence[Trajectory], every: int, decoder: Any = None) -> None:
        """Make the folder of pictures."""
        self._folder = folder
        self._every = every
        self._painters = {trajectory: Painter(trajectory, decoder) for trajectory in trajectories}
        self._names = {t: f"{k}-{slug(t.name)}" for k, t in enumerate(trajectories, 1)}
        self._last: Info | None = None
        self._kept = 0
        self._told = False
        self._points: list[trace.Point] | None = None
        (folder / PREVIEWS).mkdir(exist_ok=True)

    @property
    def how(self) -> dict[str, str | None]:
        """By the name of each trajectory, how it is painted, see `Painter`."""
        return {trajectory.name: painter.how for trajectory, painter in self._painters.items()}

    def __call__(self, info: Info) -> None:
        """Look at a meeting."""
        if self._points is None:
            self._points = _earlier(self._folder / TABLE, before=info.step + 1)
        self._points += trace.points(info)
        self._last = info
        if info.step == 0 or (info.step + 1) % self._every == 0:
            self._keep(info)

    def finish(self) -> None:
        """Keep the last prediction and lay out the filmstrip."""
        if self._last is None:
            return
        if self._kept <= self._last.step:
            self._keep(self._last)
        if any((self._folder / PREVIEWS).iterdir()):
            self._write(FILMSTRIP, _png(self._filmstrip()))

    def _keep(self, info: Info) -> None:
        self._kept = info.step + 1
        for trajectory, painter in self._painters.items():
            if trajectory not in info.x0:
                continue  # it has not come to its first step
            try:
                picture = painter(info.x0[trajectory])
            except ValueError as error:
                self._tell(str(error))
            else:
                name = f"step-{info.step + 1:04d}-{self._names[trajectory]}.png"
                self._write(f"{PREVIEWS}/{name}", _png(picture))
        points = self._points or []
        self._write(TABLE, trace.table(points).encode())
        self._write(PLOT, _png(trace.plot(points)))

    def _filmstrip(self) -> Image.Image:
        found: dict[tuple[int, int], Path] = {}
        for path in (self._folder / PREVIEWS).iterdir():
            if match := _FILE.fullmatch(path.name):
                found[int(match[1]), int(match[2])] = path
        steps = sorted({step for step, _ in found})
        steps = [steps[k] for k in np.linspace(0, len(steps) - 1, min(len(steps), _COLUMNS)).round().astype(int)]
        rows = []
        for number, trajectory in enumerate(self._painters, 1):
            paths = [found.get((step, number)) for step in steps]
            pictures = [None if path is None else Image.open(path).convert("RGB") for path in paths]
            size = next((picture.size for picture in pictures if picture is not None), (1, 1))
            blank = Image.new("RGB", size, "#e8e7e3")
            rows.append(Row(str(number), trajectory.name, [picture or blank for picture in pictures]))
        return contact_sheet(rows, [f"step {step}" for step in steps], height=_HEIGHT)

    def _write(self, name: str, content: bytes) -> None:
        try:
            atomic.write(self._folder / name, content)
        except OSError as error:
            self._tell(f"{name} cannot be written ({error.strerror}).")

    def _tell(self, problem: str) -> None:
        if not self._told:
            self._told = True
            warnings.warn(f"no preview: {problem} The run goes on.", RuntimeWarning, stacklevel=3)


def _png(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


def _earlier(table: Path, before: int) -> list[trace.Point]:
    """What a run that was stopped had traced, up to where this one goes on."""
    if not table.is_file():
        return []
    with table.open(encoding="utf-8", newline="") as file:
        _, *rows = csv.reader(file)
    read = [trace.Point(int(step), float(done), kind, of, float(value)) for step, done, kind, of, value in rows]
    return [point for point in read if point.step < before]
