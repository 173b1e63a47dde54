"""Noise levels and clean predictions of diffusers' schedulers, read from outside and without changing them.

Every supported scheduler is put in one convention, x = alpha x0 + sigma eps. `levels` says where a step starts and
lands, `predict_x0` what the network's output says the clean sample is, `from_x0` is its inverse, `check` refuses what
does not fit, `carrying_class` with `carry` keep a pull alive in solvers whose corrector would undo it, and `repeat`
lets a network be evaluated several times at each level. This package does not import diffusers.
"""

from typing import Any

from torch import Tensor

from couple.schedulers.convention import Levels, output_of, x0_of
from couple.schedulers.corrector import carry, carrying_class
from couple.schedulers.listing import table
from couple.schedulers.refusals import check, support
from couple.schedulers.repeating import behind, check_repeatable, repeat

__all__ = [
    "Levels",
    "carry",
    "carrying_class",
    "check",
    "check_repeatable",
    "from_x0",
    "levels",
    "predict_x0",
    "repeat",
    "table",
]


def levels(scheduler: Any, timestep: float | Tensor, **options: Any) -> Levels:
    """Where `scheduler.step(output, timestep, sample, **options)` starts and where it lands.

    Call it before that step. Nothing about the scheduler changes.

    Args:
        scheduler: a supported scheduler with its schedule set.
        timestep: the timestep that will be given to `step`.
        **options: the other arguments that will be given to `step`. Those that move the level are `prev_timestep`
            (UnCLIP), `per_token_timesteps` (flow Euler, shape (batch, tokens)) and `r_timestep` (flow map); the rest is
            ignored.

    Raises:
        NotImplementedError: the scheduler's class is refused or unknown.
        ValueError: it has no schedule yet.
    """
    scheduler = behind(scheduler)
    return support(scheduler).levels(scheduler, timestep, options)


def predict_x0(
    scheduler: Any, model_output: Tensor, timestep: float | Tensor, sample: Tensor, levels: Levels | None = None
) -> Tensor:
    """The clean sample that a network's output stands for, as the scheduler itself understands it.

    Clipping and thresholding are done where the scheduler's step does them; channels of a learned variance are left
    out. Call it before the step.

    Args:
        scheduler: a supported scheduler with its schedule set.
        model_output: what `step` will be given, guidance applied.
        timestep: what `step` will be given.
        sample: the state that `step` will be given, shape (batch, ...).
        levels: those of this step, if known already.

    Returns:
        x0, of the sample's shape, float32, or float64 if the sample or the output is.
    """
    scheduler = behind(scheduler)
    kind = support(scheduler)
    if levels is None:
        levels = kind.levels(scheduler, timestep, {})
    coefficients = kind.relation(scheduler, timestep, levels)
    return kind.limit(scheduler, x0_of(kind.read(scheduler, model_output, sample), sample, coefficients))


def from_x0(
    scheduler: Any,
    x0: Tensor,
    timestep: float | Tensor,
    sample: Tensor,
    levels: Levels | None = None,
    model_output: Tensor | None = None,
) -> Tensor:
    """The network's output that stands for a clean sample: the inverse of `predict_x0`.

    Args:
        scheduler: a supported scheduler with its schedule set.
        x0: the clean sample, of the sample's shape; within the clipping range if the scheduler clips.
        timestep: what `step` will be given.
        sample: the state that `step` will be given.
        levels: those of this step, if known already.
        model_output: an output whose learned variance is kept; without it the variance is half way in its range.

    Returns:
        An output for `step`, float32, or float64 if x0 or the sample is.
    """
    scheduler = behind(scheduler)
    kind = support(scheduler)
    if levels is None:
        levels = kind.levels(scheduler, timestep, {})
    prediction = output_of(x0, sample, kind.relation(scheduler, timestep, levels))
    return kind.write(scheduler, prediction, model_output)
