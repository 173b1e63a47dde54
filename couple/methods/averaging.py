"""Methods that average what trajectories have in common: their predictions, or the states they land on.

They differ in what is averaged and in whether there is one state or one for each trajectory. What they ask of the
edges is the same, and is checked before anything runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from couple import weights
from couple.engine.arrival import Arrival
from couple.engine.loop import Meeting
from couple.graph import Edge
from couple.methods.sharing import Sharing, components
from couple.trajectory import Trajectory

#: States of one trajectory in float32 and another in bfloat16 differ by less, and noise of two draws by more than
#: this share of the state's scale.
ONE_STATE = 0.05


class Averaging:
    """What the methods of averages have in common.

    Args:
        shares: how much each trajectory counts in an average, up to a factor; 1 where it is not named. Shares may be
            negative (composition by negation) as long as those of all that share an element have a positive sum.

    Attributes:
        evaluations: how often networks are evaluated a step.

    Raises:
        TypeError: `shares` is no mapping from trajectories to numbers.
        ValueError: a share is not finite.
    """

    evaluations = 1

    def __init__(self, *, shares: Mapping[Trajectory, float] | None = None) -> None:
        """Check the shares."""
        self._name = type(self).__name__
        if shares is not None and not isinstance(shares, Mapping):
            raise TypeError(
                f"{self._name}: `shares` must map trajectories to numbers, like {{a: 2.0, b: 1.0}}; got {shares!r:.80}."
            )
        self.shares = dict(shares or {})
        for trajectory, share in self.shares.items():
            if not isinstance(trajectory, Trajectory) or not isinstance(share, Real):
                raise TypeError(
                    f"{self._name}: `shares` must be like {{a: 2.0, b: 1.0}}; got {trajectory!r}: {share!r}."
                )
            if not math.isfinite(share):
                raise ValueError(f"{self._name}: the share of {trajectory.name!r} must be finite; got {share!r}.")
        self._sharing: dict[tuple[Edge, ...], Sharing] = {}

    def begin(self, trajectories: Sequence[Trajectory], edges: Sequence[Edge]) -> None:
        """Refuse edges that do not say which elements are shared, and shares of others."""
        for trajectory in self.shares:
            if trajectory not in trajectories:
                raise ValueError(
                    f"{self._name}: `shares` names {trajectory.name!r}, which is not among the trajectories being "
                    "sampled."
                )
        for edge in edges:
            _check_edge(edge, self._name)
        self._sharing = {}

    def excess(self, edges: Sequence[Edge]) -> str:
        """Say nothing: an average is no stronger than what it is made of."""
        return ""

    def remember(self) -> Any:
        """Return nothing: what is shared follows from the edges, and the average from what arrives."""

    def recall(self, memory: Any) -> None:
        """Take nothing back."""

    @torch.no_grad()
    def meet(self, meeting: Meeting) -> None:
        """Take the steps that are due, those of linked trajectories together."""
        alone = _by_trajectory(meeting.due)
        for edges in components(edge for edge in meeting.edges if _is_on(edge.weight, _progress(edge, meeting))):
            if edges not in self._sharing:
                self._sharing[edges] = Sharing(edges, meeting.x0, self.shares)
            sharing = self._sharing[edges]
            due = {trajectory: alone.pop(trajectory) for trajectory in sharing.trajectories if trajectory in alone}
            if due:
                self._step(due, sharing, edges, meeting.x0)
        for arrival in alone.values():
            arrival.step() if arrival.steps_now else arrival.put(arrival.sample)

    def _step(
        self,
        due: Mapping[Trajectory, Arrival],
        sharing: Sharing,
        edges: Sequence[Edge],
        x0: Mapping[Trajectory, Tensor],
    ) -> None:
        """Take the steps that are due in one component of the graph."""
        raise NotImplementedError


class ScoreAverage(Averaging):
    """One state, moved by the average of all predictions: composed diffusion (Liu et al. 2022, arXiv 2206.01714).

    At one state and level, averages of x0, of epsilon, of v and of the score are the same thing. What is shared steps
    with the average, and with the noise that the trajectory created first draws. With everything shared all
    trajectories end in one sample, and its distribution is *not* the product of the models' (`ScoreAverageMCMC`).

    All must start from the same noise, and step over the same levels in the same convention:

        latents = torch.randn(8, 4, 64, 64, generator=torch.Generator().manual_seed(0))
        a = couple.Trajectory(views, latents=latents, ...)
        b = couple.Trajectory(editor, latents=latents, prompt=["a winter scene"] * 8, ...)
        couple.sample([a, b], couple.pair(a, b, weight=1), method=ScoreAverage())

    The paper's own composition, `eps_u + sum_i w_i (eps_i - eps_u)`, is trajectories with `guidance_scale=1`, one of
    them without a prompt, and `shares={u: 1 - sum(w), a: w[0], b: w[1]}`.

    Args:
        shares: weight of each trajectory's prediction, up to a factor; 1 where it is not named.

    Raises:
        ValueError: while sampling, if linked trajectories are at different states or levels.
        FloatingPointError: while sampling, if a state is not finite.
    """

    def _step(
        self,
        due: Mapping[Trajectory, Arrival],
        sharing: Sharing,
        edges: Sequence[Edge],
        x0: Mapping[Trajectory, Tensor],
    ) -> None:
        _check_one_level(edges, due, self._name)
        _check_one_state(edges, due, self._name)
        self._move(due, sharing, sharing.average(x0))

    def _move(self, due: Mapping[Trajectory, Arrival], sharing: Sharing, x0: Mapping[Trajectory, Tensor]) -> None:
        landed = {trajectory: arrival.land(x0[trajectory]) for trajectory, arrival in due.items()}
        for trajectory, state in sharing.led(landed).items():
            due[trajectory].put(state)


class SyncTweedies(Averaging):
    """States of their own, stepped with averaged predictions: SyncTweedies (Kim et al. 2024, arXiv 2403.14370), case 2.

    Each step is computed anew from the trajectory's state and the average of all x0, so that the epsilon it implies
    changes too; coupling keeps each model's own. Noise, levels, schedulers and numbers of steps are each
    trajectory's own; one that is not due counts with its latest prediction.

    Args:
        shares: weight of each trajectory's prediction, up to a factor; 1 where it is not named.
    """

    def _step(
        self,
        due: Mapping[Trajectory, Arrival],
        sharing: Sharing,
        edges: Sequence[Edge],
        x0: Mapping[Trajectory, Tensor],
    ) -> None:
        means = sharing.average(x0)
        for trajectory, arrival in due.items():
            arrival.put(arrival.land(means[trajectory]))


class MultiDiffusion(Averaging):
    """States of their own, averaged after every step: MultiDiffusion (Bar-Tal et al. 2023, arXiv 2302.08113).

    Each trajectory takes the step of its own scheduler on its own prediction; then what is shared is replaced by the
    average of the states landed on. Windows of one panorama are trajectories joined where they overlap:

        left, right = (couple.Trajectory(pipe, prompt=..., latents=latents[..., k : k + 64]) for k in (0, 48))
        overlap = left.through(maps.crop(0, 48, 64, 16)), right.through(maps.crop(0, 0, 64, 16))
        couple.sample([left, right], couple.pair(*overlap, weight=1), method=MultiDiffusion())

    Nothing is asked of the initial states; the first step makes the shared elements agree. With initial noise of
    their own that average has less than its level's noise, so cut the windows out of one draw, as above. Levels must be
    the same.

    Args:
        shares: weight of each trajectory's state, up to a factor; 1 where it is not named.

    Raises:
        ValueError: while sampling, if linked trajectories are at different levels.
    """

    def _step(
        self,
        due: Mapping[Trajectory, Arrival],
        sharing: Sharing,
        edges: Sequence[Edge],
        x0: Mapping[Trajectory, Tensor],
    ) -> None:
        _check_one_level(edges, due, self._name)
        if not all(arrival.levels.completes for arrival in due.values()):
            for arrival in due.values():
                arrival.step()
            return
        for trajectory, state in sharing.average({t: arrival.land() for t, arrival in due.items()}).items():
            due[trajectory].put(state)


def _by_trajectory(arrivals: Sequence[Arrival]) -> dict[Trajectory, Arrival]:
    return {arrival.trajectory: arrival for arrival in arrivals}


def _progress(edge: Edge, meeting: Meeting) -> float:
    """How far the ends are: who is due is never behind the latest step of who is not."""
    return max(meeting.levels[trajectory].progress for trajectory in edge.trajectories)


def _is_on(weight: float | weights.Law, progress: float) -> bool:
    if isinstance(weight, weights.window):
        return weight.start <= progress < weight.stop and _is_on(weight.law, progress)
    return bool(weight)


def _check_edge(edge: Edge, method: str) -> None:
    law = edge.weight
    while isinstance(law, weights.window):
        law = law.law
    if callable(law):
        raise ValueError(
            f"edge {edge.label}: {method} takes averages, so the weight of an edge is a switch and not a law; got "
            f"{edge.weight!r:.80}. Use weight=1, or weights.window(1, 0, 0.5) for a part of the run."
        )
    if edge.directed:
        raise ValueError(
            f"edge {edge.label}: {method} takes averages, which have no direction. Leave out directed=True, and give "
            f"the end that should lead a larger share, e.g. {method}(shares={{a: 9.0, b: 1.0}})."
        )
    if not edge.is_quadratic:
        raise ValueError(
            f"edge {edge.label}: {method} averages whole states, rows, frames and crops, element by element; other "
            "maps and energies do not say which elements are the same. Use couple.pair(a[0], b[0], weight=1), or "
            "methods.Coupled()."
        )
    if edge.mask is not None and not bool(((edge.mask == 0) | (edge.mask == 1)).all()):
        raise ValueError(
            f"edge {edge.label}: {method} needs a mask of zeros and ones, since an element is shared or it is not. "
            "Use mask=mask > 0.5."
        )


def _check_one_level(edges: Sequence[Edge], due: Mapping[Trajectory, Arrival], method: str) -> None:
    for edge in edges:
        here, there = (_levels(due.get(trajectory), edge, method) for trajectory in edge.trajectories)
        if here and there and all(map(_is_close, here, there)):
            continue
        a, b = edge.trajectories
        raise ValueError(
            f"edge {edge.label}: {method} needs both ends at the same noise level, but in (alpha, sigma) "
            f"{a.name!r} {_written(here)} and {b.name!r} {_written(there)}. Give both the same num_inference_steps and "
            "scheduler: pipe_b.scheduler = type(pipe_a.scheduler).from_config(pipe_a.scheduler.config)."
        )


def _levels(arrival: Arrival | None, edge: Edge, method: str) -> tuple[float, float, float, float] | None:
    if arrival is None:
        return None
    levels = arrival.levels
    if isinstance(levels.alpha, Tensor) or isinstance(levels.alpha_next, Tensor):
        raise NotImplementedError(
            f"edge {edge.label}: the tokens of '{arrival.trajectory.name}' are at levels of their own, and {method} "
            "needs one level for both ends. Use methods.SyncTweedies() or methods.Coupled()."
        )
    return float(levels.alpha), float(levels.sigma), float(levels.alpha_next), float(levels.sigma_next)


def _written(levels: tuple[float, float, float, float] | None) -> str:
    if levels is None:
        return "takes no step now"
    return "steps from ({:.4g}, {:.4g}) to ({:.4g}, {:.4g})".format(*levels)


def _is_close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-3, abs_tol=1e-4)


def _check_one_state(edges: Sequence[Edge], due: Mapping[Trajectory, Arrival], method: str) -> None:
    gaps = torch.stack([_gap(edge, due).cpu() for edge in edges]).tolist()  # the device waits once
    for edge, gap in zip(edges, gaps, strict=True):
        first = due[edge.a.trajectory]
        step = "{}/{}".format(*first.position)
        if not math.isfinite(gap):
            raise FloatingPointError(
                f"edge {edge.label}: a state is not finite before step {step} of {method}. Either a network gave nan "
                "or inf, which a run without edges would show, or corrections are too large: lower step_size."
            )
        if gap > ONE_STATE * math.hypot(first.levels.alpha, first.levels.sigma):
            raise ValueError(
                f"edge {edge.label}: {method} has one state for both ends, but theirs differ by up to {gap:.3g} "
                f"before step {step}. Start both from the same noise, latents=latents, or with "
                "generator=torch.Generator().manual_seed(0) for each where they draw the same shape; a pipeline that "
                "starts from a picture, or pastes one into its state, cannot share it."
            )


def _gap(edge: Edge, due: Mapping[Trajectory, Arrival]) -> Tensor:
    a, b = (end(due[end.trajectory].sample) for end in (edge.a, edge.b))
    difference = (a - b.to(a.device)).abs()
    if edge.mask is not None:
        difference = torch.where(edge.mask.bool().to(a.device), difference, 0.0)
    return difference.amax().double()
