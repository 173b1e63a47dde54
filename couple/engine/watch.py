"""What is looked at while a run goes on: progress, divergence, and what a callback is shown.

A component of the graph whose numbers are no longer finite is given up, so that nothing of it reaches the others, and
what happened is put into words; everyone else goes on. On a GPU nothing is read while sampling, which would make it
wait: there a component that diverged runs to its end like the others, and is found then.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from types import MappingProxyType

import numpy as np
from torch import Tensor
from tqdm.auto import tqdm

from couple import coupling
from couple.engine.arrival import Arrival
from couple.engine.loop import Engine, Meeting, Method
from couple.graph import Edge
from couple.trajectory import Trajectory
from couple.weights import Level

#: A pull longer than this many standard deviations of the noise landed on is named in a warning.
TOO_FAR = 4.0

Judge = Callable[[float], str | None]


class Info:
    """What a callback is shown after every meeting. Nothing in it can edit the run; tensors are copies.

    Attributes:
        step: number of the meeting, from 0.
        progress: how far the calls that stepped were before it, in [0, 1).
        levels: the level each trajectory last landed on.
    """

    def __init__(self, step: int, meeting: Meeting) -> None:
        """Keep a view of the meeting; nothing is computed before it is asked for."""
        self.step = step
        self.progress = float(meeting.due[0].progress)
        self.levels: Mapping[Trajectory, Level] = MappingProxyType(dict(meeting.levels))
        self._x0 = dict(meeting.x0)
        self._edges = meeting.edges
        self._pulls = {arrival.trajectory: arrival.pull for arrival in meeting.due}

    @cached_property
    def x0(self) -> Mapping[Trajectory, Tensor]:
        """Each trajectory's latest clean prediction: float32, shape of its state, in latent space."""
        return MappingProxyType({trajectory: x0.clone() for trajectory, x0 in self._x0.items()})

    @cached_property
    def energies(self) -> Mapping[Edge, float]:
        """Each edge's energy before its weight, summed over elements."""
        found = coupling.energies(self._x0, self._edges)
        return MappingProxyType({edge: float(energy) for edge, energy in found.items()})

    @cached_property
    def pull_norms(self) -> Mapping[Trajectory, float]:
        """Length of what was added to the state of each trajectory that stepped; 0 where nothing was."""
        norms = {t: 0.0 if pull is None else float(pull.norm()) for t, pull in self._pulls.items()}
        return MappingProxyType(norms)


class Watch:
    """Looks at every meeting, from both sides.

    Args:
        edges: of the graph.
        method: what happens at the meetings; its `excess` says what may have been too strong.
        callback: shown every meeting.
        bar: moved by every step.
        progress: told after every meeting how many steps are taken, of how many.
    """

    def __init__(
        self,
        edges: Sequence[Edge],
        method: Method,
        callback: Callable[[Info], None] | None,
        bar: tqdm,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """See nothing yet."""
        self._edges = edges
        self._method = method
        self._callback = callback
        self._bar = bar
        self._progress = progress
        self._warned: set[Trajectory] = set()
        self._later: list[tuple[Tensor, Judge, Trajectory]] = []

    def arrived(self, due: Sequence[Arrival]) -> dict[Trajectory, str]:
        """Look at predictions before they meet; return who is to be given up, and why."""
        lost: dict[Trajectory, str] = {}
        for arrival in due:
            step = _Step(arrival.trajectory, arrival.position)
            finite = arrival.model_output.detach().isfinite().all()
            self._read(finite, partial(self._predicted, step), step, lost)
        return lost

    def met(self, meeting: Meeting, engine: Engine) -> dict[Trajectory, str]:
        """Look at a meeting after its steps; return who is to be given up, and why."""
        lost: dict[Trajectory, str] = {}
        self._bar.total = sum(call.total for call in engine.calls)
        taken = engine.taken + len(meeting.due)
        self._bar.update(taken - self._bar.n)
        if self._progress is not None:
            self._progress(taken, self._bar.total)
        for arrival in meeting.due:
            if arrival.pull is not None:
                step = _Step(arrival.trajectory, arrival.position)
                size = arrival.level.sigma * math.sqrt(arrival.pull.numel())
                on_cpu = arrival.pull.device.type == "cpu"
                with np.errstate(over="ignore", invalid="ignore"):  # said below, in other words
                    norm = np.linalg.norm(arrival.pull.numpy().ravel()) if on_cpu else arrival.pull.norm()
                self._read(norm, lambda norm, step=step, size=size: self._pulled(step, norm, size), step, lost)
        if self._callback is not None:
            self._callback(Info(engine.meetings, meeting))
        return lost

    def finish(self) -> dict[Trajectory, str]:
        """Look at what could not be read without making the device wait; return who turns out lost, and why."""
        lost: dict[Trajectory, str] = {}
        for value, judge, trajectory in self._later:
            if trajectory not in lost and (message := judge(float(value))):
                lost |= dict.fromkeys(self._component(trajectory), message)
        return lost

    def _read(
        self,
        value: Tensor | np.floating,
        judge: Judge,
        step: _Step,
        lost: dict[Trajectory, str],
    ) -> None:
        if isinstance(value, Tensor) and value.device.type != "cpu":
            self._later.append((value, judge, step.trajectory))
        elif step.trajectory not in lost and (message := judge(float(value))):
            lost |= dict.fromkeys(self._component(step.trajectory), message)

    def _component(self, trajectory: Trajectory) -> set[Trajectory]:
        """Everyone whom this trajectory's numbers can reach over edges."""
        found, ahead = {trajectory}, [trajectory]
        while ahead:
            here = ahead.pop()
            for edge in self._edges:
                if here in edge.trajectories:
                    fresh = set(edge.trajectories) - found
                    found |= fresh
                    ahead += fresh
        return found

    def _excess(self, trajectory: Trajectory) -> str:
        edges = [edge for edge in self._edges if trajectory in edge.trajectories]
        return self._method.excess(edges) if edges and hasattr(self._method, "excess") else ""

    def _not_finite(self, step: _Step, where: str) -> str:
        excess = self._excess(step.trajectory)
        cause = f"Either its network gave nan or inf, which a run without edges would show, or {excess}."
        return (
            f"{step.name} is not finite {where} step {step} of {type(step.trajectory.pipeline).__name__}. "
            f"{cause if excess else 'Its network gave nan or inf; one that does in float16 may not in bfloat16.'}"
        )

    def _predicted(self, step: _Step, finite: float) -> str | None:
        return None if finite else self._not_finite(step, "before")

    def _pulled(self, step: _Step, norm: float, size: float) -> str | None:
        if not math.isfinite(norm):
            return self._not_finite(step, "after")
        deviations = norm / size
        if deviations > TOO_FAR and step.trajectory not in self._warned:
            self._warned.add(step.trajectory)
            warnings.warn(
                f"{step.name} was pulled by {deviations:.1f} standard deviations of its noise in step {step}, where a "
                f"network has not seen such states: {self._excess(step.trajectory)}.",
                RuntimeWarning,
                stacklevel=2,
            )
        return None


@dataclass(frozen=True)
class _Step:
    """Who stepped and when: what is left of an arrival until it is judged. Holds no tensor."""

    trajectory: Trajectory
    position: tuple[int, int]

    @property
    def name(self) -> str:
        return repr(self.trajectory.name)

    def __str__(self) -> str:
        return "{}/{}".format(*self.position)
