"""Levels of the schedulers that step along a table of `sigmas`.

These are the variance exploding ones, where alpha = 1, EDM and consistency models among them, and the multistep
solvers, which keep VE sigmas but a VP (or flow) state.
"""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from couple.schedulers.convention import Levels, Relation
from couple.schedulers.reading import at, step_index
from couple.schedulers.vp import prediction


def variance_exploding(scheduler: Any, timestep: float | Tensor, options: Mapping[str, Any]) -> Levels:
    """Euler, Euler ancestral, LMS: x = x0 + sigma eps."""
    index = step_index(scheduler, timestep)
    return Levels(1.0, at(scheduler.sigmas, index), 1.0, at(scheduler.sigmas, index + 1), prediction(scheduler))


def edm(scheduler: Any, timestep: float | Tensor, options: Mapping[str, Any]) -> Levels:
    """EDM: a VE state and a preconditioned network (Karras et al. 2022)."""
    index = step_index(scheduler, timestep)
    return Levels(1.0, at(scheduler.sigmas, index), 1.0, at(scheduler.sigmas, index + 1), "preconditioned")


def edm_relation(scheduler: Any, timestep: float | Tensor, levels: Levels) -> Relation:
    """x0 = c_skip x + c_out m, EDM Table 1; an EDM scheduler's "v_prediction" is the same with c_out negated."""
    data, sigma = scheduler.config.sigma_data, float(levels.sigma)
    square = sigma * sigma + data * data
    sign = -1.0 if scheduler.config.prediction_type == "v_prediction" else 1.0
    return square, data * data, sign * sigma * data * math.sqrt(square)


def consistency(scheduler: Any, timestep: float | Tensor, options: Mapping[str, Any]) -> Levels:
    """Consistency models: each step returns x0 with fresh noise of variance sigma_next^2 - sigma_min^2."""
    index = step_index(scheduler, timestep)
    config = scheduler.config
    sigma_next = min(max(at(scheduler.sigmas, index + 1), config.sigma_min), config.sigma_max)
    last = math.isclose(sigma_next, config.sigma_min, rel_tol=1e-6)  # the table is float32
    fresh = 0.0 if last else config.s_noise * math.sqrt(sigma_next**2 - config.sigma_min**2)
    return Levels(1.0, at(scheduler.sigmas, index), 1.0, fresh, "preconditioned")


def consistency_relation(scheduler: Any, timestep: float | Tensor, levels: Levels) -> Relation:
    """x0 = c_skip x + c_out m with the boundary condition f(x, sigma_min) = x (Song et al. 2023, appendix C)."""
    data, sigma = scheduler.config.sigma_data, float(levels.sigma)
    above = sigma - scheduler.config.sigma_min
    return 1.0, data**2 / (above**2 + data**2), above * data / math.sqrt(sigma**2 + data**2)


def multistep(scheduler: Any, timestep: float | Tensor, options: Mapping[str, Any]) -> Levels:
    """DPM-Solver, UniPC, DEIS and SA-Solver: VE sigmas of a VP state, or flow sigmas of a flow state."""
    index = step_index(scheduler, timestep)
    return Levels(
        *state_levels(scheduler, at(scheduler.sigmas, index)),
        *state_levels(scheduler, at(scheduler.sigmas, index + 1)),
        prediction(scheduler),
    )


def state_levels(scheduler: Any, sigma: float) -> tuple[float, float]:
    """(alpha, sigma) of the state from an entry of a multistep solver's `sigmas`."""
    if scheduler.config.use_flow_sigmas:
        return 1.0 - sigma, sigma
    alpha = 1.0 / math.sqrt(1.0 + sigma * sigma)
    return alpha, sigma * alpha
