"""The one progress display of a command: each stage on a line of its own, with its time, and a bar while it denoises.

    with Stages() as stages:
        stages.begin("load")
        ...
        stages.begin("encode")
        couple.sample(trajectories, edges, progress=stages.stepped)
        stages.begin("write")

A pipeline encodes before its first step and decodes after its last, inside one call: `stepped` tells these apart.
"""

import time
from typing import Any, Self

from tqdm.auto import tqdm

# Of a stage that is not counted only the time is known; of steps the seconds for each and what is left.
_PLAIN = "{desc:<8} {elapsed}"
_COUNTED = "{desc:<8} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_inv_fmt}]"


class Stages:
    """Shows the stage that a command is in, one at a time, on standard error.

    Args:
        show: False to keep the times only.

    Attributes:
        seconds: by stage that has ended, in the order in which they began; a stage that comes again adds to it.
    """

    def __init__(self, show: bool = True) -> None:
        """Be in no stage."""
        self.seconds: dict[str, float] = {}
        self._show = show
        self._stage: str | None = None
        self._started = 0.0
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> Self:
        """Begin without a stage."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the last stage, also after an error, so that what is printed next has a line of its own."""
        self.end()

    def begin(self, stage: str, total: int | None = None) -> None:
        """End the stage before and begin this one, of `total` steps if they are counted."""
        self.end()
        self._stage, self._started = stage, time.perf_counter()
        form = _PLAIN if total is None else _COUNTED
        self._bar = tqdm(total=total, desc=stage, unit="step", bar_format=form, disable=not self._show)

    def end(self) -> None:
        """End the stage, if there is one."""
        if self._stage is None or self._bar is None:
            return
        spent = time.perf_counter() - self._started
        self.seconds[self._stage] = round(self.seconds.get(self._stage, 0.0) + spent, 3)
        self._bar.refresh()
        self._bar.close()
        self._stage = self._bar = None

    def stepped(self, done: int, total: int) -> None:
        """Be told by a sampling that `done` of its `total` steps are taken; the first ends "encode"."""
        if self._stage != "denoise":
            self.begin("denoise", total)
        if self._bar is not None:
            self._bar.total = total
            self._bar.update(done - self._bar.n)
        if done >= total:
            self.begin("decode")
