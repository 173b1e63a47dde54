"""`sample`: the one verb. It checks what was asked, runs the engine and hands back what the pipelines returned."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from couple import hooks, memory, schedulers
from couple.checks import check_options, checked
from couple.engine.loop import Engine, Method
from couple.engine.watch import Info, Watch
from couple.graph import Edge
from couple.methods import Coupled
from couple.resume import fingerprint, replay
from couple.resume.interrupts import Interrupts
from couple.resume.replay import Replay
from couple.trajectory import Trajectory

if TYPE_CHECKING:
    from couple.parallel import Ranks
    from couple.resume.checkpoint import Checkpoint


class Result(Mapping[Trajectory, Any]):
    """What each trajectory's pipeline returned, by trajectory; of several processes, each holds its own share.

    Attributes:
        forwards: how many forwards the shared networks made (merged ones count once); 0 at `max_batch=1`, where
            networks are left alone.
        steps: how many scheduler steps each trajectory took; under a method with several evaluations of the network
            a step, how many evaluations.
        placement: what the placement did, None without one.
    """

    def __init__(
        self,
        outputs: dict[Trajectory, Any],
        forwards: int,
        steps: dict[Trajectory, int],
        placement: memory.Report | None = None,
    ) -> None:
        """Wrap the outputs of a run."""
        self._outputs = outputs
        self.forwards = forwards
        self.placement = placement
        self.steps: Mapping[Trajectory, int] = MappingProxyType(steps)

    def __getitem__(self, trajectory: Trajectory) -> Any:
        """Return what `trajectory.pipeline(...)` returned."""
        if trajectory not in self._outputs:
            raise KeyError(f"{trajectory!r} was not sampled by this process; `list(result)` has what was.")
        return self._outputs[trajectory]

    def __iter__(self) -> Iterator[Trajectory]:
        """Iterate over the trajectories in the order given to `sample`."""
        return iter(self._outputs)

    def __len__(self) -> int:
        """Return the number of trajectories."""
        return len(self._outputs)

    def __repr__(self) -> str:
        """Name the trajectories and what they hold."""
        held = ", ".join(f"{trajectory.name!r}: {_held(output)}" for trajectory, output in self._outputs.items())
        return f"<Result {held or 'of nothing'}>"


def _held(output: Any) -> str:
    shape = getattr(output, "shape", None)
    return type(output).__name__ + ("" if shape is None else f" {tuple(shape)}")


class Diverged(FloatingPointError):
    """Numbers of some trajectories are no longer finite; all others were sampled to their end.

    Attributes:
        result: what was sampled.
        lost: the trajectories that were not, each with what happened to it or to those it is coupled to.
    """

    def __init__(self, result: Result, lost: Mapping[Trajectory, str]) -> None:
        """Put into words what happened and what is left."""
        self.result = result
        self.lost: Mapping[Trajectory, str] = MappingProxyType(dict(lost))
        told = " ".join(dict.fromkeys(lost.values()))
        names = ", ".join(repr(trajectory.name) for trajectory in result)
        super().__init__(f"{told} The others were sampled; the error's `result` has {names}." if names else told)


def sample(
    trajectories: Sequence[Trajectory],
    edges: Sequence[Edge] = (),
    *,
    method: Method | None = None,
    max_batch: int | None = None,
    placement: memory.Placement | None = None,
    callback: Callable[[Info], None] | None = None,
    progress: bool | Callable[[int, int], None] = True,
    checkpoint: Checkpoint | None = None,
    parallel: Ranks | None = None,
) -> Result:
    """Run the pipeline calls of all trajectories side by side and let the edges pull on them.

    Args:
        trajectories: the calls to make. Each gets private copies of its pipeline's schedulers; networks are shared.
        edges: who pulls on whom, e.g. from `pair`, `chain`, `complete`, `star`. Without edges every call gives what
            it gives alone.
        method: what happens when calls meet at a step, see `couple.methods`; None for `methods.Coupled()`.
        max_batch: how many calls one forward of a shared network may serve. None merges what it can (results equal
            separate forwards to rounding); 1 never merges and is bit-identical to the stock calls at weight 0.
        placement: where the weights are while the calls run, see `memory.Placement`; None leaves them where they are.
        callback: called as `callback(info)` after every meeting, see `Info`.
        progress: whether to show one progress bar for all calls; or a function that is told after every meeting how
            many steps are taken, of how many.
        checkpoint: where to keep what a run needs to go on after it was stopped, see `Checkpoint`. If there is one
            already, this run goes on from there. Callbacks do not see again what they saw before.
        parallel: the processes that share the work, each of which must make this very call, see
            `couple.parallel.Ranks`. A callback then sees the trajectories of its own process and what they are joined
            to, and the progress bar those of the first.

    Returns:
        A mapping from each trajectory to exactly what its pipeline returned.

    Raises:
        TypeError: something is not what it must be (an edge, a method, an argument the pipeline does not take).
        ValueError: a setting cannot work (no steps, a shared generator, an edge to a trajectory not sampled, or between
            different latent spaces); or the checkpoint is damaged, or that of another run.
        NotImplementedError: a trajectory with an edge has a scheduler whose predictions cannot be read, or that the
            method cannot use; or `parallel` is given with a method other than `Coupled`, or with a checkpoint.
        Diverged: a `FloatingPointError`: predictions or states of a trajectory are not finite. It and those it is
            coupled to are given up; the error comes when all others have ended, and has what they gave.
        OSError: no checkpoint can be written there.
        ConnectionError: another process of `parallel` failed or has gone.
    """
    trajectories, edges = checked(trajectories, edges, max_batch)
    check_options(method, placement, callback, checkpoint, parallel)
    method = Coupled() if method is None else method
    linked = {trajectory for edge in edges for trajectory in edge.trajectories}
    for trajectory in trajectories:
        if trajectory in linked or callback is not None:
            for scheduler in hooks.main_schedulers(trajectory.pipeline):
                schedulers.check(scheduler)
    method.begin(trajectories, edges)
    peers = None
    if parallel is not None:
        peers = parallel.join(trajectories, edges, method)
        trajectories = peers.mine
        progress = progress if parallel.rank == 0 else False
    interrupts, kept = Interrupts(), None
    if checkpoint is not None:
        if parallel is not None:
            raise NotImplementedError("`checkpoint` and `parallel` do not go together: leave out one of them.")
        replay.check(trajectories, method)
        run = fingerprint.described(trajectories, edges, method, max_batch)
        kept = Replay(checkpoint, run, method, interrupts)
    engine = Engine(trajectories, edges, max_batch, method.evaluations, kept)
    watched = frozenset(trajectories if callback is not None else linked)
    placed = memory.placed(placement, trajectories, engine.merger)
    with placed as report, tqdm(disable=progress is not True, unit="step", desc="sampling") as bar:
        if report is not None and progress is not False:
            bar.write(report.plan, file=sys.stderr)
        watch = Watch(edges, method, callback, bar, progress if callable(progress) else None)
        with interrupts if kept is not None else nullcontext():
            outputs = engine.run(method, watched, watch, peers)
    lost = engine.lost | watch.finish()
    if kept is not None:
        kept.finish()
    for call in engine.calls:
        if call.trajectory in linked and call.steps == 0:
            warnings.warn(
                f"{call.trajectory.name!r} has an edge, but {type(call.trajectory.pipeline).__name__} never called "
                "its scheduler's step: nothing was coupled.",
                RuntimeWarning,
                stacklevel=2,
            )
    left = {trajectory: output for trajectory, output in outputs.items() if trajectory not in lost}
    steps = {call.trajectory: call.steps for call in engine.calls}
    result = Result(left, engine.merger.forwards, steps, report)
    if lost:
        raise Diverged(result, lost)
    return result
