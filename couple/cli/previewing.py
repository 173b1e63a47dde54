"""`--preview N`: what a run looks like while it goes on, and the filmstrip and trace that stay of it.

Every few steps each trajectory's clean prediction is written as a small picture, and the plot of gaps, energies and
pulls so far; their table has every step at once. The filmstrip is laid out at the end. All of it lies beside the folder
that the run will leave behind, where it stays if the run is stopped: one that goes on from a checkpoint goes on with
it. A preview is not worth a run: what cannot be painted or written is told once and left out.
"""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import warnings
from collections.abc import Sequence
from contextlib import suppress
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

    The folder is made with the first of them. A run may sample more than once: its filmstrip has the trajectories of
    all its samplings, its trace those of the last.

    Args:
        folder: where. What a run that was stopped has left there is gone on with, up to where this one begins.
        trajectories: whose predictions are painted, from top to bottom.
        every: after how many meetings; the first and the last are always painted.
        decoder: an autoencoder for the latents of all of them, see `Painter`.
        above: names of the trajectories that the run has sampled before.

    Example:
        previews = Previews(folder, [a, b], every=5)
        couple.sample([a, b], edges, callback=previews)
        previews.finish()
    """

    def __init__(
        self,
        folder: Path,
        trajectories: Sequence[Trajectory],
        every: int,
        decoder: Any = None,
        above: Sequence[str] = (),
    ) -> None:
        """Write nothing yet."""
        self._folder = folder
        self._every = every
        self._painters = {trajectory: Painter(trajectory, decoder) for trajectory in trajectories}
        self._above = len(above)
        self._rows = [*above, *(trajectory.name for trajectory in trajectories)]
        self._last: Info | None = None
        self._kept = 0
        self._told = False
        self._points: list[trace.Point] = []

    @property
    def how(self) -> dict[str, str | None]:
        """By the name of each trajectory, how it is painted, see `Painter`."""
        return {trajectory.name: painter.how for trajectory, painter in self._painters.items()}

    def __call__(self, info: Info) -> None:
        """Look at a meeting."""
        if self._last is None:
            self._go_on(info.step)
        fresh = list(trace.points(info))
        self._points += fresh
        self._last = info
        if info.step == 0 or (info.step + 1) % self._every == 0:
            self._keep(info)
        else:
            self._append(fresh)

    def finish(self, result: Path | None = None) -> None:
        """Keep the last prediction, lay out the filmstrip, and copy all there is into the folder `result`."""
        if self._last is not None and self._kept <= self._last.step:
            self._keep(self._last)
        try:
            if any(self._pictures()):
                self._write(FILMSTRIP, _png(self._filmstrip()))
            if result is not None and self._folder.is_dir():
                shutil.copytree(self._folder, result, ignore=self._unfinished, dirs_exist_ok=True)
        except OSError as error:
            self._tell(f"{self._folder} cannot be kept ({error}).")

    def _unfinished(self, _: str, files: list[str]) -> list[str]:
        """What is not to be copied: half written, or of a later sampling that has not gone on yet."""
        found = {name: _FILE.fullmatch(name) for name in files}
        return [
            name
            for name, match in found.items()
            if name.startswith(".") or (match is not None and int(match[2]) > len(self._rows))
        ]

    def _go_on(self, step: int) -> None:
        """Drop what a run that was stopped has painted and traced after the step from which this one goes on."""
        try:
            for number, at, path in self._pictures():
                on_time = at <= step and (at == 1 or at % self._every == 0)
                if number > self._above and not (on_time and number <= len(self._rows)):
                    path.unlink()
            self._points = _earlier(self._folder / TABLE, step)
        except (OSError, csv.Error) as error:
            self._tell(f"{self._folder} cannot be gone on with ({error}).")
        self._write(TABLE, trace.table(self._points).encode())

    def _keep(self, info: Info) -> None:
        self._kept = info.step + 1
        for number, (trajectory, painter) in enumerate(self._painters.items(), self._above + 1):
            if trajectory not in info.x0:
                continue  # it has not come to its first step
            try:
                picture = painter(info.x0[trajectory])
            except ValueError as error:
                self._tell(str(error))
            else:
                name = f"step-{info.step + 1:04d}-{number}-{slug(trajectory.name)}.png"
                self._write(f"{PREVIEWS}/{name}", _png(picture))
        self._write(TABLE, trace.table(self._points).encode())
        self._write(PLOT, _png(trace.plot(self._points)))

    def _append(self, points: Sequence[trace.Point]) -> None:
        """Add to the table, so that no step is missing from it where the run is killed before the next picture."""
        _, _, rows = trace.table(points).partition("\n")
        try:
            with (self._folder / TABLE).open("a", encoding="utf-8", newline="") as file:
                file.write(rows)
        except OSError as error:
            self._tell(f"{TABLE} cannot be written ({error.strerror}).")

    def _pictures(self) -> list[tuple[int, int, Path]]:
        """The pictures there are: the number of the row, the step, and where."""
        folder = self._folder / PREVIEWS
        found = [(path, _FILE.fullmatch(path.name)) for path in (folder.iterdir() if folder.is_dir() else ())]
        return [(int(match[2]), int(match[1]), path) for path, match in found if match]

    def _filmstrip(self) -> Image.Image:
        found = {(step, number): path for number, step, path in self._pictures()}
        steps = sorted({step for step, _ in found})
        steps = [steps[k] for k in np.linspace(0, len(steps) - 1, min(len(steps), _COLUMNS)).round().astype(int)]
        rows = []
        for number, name in enumerate(self._rows, 1):
            paths = [found.get((step, number)) for step in steps]
            pictures = [None if path is None else Image.open(path).convert("RGB") for path in paths]
            size = next((picture.size for picture in pictures if picture is not None), (1, 1))
            blank = Image.new("RGB", size, "#e8e7e3")
            rows.append(Row(str(number), name, [picture or blank for picture in pictures]))
        return contact_sheet(rows, [f"step {step}" for step in steps], height=_HEIGHT)

    def _write(self, name: str, content: bytes) -> None:
        try:
            (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
            atomic.write(self._folder / name, content)
        except OSError as error:
            self._tell(f"{name} cannot be written ({error.strerror}).")

    def _tell(self, problem: str) -> None:
        if not self._told:
            self._told = True
            warnings.warn(f"no preview: {problem} The run goes on.", RuntimeWarning, stacklevel=3)


def check(folder: Path) -> None:
    """Refuse a folder that holds anything but previews, which are cleared there.

    Raises:
        ValueError: it does, or is no folder.
    """
    if not os.path.lexists(folder):
        return
    foreign = folder
    if folder.is_dir() and not folder.is_symlink():
        foreign = next((path for path in folder.rglob("*") if not _own(path.relative_to(folder))), None)
    if foreign is not None:
        raise ValueError(
            f"previews go to {folder}, but {foreign} is none of them; move it away, or name another --out."
        )


def clear(folder: Path) -> None:
    """Remove the previews in a folder, and the folder if nothing else is in it."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if _own(path.relative_to(folder)) and path.is_file():
            path.unlink()
    for path in (folder / PREVIEWS, folder):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _own(path: Path) -> bool:
    """Whether a run with previews makes a file or folder of that name in their folder."""
    name = path.name.removesuffix(".part").removeprefix(".") if path.name.endswith(".part") else path.name
    if path.parent == Path(PREVIEWS):
        return _FILE.fullmatch(name) is not None
    return path.parent == Path() and name in (PREVIEWS, FILMSTRIP, TABLE, PLOT)


def _png(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


def _earlier(table: Path, last: int) -> list[trace.Point]:
    """What a run that was stopped had traced, up to a step; a row that was cut off is left out."""
    if not table.is_file():
        return []
    read = []
    with table.open(encoding="utf-8", errors="replace", newline="") as file:
        for row in csv.reader(file):
            with suppress(ValueError):
                step, done, kind, of, value = row
                read.append(trace.Point(int(step), float(done), kind, of, float(value)))
    return [point for point in read if point.step <= last]
