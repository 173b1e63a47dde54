"""Levels of the schedulers that call the network more than once for a step.

Such a scheduler keeps the state that a step began with and returns to it when the last stage is in, so only the last
stage completes the step, and only there may a pull be added. Each stage is evaluated at a level of its own.
"""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from couple.schedulers.convention import Levels
from couple.schedulers.flow import between
from couple.schedulers.reading import at, number, numbers, step_index
from couple.schedulers.sigma import multistep
from couple.schedulers.vp import from_squares, prediction, stride


def heun(scheduler: Any, timestep: float | Tensor, options: Mapping[str, Any]) -> Levels:
    """Heun: the second stage is evaluated at the level that the step lands on."""
    sigma, sigma_next, completes = _heun_stage(scheduler, timestep)
    return Levels(1.0, sigma, 1.0, sigma_next, prediction(scheduler), completes)


def flow_heun(scheduler: Any, timestep: float | Tensor, options: Mapping[str, Any]) -> Levels:
    """Heun on a flow."""
    sigma, sigma_next, completes = _heun_stage(scheduler, timestep)
    return between(sigma, sigma_next, completes=completes)


def _heun_stage(scheduler: Any, timestep: float | Tensor) -> tuple[float, float, bool]:
    # The table repeats every inner level: s0, s1, s1, s2, s2, ..., 0. The last step is a single Euler stage.
    index = step_index(scheduler, timestep)
    sigma = at(scheduler.sigmas, index)
    if not scheduler.state_in_first_order:
        return sigma, sigma, True
    sigma_next = at(scheduler.sigmas, index + 1)
    return sigma, sigma_next, sigma_next == 0.0


def kdpm2(scheduler: Any, timestep: float | Tensor, options: Mapping[str, Any]) -> Levels:
    """DPM2: the second stage is evaluated half way, at `sigmas_interpol`."""
    index = step_index(scheduler, timestep)
    if scheduler.state_in_first_order:
        return _ve_stage(scheduler, at(scheduler.sigmas, index), at(scheduler.sigmas_interpol, index + 1))
    return _ve_landing(scheduler, at(scheduler.sigmas_interpol, index), at(scheduler.sigmas, index))


def kdpm2_ancestral(scheduler: Any, timestep: float | Tensor, options: Mapping[str, Any]) -> Levels:
    """DPM2 ancestral: as DPM2, its half way table shifted by one, and noise added when the step completes."""
    index = step_index(scheduler, timestep)
    if scheduler.state_in_first_order:
        return _ve_stage(scheduler, at(scheduler.sigmas, index), at(scheduler.sigmas_interpol, index))
    return _ve_landing(scheduler, at(scheduler.sigmas_interpol, index - 1), at(scheduler.sigmas, index))


def dpm_sde(scheduler: Any, timestep: float | Tensor, options: Mapping[str, Any]) -> Levels:
    """DPM-Solver SDE: the second stage is evaluated at the geometric mean of the two ends."""
    index = step_index(scheduler, timestep)
    if scheduler.state_in_first_order:
        sigma, sigma_next = at(scheduler.sigmas, index), at(scheduler.sigmas, index + 1)
        return _ve_stage(scheduler, sigma, math.sqrt(sigma * sigma_next))
    sigma, sigma_next = at(scheduler.sigmas, index - 1), at(scheduler.sigmas, index)
    return _ve_landing(scheduler, math.sqrt(sigma * sigma_next), sigma_next)


def _ve_stage(scheduler: Any, sigma: float, middle: float) -> Levels:
    return Levels(1.0, sigma, 1.0, middle, prediction(scheduler), middle == 0.0)


def _ve_landing(scheduler: Any, middle: float, sigma_next: float) -> Levels:
    return Levels(1.0, middle, 1.0, sigma_next, prediction(scheduler))


def singlestep(scheduler: Any, timestep: float | Tensor, options: Mapping[str, Any]) -> Levels:
    """Singlestep DPM-Solver: a step of order 1 takes the state it is handed, higher orders go back to that one."""
    levels = multistep(scheduler, timestep, options)
    orders, following = scheduler.order_list, step_index(scheduler, timestep) + 1
    if following >= len(orders) or orders[following] == 1:
        return levels
    return Levels(levels.alpha, levels.sigma, levels.alpha_next, levels.sigma_next, levels.prediction, completes=False)


def pndm(scheduler: Any, timestep: float | Tensor, options: Mapping[str, Any]) -> Levels:
    """PNDM: Runge-Kutta steps of four stages first, unless skipped, then linear multistep ones.

    Without the Runge-Kutta steps the first multistep step is taken twice, the second time from the first's start.
    """
    t, step = int(number(timestep)), stride(scheduler)
    runge_kutta = len(scheduler.prk_timesteps)
    if scheduler.counter < runge_kutta:
        landing = t - (0 if scheduler.counter % 2 else step // 2)
        completes = scheduler.counter % 4 == 3
    else:
        again = scheduler.counter == 1
        landing = t if again else t - step
        completes = scheduler.counter != 0 or len(scheduler.timesteps) == 1
    table = numbers(scheduler.alphas_cumprod)
    final = float(scheduler.final_alpha_cumprod)
    return from_squares(scheduler, table[t], table[landing] if landing >= 0 else final, completes)
