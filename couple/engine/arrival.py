"""One call waiting at `scheduler.step`: what it brings, and the ways to send it on.

An arrival reads the levels and the clean prediction off the arguments of the stock `step`. A method sends it on with
`step`, which takes the stock step and may add a pull; or with `land`, which takes it with another prediction, and
`put`, which decides from which state the call goes on.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from fractions import Fraction
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from couple import schedulers
from couple.engine.precision import HALF
from couple.weights import Level

if TYPE_CHECKING:
    from couple.engine.calls import Call


class Arrival:
    """One call waiting at `scheduler.step`: its prediction, its levels, and the step still to be taken.

    Attributes:
        trajectory: whose call this is.
        scheduler: the private scheduler that steps.
        ordinal: which of the call's schedulers it is, in the order in which they were made.
        progress: how far the call is before this step, in [0, 1).
        position: number of this step, from 1, and how many there are.
        evaluation: which evaluation of the network at this level it is, from 0.
        steps_now: whether it is the last of them, after which the stock step is due; always, with one a step.
        step_progress: how far the call was at the first of them.
        pull: what was added to the state landed on, None if nothing.
        result: what the pipeline gets back from `scheduler.step`.
    """

    def __init__(self, call: Call, ordinal: int, stock_step: Callable[..., Any], bound: inspect.BoundArguments) -> None:
        """Take note of the arguments of the stock `step`, bound to its signature."""
        self.trajectory = call.trajectory
        self.scheduler = call.schedulers[ordinal]
        self.ordinal = ordinal
        self.pull: Tensor | None = None
        self.result: Any = None
        self._call = call
        self._stock_step = stock_step
        self._bound = bound
        self._landed: Tensor | None = None
        self.progress = call.advance(self.scheduler, bound.arguments.get("timestep"))
        self.position = (call.steps, call.total)
        self.evaluation = (call.steps - 1) % call.evaluations
        self.steps_now = self.evaluation == call.evaluations - 1
        self.step_progress = self.progress - Fraction(self.evaluation, call.total)

    @property
    def model_output(self) -> Tensor:
        """The guided network output, as the pipeline hands it to the scheduler."""
        return self._bound.arguments["model_output"]

    @property
    def timestep(self) -> Any:
        """The timestep handed to the scheduler."""
        return self._bound.arguments["timestep"]

    @property
    def given(self) -> Tensor:
        """The state before the step, as the pipeline hands it to the scheduler."""
        return self._bound.arguments["sample"]

    @property
    def sample(self) -> Tensor:
        """The state before the step; the float32 one behind it where the pipeline works in half precision."""
        return self._call.state.behind(self.given)

    @functools.cached_property
    def levels(self) -> schedulers.Levels:
        """Alpha and sigma before and after the step."""
        extra = {k: v for k, v in self._bound.arguments.items() if k != "timestep"}
        return schedulers.levels(self.scheduler, self.timestep, **extra)

    @functools.cached_property
    def level(self) -> Level:
        """The level landed on, as weight laws see it."""
        return Level.landing(float(self.step_progress), *_means(self.levels))

    @functools.cached_property
    def x0(self) -> Tensor:
        """The clean prediction, float32 (float64 for float64 states), shape of the state."""
        with self._call.modes.entered():
            return schedulers.predict_x0(self.scheduler, self.model_output, self.timestep, self.sample, self.levels)

    @functools.cached_property
    def _dtype(self) -> torch.dtype:
        """The dtype in which the pipeline carries its state."""
        return self.given.dtype

    def step(self, pull: Tensor | None = None) -> None:
        """Take the stock step and add `pull` (float32, shape of the state) to the state landed on.

        Without a pull, now or before, this is the stock step on the stock arguments, and the pipeline gets the very
        object it returned.
        """
        if pull is None and not self._call.state.kept:
            with self._call.modes.entered():
                self.result = self._stock_step(*self._bound.args, **self._bound.kwargs)
            return
        landed = self.land()
        if pull is None:
            self._go_on(landed)
            return
        with self._call.modes.entered():
            if isinstance(self.levels.sigma_next, Tensor):
                # Tokens on levels of their own: laws see the mean, each token is pulled by its own sigma.
                pull = pull * (self.levels.sigma_next / self.level.sigma)
            self.pull = pull
            moved = landed + pull.to(landed.dtype)
        self._go_on(moved, pull)

    def land(self, x0: Tensor | None = None) -> Tensor:
        """Take the stock step and return the state landed on; `put` must follow, with that state or another.

        Args:
            x0: clean prediction to step with in place of the network's, shape of the state.

        Returns:
            The state, float32 where the pipeline works in half precision.
        """
        arguments = self._bound.arguments
        with self._call.modes.entered():
            if x0 is not None:
                arguments["model_output"] = schedulers.from_x0(
                    self.scheduler, x0, self.timestep, self.sample, self.levels, self.model_output
                )
            if self._dtype in HALF or self.model_output.dtype in HALF:
                # Stock schedulers return the dtype of the output: in bfloat16 a small pull would be rounded away.
                arguments["sample"] = self.sample
                arguments["model_output"] = self.model_output.float()
            self.result = self._stock_step(*self._bound.args, **self._bound.kwargs)
        landed = self.result[0] if isinstance(self.result, tuple) else self.result.prev_sample
        self._landed = landed
        return landed

    def put(self, state: Tensor) -> None:
        """Let the call go on from `state`; without `land` before, from there to another evaluation at this level."""
        start = self.sample if self._landed is None else self._landed
        if state is start:
            self._go_on(state)
            return
        with self._call.modes.entered():
            displacement = state - start
        self._go_on(state, displacement)

    def stay(self) -> Tensor:
        """Take the stock step for the scheduler's sake only; return the state that the call is to stay at."""
        self.step() if self.steps_now else self.put(self.sample)
        landed = self.result[0] if isinstance(self.result, tuple) else self.result.prev_sample
        return self.given.to(landed.dtype) if landed.shape == self.given.shape else landed

    def _go_on(self, state: Tensor, displacement: Tensor | None = None) -> None:
        """Hand the pipeline a state, told by how much it differs from the one landed on."""
        with self._call.modes.entered():
            if displacement is not None:
                schedulers.carry(self.scheduler, displacement)
            returned = self._call.state.keep(state, self._dtype)
            if isinstance(self.result, tuple):
                self.result = (returned, *self.result[1:])
            elif self.result is not None:
                self.result.prev_sample = returned
            elif self._bound.arguments.get("return_dict", True):
                self.result = SimpleNamespace(prev_sample=returned, pred_original_sample=self.x0.to(self._dtype))
            else:
                self.result = (returned, self.x0.to(self._dtype))


def _means(levels: schedulers.Levels) -> Sequence[float]:
    """Each level, or its mean over tokens."""
    values = (levels.alpha, levels.sigma, levels.alpha_next, levels.sigma_next)
    means = [value.mean() for value in values if isinstance(value, Tensor)]
    # All at once, since a device waits whenever numbers are read from it.
    read = iter(torch.stack(means).tolist() if means else ())
    return [next(read) if isinstance(value, Tensor) else value for value in values]
