"""Levels of the rectified flow schedulers, x = (1 - sigma) x0 + sigma eps.

Their networks predict eps - x0 unless said otherwise.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from couple.schedulers.convention import Levels
from couple.schedulers.reading import at, number, numbers, step_index


def between(
    sigma: float | Tensor, sigma_next: float | Tensor, prediction: str = "flow", completes: bool = True
) -> Levels:
    """Levels of a step of the straight path."""
    return Levels(1.0 - sigma, sigma, 1.0 - sigma_next, sigma_next, prediction, completes)


def indexed(scheduler: Any, timestep: float | Tensor, options: Mapping[str, Any]) -> Levels:
    """Any flow scheduler that steps from `sigmas[i]` to `sigmas[i + 1]`."""
    index = step_index(scheduler, timestep)
    return between(at(scheduler.sigmas, index), at(scheduler.sigmas, index + 1))


def euler(scheduler: Any, timestep: float | Tensor, options: Mapping[str, Any]) -> Levels:
    """Flow Euler, with its variants: inverted sigmas (Mochi), a timestep for each token (LTX), EDM's sigmas (Cosmos 2).

    Cosmos 2 steps an x = x0 + sigma eps from sigma 80 on, with the noise as its output: no straight path exceeds 1.
    """
    tokens = options.get("per_token_timesteps")
    if tokens is not None:
        return _per_token(scheduler, tokens)
    index = step_index(scheduler, timestep)
    sigma, sigma_next = at(scheduler.sigmas, index), at(scheduler.sigmas, index + 1)
    if scheduler.config.invert_sigmas:
        # The table counts the share of data, and rises, so the network's output must point from noise to data.
        return between(1.0 - sigma, 1.0 - sigma_next, "flow_reversed")
    if at(scheduler.sigmas, 0) > 1.001:
        return Levels(1.0, sigma, 1.0, sigma_next, "epsilon")
    return between(sigma, sigma_next)


def _per_token(scheduler: Any, timesteps: Tensor) -> Levels:
    """Each token steps to the highest level of the schedule below its own; clean tokens stay where they are.

    The step adds (sigma - sigma_next) * output where the plain one subtracts it, so pipelines hand it x0 - eps,
    except with stochastic sampling.
    """
    now = timesteps / scheduler.config.num_train_timesteps
    schedule = scheduler.sigmas.to(now.device)[:, None, None]
    landing = ((schedule < now[None] - 1e-6) * schedule).amax(dim=0)
    prediction = "flow" if scheduler.config.stochastic_sampling else "flow_reversed"
    return between(now[..., None], landing[..., None].to(now.dtype), prediction)


def flow_map(scheduler: Any, timestep: float | Tensor, options: Mapping[str, Any]) -> Levels:
    """AnyFlow: from `timestep` to `r_timestep`, each the nearest entry of the schedule or off it.

    The network predicts the mean velocity of the whole jump, so x0 is where the straight line through both ends meets
    sigma = 0.
    """
    schedule = numbers(scheduler.timesteps)

    def sigma(time: float) -> tuple[float, int | None]:
        nearest = min(range(len(schedule)), key=lambda i: abs(schedule[i] - time))
        if abs(schedule[nearest] - time) > 1e-3:
            return time / scheduler.config.num_train_timesteps, None
        return at(scheduler.sigmas, nearest), nearest

    now, index = sigma(number(timestep))
    target = options.get("r_timestep")
    if target is not None:
        return between(now, sigma(number(target))[0])
    if index is None:
        raise ValueError(
            f"{type(scheduler).__name__}: timestep {number(timestep)} is not on the schedule, so `step` cannot tell "
            "where it lands; pass r_timestep"
        )
    return between(now, at(scheduler.sigmas, index + 1))


def reversed_time(scheduler: Any, timestep: float | Tensor, options: Mapping[str, Any]) -> Levels:
    """MiniMax H3: timesteps are 1 - sigma and the network predicts x0 - eps."""
    index = step_index(scheduler, timestep)
    return between(at(scheduler.sigmas, index), at(scheduler.sigmas, index + 1), "flow_reversed")


def helios(scheduler: Any, timestep: float | Tensor, options: Mapping[str, Any]) -> Levels:
    """Helios with one stage: counts its steps from 0 and never looks a timestep up."""
    index = scheduler._step_index or 0
    return between(at(scheduler.sigmas, index), at(scheduler.sigmas, index + 1))


def piflow_read(scheduler: Any, output: Tensor, sample: Tensor) -> Tensor:
    """The prediction for the present level: the last of PiFlow's grid, which runs from the landing level up to it."""
    return scheduler._to_grid(output, sample)[:, -1]


def piflow_write(scheduler: Any, prediction: Tensor, output: Tensor | None) -> Tensor:
    """The same prediction on the whole grid: a straight path to x0."""
    return torch.cat([prediction] * scheduler.n_grid, dim=-1)
