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
import torch
from torch import Tensor
from tqdm.auto import tqdm

from couple import coupling
from couple.engine.arrival import Arrival
from couple.engine.loop import Engine, Meeting, Method
from couple.graph import Edge
from couple.maps import call
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

    def __repr__(self) -> str:
        """Say which meeting, how far it is and who stepped."""
        stepped = ", ".join(repr(trajectory.name) for trajectory in self._pulls)
        return f"<Info step {self.step}, progress {self.progress:.2f}, stepped: {stepped}>"

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
            output = arrival.model_output.detach()
            # One operation in place of five; a sum that no float32 can hold is of numbers that have run away too.
            total = output.sum(dtype=output.dtype if output.dtype == torch.float64 else torch.float32)
            self._read(total, partial(self._predicted, step), step, lost)
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
                # What is judged later must not hold the predictions of a meeting that is over.
                seen = meeting if on_cpu else None
                self._read(norm, partial(self._pulled, step, size, seen), step, lost)
        if self._callback is not None:
            self._callback(Info(engine.meetings, meeting))
        return lost

    def finish(self) -> dict[Trajectory, str]:
        """Look at what could not be read without making the device wait; return who turns out lost, and why."""
        lost: dict[Trajectory, str] = {}
        for value, (_, judge, trajectory) in zip(
            _fetched([later[0] for later in self._later]), self._later, strict=True
        ):
            if trajectory not in lost and (message := judge(value)):
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

    def _pulling(self, trajectory: Trajectory) -> list[Edge]:
        """The edges that may move it."""
        return [edge for edge in self._edges if trajectory in edge.trajectories[edge.directed :]]

    def _excess(self, trajectory: Trajectory) -> str:
        edges = self._pulling(trajectory)
        return self._method.excess(edges) if edges and hasattr(self._method, "excess") else ""

    def _not_finite(self, step: _Step, where: str, cause: str = "") -> str:
        if not cause:
            cause = "Its network gave nan or inf; one that does in float16 may not in bfloat16."
        pipeline = type(step.trajectory.pipeline).__name__
        return f"{step.name} is not finite {where} step {step} of {pipeline}. {cause}"

    def _either(self, step: _Step) -> str:
        """What may have been wrong, where it cannot be told."""
        energies = [_energy(edge) for edge in self._pulling(step.trajectory) if not edge.is_quadratic]
        causes = [*(f"the gradient of {energy} did" for energy in energies), self._excess(step.trajectory)]
        named = ", or ".join(cause for cause in causes if cause)
        return named and f"Either its network gave nan or inf, which a run without edges would show, or {named}."

    def _predicted(self, step: _Step, total: float) -> str | None:
        if math.isfinite(total):
            return None
        # Nobody has been pulled before the first step.
        return self._not_finite(step, "before", "" if step.position[0] == 1 else self._either(step))

    def _pulled(self, step: _Step, size: float, meeting: Meeting | None, norm: float) -> str | None:
        if not math.isfinite(norm):
            wrong = None if meeting is None else _wrong(step.trajectory, meeting)
            return self._not_finite(step, "after", self._either(step) if wrong is None else self._blame(step, *wrong))
        if norm > TOO_FAR * size and step.trajectory not in self._warned:
            self._warned.add(step.trajectory)
            deviations = norm / size if size else math.inf
            warnings.warn(
                f"{step.name} was pulled by {deviations:.1f} standard deviations of its noise in step {step}, where a "
                f"network has not seen such states: {self._excess(step.trajectory)}.",
                RuntimeWarning,
                stacklevel=2,
            )
        return None

    def _blame(self, step: _Step, edge: Edge, largest: float) -> str:
        return (
            f"The gradient of {_energy(edge)} is nan or inf there, at predictions of up to {largest:.3g}: look for a "
            "quotient or a root of 0. If they are what is too large, "
            f"{self._excess(step.trajectory)}."
        )


def _energy(edge: Edge) -> str:
    return f"{call(edge.energy)}, the energy of edge {edge.label},"


def _wrong(trajectory: Trajectory, meeting: Meeting) -> tuple[Edge, float] | None:
    """The edge that alone makes the pull on a trajectory not finite, and the largest value its energy saw."""
    for edge in meeting.edges:
        if trajectory in edge.trajectories and not edge.is_quadratic:
            pull = coupling.pulls(meeting.x0, [edge], meeting.levels, [trajectory]).get(trajectory)
            if pull is not None and not bool(pull.isfinite().all()):
                return edge, max(float(meeting.x0[end].abs().max()) for end in edge.trajectories)
    return None


def _fetched(values: Sequence[Tensor]) -> list[float]:
    """The numbers, with one transfer for each device."""
    places: dict[torch.device, list[int]] = {}
    for k, value in enumerate(values):
        places.setdefault(value.device, []).append(k)
    found = [0.0] * len(values)
    for places_there in places.values():
        for k, number in zip(places_there, torch.stack([values[k] for k in places_there]).tolist(), strict=True):
            found[k] = number
    return found


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
