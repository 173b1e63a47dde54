"""Stock pipeline calls that take turns on one thread and meet: at shared networks, and at `scheduler.step`.

Every trajectory's `pipeline(**call_kwargs)` runs in a greenlet of its own (`calls`). It runs until it waits: at the
forward of a network that others use too (served together by `merging`), or at a step of its scheduler. When every
call waits at a step, those furthest behind on the clock are due: a method (`methods`) sees their predictions, takes
the stock steps and adds what couples them. Nothing in here knows a pipeline, a model or an energy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from couple import hooks
from couple.arrival import Arrival
from couple.calls import Call, hooked_network
from couple.graph import Edge
from couple.merging import Merger, Request
from couple.trajectory import Trajectory
from couple.weights import Level


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


class Engine:
    """Runs calls side by side under a method, and puts every object back as it was.

    Args:
        trajectories: whose calls to run, in the order in which they take turns.
        edges: handed to the method.
        max_batch: how many calls one forward may serve (`merging.Merger`).
        evaluations: how often the networks of calls with an edge are evaluated a step.
    """

    def __init__(
        self, trajectories: Sequence[Trajectory], edges: Sequence[Edge], max_batch: int | None, evaluations: int = 1
    ) -> None:
        """Make the private pipelines; nothing runs yet."""
        shared = _shared_networks(trajectories)
        self.processors = hooks.Processors(shared)
        self.merger = Merger(max_batch, self.processors)
        linked = {trajectory for edge in edges for trajectory in edge.trajectories}
        self.calls = [Call(t, self.processors, evaluations if t in linked else 1) for t in trajectories]
        self._edges = edges
        self._x0: dict[Trajectory, Tensor] = {}
        self._levels: dict[Trajectory, Level] = {}
        # A network that meets nobody is left alone; one with a step cache must know whose call it serves.
        self._hooked: list[Any] = [m for m in shared if max_batch != 1 or getattr(m, "is_cache_enabled", False)]

    def run(
        self, method: Method, watched: frozenset[Trajectory], after: Callable[[Meeting], None]
    ) -> dict[Trajectory, Any]:
        """Run all calls to their end.

        Args:
            method: what happens when calls meet at a step.
            watched: trajectories whose predictions the method or `after` looks at.
            after: called after every meeting, before its calls go on.

        Returns:
            What each pipeline returned.
        """
        with self._swapped():
            try:
                for call in self.calls:
                    call.resume()
                while any(call.alive for call in self.calls):
                    if not self._serve():
                        self._meet(method, watched, after)
            finally:
                for call in self.calls:
                    call.abandon()
        return {call.trajectory: call.output for call in self.calls}

    def _serve(self) -> bool:
        """Serve every call that waits at a forward; tell whether there was one."""
        waiting = [(call, call.waits) for call in self.calls if isinstance(call.waits, Request)]
        outputs = self.merger.serve([request for _, request in waiting])
        for (call, _), output in zip(waiting, outputs, strict=True):
            call.resume(output)
        return bool(waiting)

    def _meet(self, method: Method, watched: frozenset[Trajectory], after: Callable[[Meeting], None]) -> None:
        arrivals = [(call, call.waits) for call in self.calls if isinstance(call.waits, Arrival)]
        behind = min(arrival.progress for _, arrival in arrivals)
        due = [(call, arrival) for call, arrival in arrivals if arrival.progress == behind]
        for _, arrival in due:
            if arrival.trajectory in watched:
                self._x0[arrival.trajectory] = arrival.x0
                self._levels[arrival.trajectory] = arrival.level
        # An end that has not come to its first step (or never will) has nothing to be compared yet.
        edges = [edge for edge in self._edges if all(end in self._x0 for end in edge.trajectories)]
        meeting = Meeting([arrival for _, arrival in due], edges, self._x0, self._levels)
        method.meet(meeting)
        after(meeting)
        for call, _ in due:
            call.resume()

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
