"""The one place where the commands sample: kernels, memory, previews, checkpoints and what is left of a failed run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

import couple
from couple import Checkpoint, Edge, Placement, Result, Trajectory
from couple.cli.clips import write_mp4
from couple.cli.folder import checkpoint_of, slug
from couple.cli.journal import Journal
from couple.cli.options import Execution
from couple.methods import Coupled
from couple.resume import replay

#: Meetings between checkpoints where one is wanted only when the run is interrupted.
_NEVER = 10**9
#: Frames a second of clips that are saved of a run that diverged.
_FPS = 8


class Sampler:
    """`couple.sample` as one run is asked to carry it out.

    Args:
        execution: how.
        max_batch: most calls in one forward; None for all.
        device: where models run.
        out: the folder that the run will leave behind. Checkpoints lie beside it, previews in `OUT-preview`, and what
            finished of a run that diverged in `OUT-finished`.
        folder: the folder that becomes it; finished previews are copied there.
        notes: shows the stages, and keeps their times.

    Raises:
        ValueError: previews are asked for, and something else is in their folder.
    """

    def __init__(
        self,
        execution: Execution,
        max_batch: int | None,
        device: torch.device,
        out: Path,
        folder: Path,
        notes: Journal,
    ) -> None:
        """Sample nothing yet."""
        self._execution = execution
        self._max_batch = max_batch
        self._device = device
        self._out = out
        self._folder = folder
        self._notes = notes
        self._calls = 0
        self._names: list[str] = []
        self._seen = out.with_name(f"{out.name}-preview")
        if execution.preview is not None:
            from couple.cli import previewing

            previewing.check(self._seen)

    def __call__(self, trajectories: Sequence[Trajectory], edges: Sequence[Edge] = ()) -> Result:
        """Sample; the n-th call of a run that is resumed goes on where its n-th call was."""
        self._calls += 1
        execution = self._execution
        max_batch, checkpoint = self._max_batch, self._checkpoint(trajectories)
        pipelines = list({id(trajectory.pipeline): trajectory.pipeline for trajectory in trajectories}.values())
        with ExitStack() as stack:
            if execution.attention is not None or execution.compile:
                from couple.backends import acceleration

                if execution.attention is not None:
                    stack.enter_context(acceleration.attention_backend(execution.attention, *pipelines))
                if execution.compile:
                    stack.enter_context(acceleration.compiled(*pipelines))
                    max_batch = acceleration.constant_batch(trajectories, max_batch)
            previews = None
            if execution.preview is not None:
                from couple.cli import previewing

                if self._calls == 1 and not execution.resume:
                    previewing.clear(self._seen)
                previews = previewing.Previews(self._seen, trajectories, execution.preview, above=self._names)
                self._names += [trajectory.name for trajectory in trajectories]
                stack.callback(previews.finish, self._folder)
                print(f"couple: until the run ends, previews are in {self._seen}", file=sys.stderr)
            stack.enter_context(self._notes.stage("encode"))
            sample = couple.sample
            if execution.parallel is not None:
                from couple.cli import processes

                sample = processes.sample
            try:
                result = sample(
                    trajectories,
                    edges,
                    max_batch=max_batch,
                    placement=self._placement(),
                    callback=previews,
                    progress=self._notes.stepped,
                    checkpoint=checkpoint,
                )
                if edges and max(result.steps.values()) == 1:
                    print(
                        "couple: nothing is coupled in one step, which lands on the picture; take more.",
                        file=sys.stderr,
                    )
                return result
            except couple.Diverged as error:
                # To go on from there would be to run away again.
                self._forget_checkpoints()
                if previews is not None and self._seen.is_dir():
                    print(f"couple: previews up to there are in {self._seen}", file=sys.stderr)
                if (kept := self._rescued(error.result)) is None:
                    raise
                raise FloatingPointError(f"{error} They are in {kept}.") from None
            except (KeyboardInterrupt, SystemExit) as stop:
                if checkpoint is not None and checkpoint.path.exists():
                    print("\ncouple:", *getattr(stop, "__notes__", ()), "Add --resume to go on.", file=sys.stderr)
                raise

    def forget(self) -> None:
        """Remove the checkpoints, and the previews beside the results: all of it is safe."""
        self._forget_checkpoints()
        if self._execution.preview is not None:
            from couple.cli import previewing

            previewing.clear(self._seen)

    def _forget_checkpoints(self) -> None:
        for number in range(1, self._calls + 1):
            self._place(number).unlink(missing_ok=True)

    def _checkpoint(self, trajectories: Sequence[Trajectory]) -> Checkpoint | None:
        execution = self._execution
        if execution.parallel is not None:
            return None
        every = execution.checkpoint_every or _NEVER
        checkpoint = Checkpoint(self._place(self._calls), every=every, keep=True)
        if execution.resume and self._calls == 1:
            how = "goes on from" if checkpoint.path.exists() else "starts from the beginning: there is no"
            print(f"couple: {how} {checkpoint.path}", file=sys.stderr)
        if not execution.resume:
            checkpoint.remove()
            if execution.checkpoint_every is None:
                try:
                    replay.check(trajectories, Coupled())
                except ValueError:
                    # Nobody asked for one, and this run cannot have one.
                    return None
        return checkpoint

    def _placement(self) -> Placement | None:
        kind: Any = self._execution.memory
        return (
            None
            if kind is None
            else Placement(kind, budget=self._execution.budget, device=self._device, fp8=self._execution.fp8)
        )

    def _place(self, number: int) -> Path:
        return checkpoint_of(self._out, number)

    def _rescued(self, result: Result) -> Path | None:
        """Save what those gave that did not diverge; tell where it is."""
        if not result:
            return None
        folder = self._out.with_name(f"{self._out.name}-finished")
        folder.mkdir(parents=True, exist_ok=True)
        for number, (trajectory, output) in enumerate(result.items(), 1):
            stem = f"{number}-{slug(trajectory.name)}"
            if hasattr(output, "frames"):
                write_mp4(folder / f"{stem}.mp4", output.frames[0], _FPS)
                continue
            for k, picture in enumerate(output.images):
                picture.save(folder / (f"{stem}.png" if len(output.images) == 1 else f"{stem}-{k}.png"))
        return folder
