"""Score averages with Langevin corrections, so that samples come closer to the product of the models.

The average of the scores of two noised distributions is not the score of their noised product, so `ScoreAverage`
drifts off. It is, however, the score of *some* distribution at each level, and at the last levels of nearly the
product itself; Markov chains at each level bring the state back to it (Du et al. 2023).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from couple import schedulers
from couple.engine.arrival import Arrival
from couple.graph import Edge
from couple.methods.averaging import ScoreAverage
from couple.methods.sharing import Sharing
from couple.schedulers import Levels
from couple.trajectory import Trajectory

StepSize = float | Callable[[Levels], float]


def twice_beta(levels: Levels) -> float:
    """The step of unadjusted Langevin in the published script: 2 beta, beta the noise that the step removes.

    Example:
        >>> round(twice_beta(Levels(0.6, 0.8, 0.8, 0.6, "epsilon")), 3)
        0.875
    """
    return 2 * (1 - (float(levels.alpha) / float(levels.alpha_next)) ** 2)


class ScoreAverageMCMC(ScoreAverage):
    """`ScoreAverage` with corrections at every noise level: Du et al. 2023 (arXiv 2302.11552).

    At each level, before the step that leaves it, the shared state makes `steps` moves of a Markov chain under the
    averaged score. The chains are the unadjusted ones, because an accept step needs the energy itself, which
    networks that predict epsilon do not have:

    * `"ula"`, Langevin: `y += h s(y) + sqrt(2 h) n`; one evaluation of the networks a move.
    * `"uha"`, underdamped Hamiltonian: `v <- damping v + sqrt(1 - damping^2) n`, then `leapfrog` leapfrog steps of
      size h with unit mass; one evaluation each. (A mass M, as published, is a step size of h / M.)

    y is the state scaled to unit variance (alpha^2 + sigma^2 = 1) and s = -eps / sigma its score, so a step size
    means the same to VP, VE and flow schedulers. A chain is stable while h < 2 sigma^2 (`"ula"`) or h < 2 sigma
    (`"uha"`) at the lowest level corrected; a step size of 0 leaves a level alone.

    Pipelines see a schedule that repeats each timestep, so that a step costs `steps + 1` evaluations (`"uha"`:
    `steps * leapfrog + 1`), and `Result.steps` counts evaluations.

    Args:
        generator: where the noise of the corrections comes from. Make a new one for each run that is to be repeatable.
        steps: moves at each level.
        sampler: `"ula"` or `"uha"`.
        step_size: h, or a function of the `schedulers.Levels` of the step that leaves the level, scaled to unit
            variance, e.g. `lambda levels: 0.1 * levels.sigma**2`. None for the published ones: for `"ula"` the
            `twice_beta` of the authors' script, for `"uha"` the 0.03 of their notebook (the script has 0.1).
        leapfrog: leapfrog steps a move, of `"uha"`.
        damping: how much of the momentum a move keeps, in [0, 1), of `"uha"`; 0.5 is the notebook's, 0.7 the script's.
        shares: weight of each trajectory's score, up to a factor; 1 where it is not named. They are made to sum to 1:
            what is sampled is the weighted geometric mean of the models' densities.

    Raises:
        TypeError: no generator, or a number that is none.
        ValueError: a setting out of its range; while sampling, what `ScoreAverage` refuses.
        NotImplementedError: a scheduler that takes its steps in stages (Heun, PNDM).
        FloatingPointError: while sampling, if a state is not finite.
    """

    def __init__(
        self, *, generator: torch.Generator, steps: int = 10, sampler: str = "ula", step_size: StepSize | None = None,
        leapfrog: int = 3, damping: float = 0.5, shares: Mapping[Trajectory, float] | None = None,
    ) -> None:  # fmt: skip
        """Check the settings."""
        super().__init__(shares=shares)
        if not isinstance(generator, torch.Generator):
            raise TypeError(f"{self._name}: `generator` must be a torch.Generator; got {generator!r:.80}. "
                            "Use generator=torch.Generator().manual_seed(0).")  # fmt: skip
        if sampler not in ("ula", "uha"):
            raise ValueError(
                f'{self._name}: `sampler` must be "ula" or "uha"; got {sampler!r}. MALA and HMC need the energy of a '
                "model, which its predictions do not give."
            )
        for name, count in (("steps", steps), ("leapfrog", leapfrog)):
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ValueError(f"{self._name}: `{name}` must be a whole number, 1 or more; got {count!r}.")
        if not 0 <= damping < 1:
            raise ValueError(f"{self._name}: `damping` must be in [0, 1); got {damping!r}.")
        if step_size is None:
            step_size = twice_beta if sampler == "ula" else 0.03
        elif not callable(step_size):
            self._checked(step_size)
        self.generator, self.sampler, self.step_size, self.damping = generator, sampler, step_size, damping
        self.leapfrog = leapfrog if sampler == "uha" else 1
        self.evaluations = steps * self.leapfrog + 1
        self._momentum: dict[Trajectory, Tensor] = {}
        self._trajectories: Sequence[Trajectory] = ()

    def begin(self, trajectories: Sequence[Trajectory], edges: Sequence[Edge]) -> None:
        """Refuse also schedulers whose timesteps cannot be repeated."""
        super().begin(trajectories, edges)
        for trajectory in dict.fromkeys(trajectory for edge in edges for trajectory in edge.trajectories):
            schedulers.check_repeatable(trajectory.pipeline)
        self._momentum = {}
        self._trajectories = trajectories

    def excess(self, edges: Sequence[Edge]) -> str:
        """Say that the corrections may be too large."""
        return "corrections are too large: lower step_size"

    def remember(self) -> dict[str, Any]:
        """Return the state of the generator, and the momentum of each trajectory, by its place in the run."""
        momentum = [self._momentum.get(trajectory) for trajectory in self._trajectories]
        return {"generator": self.generator.get_state(), "momentum": momentum}

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Take both back."""
        self.generator.set_state(memory["generator"])
        pairs = zip(self._trajectories, memory["momentum"], strict=True)
        self._momentum = {trajectory: momentum for trajectory, momentum in pairs if momentum is not None}

    def _move(self, due: Mapping[Trajectory, Arrival], sharing: Sharing, x0: Mapping[Trajectory, Tensor]) -> None:
        first = due[sharing.trajectories[0]]
        if first.steps_now:
            for trajectory in due:
                self._momentum.pop(trajectory, None)
            super()._move(due, sharing, x0)
            return
        # One level for all: whatever is shared has one state, one x0 and one noise, and moves as one.
        alpha, sigma = float(first.levels.alpha), float(first.levels.sigma)
        scale = math.hypot(alpha, sigma)
        size = self._checked(self.step_size(_unit(first.levels)) if callable(self.step_size) else self.step_size)
        move = self._langevin if self.sampler == "ula" else self._hamiltonian
        noise = sharing.led({trajectory: self._noise(arrival.sample) for trajectory, arrival in due.items()})
        for trajectory, arrival in due.items():
            score = (alpha * x0[trajectory] - arrival.sample) * (scale / sigma**2)
            arrival.put(arrival.sample + scale * move(arrival, score, noise[trajectory], size))

    def _langevin(self, arrival: Arrival, score: Tensor, noise: Tensor, size: float) -> Tensor:
        return size * score + math.sqrt(2 * size) * noise

    def _hamiltonian(self, arrival: Arrival, score: Tensor, noise: Tensor, size: float) -> Tensor:
        """Make the next of the leapfrog steps; half kicks that follow each other fall in one evaluation."""
        momentum = self._momentum
        trajectory = arrival.trajectory
        if arrival.evaluation == 0:
            momentum[trajectory] = noise + size / 2 * score
        elif arrival.evaluation % self.leapfrog:
            momentum[trajectory] = momentum[trajectory] + size * score
        else:
            ended = momentum[trajectory] + size / 2 * score
            refreshed = self.damping * ended + math.sqrt(1 - self.damping**2) * noise
            momentum[trajectory] = refreshed + size / 2 * score
        return size * momentum[trajectory]

    def _noise(self, like: Tensor) -> Tensor:
        device = self.generator.device
        return torch.randn(like.shape, generator=self.generator, device=device, dtype=like.dtype).to(like.device)

    def _checked(self, size: object) -> float:
        if not isinstance(size, Real):
            raise TypeError(f"{self._name}: `step_size` must be a number or give one; got {size!r:.80}.")
        if not 0 <= float(size) < math.inf:
            raise ValueError(f"{self._name}: `step_size` must be finite, 0 or more; got {size!r}.")
        return float(size)


def _unit(levels: Levels) -> Levels:
    """Return the levels of the state scaled to unit variance."""
    before, after = (
        math.hypot(*ends) for ends in ((levels.alpha, levels.sigma), (levels.alpha_next, levels.sigma_next))
    )
    return replace(
        levels,
        alpha=levels.alpha / before, sigma=levels.sigma / before,
        alpha_next=levels.alpha_next / after, sigma_next=levels.sigma_next / after,
    )  # fmt: skip
