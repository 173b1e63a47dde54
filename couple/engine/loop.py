"""Stock pipeline calls that take turns on one thread and meet: at shared networks, and at `scheduler.step`.

Every trajectory's `pipeline(**call_kwargs)` runs in a greenlet of its own (`calls`). It runs until it waits: at the
forward of a network that others use too (served together by `merging`), or at a step of its scheduler. When every
call waits at a step, those furthest behind on the clock are due: a method (`methods`) sees their predictions, takes
the stock steps and adds what couples them. Nothing in here knows a pipeline, a model or an energy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

from couple import hooks
from couple.engine.arrival import Arrival
from couple.engine.calls import Call, hooked_network
from couple.engine.merging import Merger
from couple.engine.requests import Request
from couple.graph import Edge
from couple.trajectory import Trajectory
from couple.weights import Level

if TYPE_CHECKING:
    from couple.resume.replay import Replay


@dataclass(frozen=True)
class Meeting:
    """What a method sees when calls meet at a step.

    Attributes:
        due: the calls whose step is to be taken now.
        edges: the edges of the graph both of whose ends have made a prediction.
        x0: everyone's latest clean prediction, those of `due` included (float32, shape of the state).
        levels: everyone's latest level landed on.
    """

    due: Sequence[Arrival]
    edges: Sequence[Edge]
    x0: Mapping[Trajectory, Tensor]
    levels: Mapping[Trajectory, Level]


class Method(Protocol):
    """What happens at a meeting.

    Attributes:
        evaluations: how often the networks of linked calls are evaluated a step; each evaluation is a meeting.
    """

    evaluations: int

    def begin(self, trajectories: Sequence[Trajectory], edges: Sequence[Edge]) -> None:
        """Refuse what the method cannot do, before anything runs, and forget earlier runs."""
        ...

    def meet(self, meeting: Meeting) -> None:
        """Call `step`, or `land` and `put`, exactly once on every arrival in `meeting.due`.

        Where an arrival is not the last evaluation of its step (`steps_now` is false), `put` alone.
        """
        ...

    def excess(self, edges: Sequence[Edge]) -> str:
        """Say what may have been too strong where the ends of these edges are not finite, and the fix."""
        ...

    def remember(self) -> Any:
        """Return what is remembered from one meeting to the next, as plain values and tensors; for checkpoints."""
        ...

    def recall(self, memory: Any) -> None:
        """Take back what `remember` returned in an earlier run."""
        ...


class Watch(Protocol):
    """Looks at every meeting from both sides; what it returns names who is to be given up, and why."""

    def arrived(self, due: Sequence[Arrival]) -> Mapping[Trajectory, str]:
        """Look at predictions before they meet."""
        ...

    def met(self, meeting: Meeting, engine: Engine) -> Mapping[Trajectory, str]:
        """Look at a meeting after its steps, before its calls go on."""
        ...


class Peers(AbstractContextManager, Protocol):
    """Other processes that run calls of the same graph. As a context, it lets them know of an error in this one."""

    def exchange(
        self,
        progress: Fraction | None,
        seen: Mapping[Trajectory, tuple[Tensor, Level]],
        lost: Mapping[Trajectory, str],
    ) -> tuple[Fraction | None, Mapping[Trajectory, tuple[Tensor, Level]], Mapping[Trajectory, str]]:
        """Tell the progress and predictions of the own calls furthest behind; return those furthest behind of all.

        If someone is lost anywhere, those are told instead, to everyone.
        """
        ...


class Engine:
    """Runs calls side by side under a method, and puts every object back as it was.

    Args:
        trajectories: whose calls to run, in the order in which they take turns.
        edges: handed to the method.
        max_batch: how many calls one forward may serve (`merging.Merger`).
        evaluations: how often the networks of calls with an edge are evaluated a step.
        replay: what is kept of the run, and what was kept of it; None to keep nothing.

    Attributes:
        lost: the calls that were given up, and why.
        meetings: how many meetings are over.
        taken: how many steps were taken in them.
    """

    def __init__(
        self,
        trajectories: Sequence[Trajectory],
        edges: Sequence[Edge],
        max_batch: int | None,
        evaluations: int = 1,
        replay: Replay | None = None,
    ) -> None:
        """Make the private pipelines; nothing runs yet."""
        shared = _shared_networks(trajectories)
        self.processors = hooks.Processors(shared)
        self.merger = Merger(max_batch, self.processors)
        linked = {trajectory for edge in edges for trajectory in edge.trajectories}
        self.calls = [Call(t, self.processors, evaluations if t in linked else 1) for t in trajectories]
        self.lost: dict[Trajectory, str] = {}
        self.meetings = 0
        self.taken = 0
        self._edges = edges
        self._x0: dict[Trajectory, Tensor] = {}
        self._levels: dict[Trajectory, Level] = {}
        # Given up since the peers were told last.
        self._untold: dict[Trajectory, str] = {}
        # A network that meets nobody is left alone; one with a step cache must know whose call it serves.
        self._hooked: list[Any] = [m for m in shared if max_batch != 1 or getattr(m, "is_cache_enabled", False)]
        self._replay = replay
        if replay is not None and replay.resumes:
            # Also the forward of a network that meets nobody is answered.
            self._hooked = list({id(m): m for t in trajectories for m in hooks.networks(t.pipeline)}.values())

    def run(
        self,
        method: Method,
        watched: frozenset[Trajectory],
        watch: Watch,
        peers: Peers | None = None,
    ) -> dict[Trajectory, Any]:
        """Run all calls to their end.

        Args:
            method: what happens when calls meet at a step.
            watched: trajectories whose predictions the method or `watch` looks at.
            watch: decides whose calls are given up, because their numbers are no longer finite.
            peers: other processes that take part; with them, every meeting at which a call of this one is due counts.

        Returns:
            What each pipeline returned whose call was not given up.
        """
        with self._swapped(), nullcontext() if peers is None else peers:
            try:
                if self._replay is not None:
                    self._give_up(self._replay.begin(self.calls))
                for call in self.calls:
                    if call.trajectory not in self.lost:
                        call.resume()
                while self._serve() or self._meet(method, watched, watch, peers):
                    pass
            finally:
                for call in self.calls:
                    call.abandon()
        return {call.trajectory: call.output for call in self.calls if call.trajectory not in self.lost}

    def _serve(self) -> bool:
        """Serve every call that waits at a forward; tell whether there was one."""
        waiting = [(call, call.waits) for call in self.calls if isinstance(call.waits, Request)]
        outputs = None if self._replay is None else self._replay.answer(waiting)
        if outputs is None:
            outputs = self.merger.serve([request for _, request in waiting])
            if self._replay is not None:
                self._replay.note(waiting, outputs)
        for (call, _), output in zip(waiting, outputs, strict=True):
            call.resume(output)
        return bool(waiting)

    def _meet(
        self,
        method: Method,
        watched: frozenset[Trajectory],
        watch: Watch,
        peers: Peers | None,
    ) -> bool:
        """Let the calls furthest behind take their step; tell whether there was a call that had not ended."""
        arrivals = [(call, call.waits) for call in self.calls if isinstance(call.waits, Arrival)]
        behind = min((arrival.progress for _, arrival in arrivals), default=None)
        due = [(call, arrival) for call, arrival in arrivals if arrival.progress == behind]
        if self._replay is not None and due:
            if self._replay.goes_on:
                self._x0, self._levels = self._replay.repeat(due)
                self._go_on(due)
                return True
            self._replay.arrived(arrivals)
        lost = watch.arrived([arrival for _, arrival in due])
        seen = {a.trajectory: (a.x0, a.level) for _, a in due if a.trajectory in watched and a.trajectory not in lost}
        if peers is not None:
            first, seen, lost = peers.exchange(behind, seen, self._untold | dict(lost))
            behind, due = first, due if behind == first else []
        if lost:
            self._give_up(lost)
            self._untold = {}
            return True
        self._x0 |= {trajectory: x0 for trajectory, (x0, _) in seen.items()}
        self._levels |= {trajectory: level for trajectory, (_, level) in seen.items()}
        if not due:
            return behind is not None
        # An end that has not come to its first step (or never will) has nothing to be compared yet.
        edges = [edge for edge in self._edges if all(end in self._x0 for end in edge.trajectories)]
        meeting = Meeting([arrival for _, arrival in due], edges, self._x0, self._levels)
        method.meet(meeting)
        lost = watch.met(meeting, self)
        self._give_up(lost)
        self._untold |= lost
        if self._replay is not None:
            self._replay.sent_on(due, self._x0, self._levels, self.lost)
        self._go_on(due)
        return True

    def _go_on(self, due: Sequence[tuple[Call, Arrival]]) -> None:
        self.meetings += 1
        self.taken += len(due)
        for call, _ in due:
            if call.trajectory not in self.lost:
                call.resume()

    def _give_up(self, lost: Mapping[Trajectory, str]) -> None:
        """End calls whose numbers are of no use any more; their edges go with their predictions."""
        self.lost |= lost
        for call in self.calls:
            if call.trajectory in lost:
                call.abandon()
        for trajectory in lost:
            self._x0.pop(trajectory, None)

    @contextmanager
    def _swapped(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.callback(self.processors.put, self.processors.now())
            for module in self._hooked:
                if getattr(module, "is_cache_enabled", False):
                    stack.callback(module._reset_stateful_cache)
            stack.enter_context(hooks.swapped(self._hooked, hooked_network))
            yield


def _shared_networks(trajectories: Sequence[Trajectory]) -> list[nn.Module]:
    users: dict[int, list[nn.Module]] = {}
    for trajectory in trajectories:
        for module in hooks.networks(trajectory.pipeline):
            users.setdefault(id(module), []).append(module)
    return [modules[0] for modules in users.values() if len(modules) > 1]
