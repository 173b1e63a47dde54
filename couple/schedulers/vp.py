"""Levels of the variance preserving schedulers, alpha^2 + sigma^2 = 1.

TrigFlow is among them, in units of sigma_data. Most of the others keep a table of alphas_cumprod = alpha^2 by
training timestep and differ in how they find the timestep that a step lands on.
"""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from couple.schedulers.convention import Levels, Relation
from couple.schedulers.reading import at, number, numbers, step_index

PREDICTIONS = {
    "epsilon": "epsilon",
    "sample": "sample",
    "original_sample": "sample",
    "v_prediction": "v_prediction",
    "flow_prediction": "flow",
}


def prediction(scheduler: Any) -> str:
    """The scheduler's `prediction_type` in this package's words; one that has none predicts epsilon."""
    return PREDICTIONS[scheduler.config.get("prediction_type", "epsilon")]


def from_squares(scheduler: Any, square: float, square_next: float, completes: bool = True) -> Levels:
    """Levels from alpha^2 before and after the step."""
    return Levels(
        math.sqrt(square),
        math.sqrt(1.0 - square),
        math.sqrt(square_next),
        math.sqrt(1.0 - square_next),
        prediction(scheduler),
        completes,
    )


def stride(scheduler: Any) -> int:
    """Training timesteps per sampling step, as DDIM counts them."""
    if scheduler.num_inference_steps is None:
        raise ValueError(
            f"{type(scheduler).__name__} has no schedule yet; call scheduler.set_timesteps(num_inference_steps) first"
        )
    return scheduler.config.num_train_timesteps // scheduler.num_inference_steps


def ddpm(scheduler: Any, timestep: float | Tensor, options: Mapping[str, Any]) -> Levels:
    """DDPM: lands on the next entry of `timesteps`, and on alpha = 1 after the last."""
    t = int(number(timestep))
    if scheduler.custom_timesteps or scheduler.num_inference_steps:
        schedule = numbers(scheduler.timesteps)
        following = schedule.index(t) + 1 if t in schedule else len(schedule)
        landing = schedule[following] if following < len(schedule) else -1
    else:
        landing = t - 1
    table = numbers(scheduler.alphas_cumprod)
    return from_squares(scheduler, table[t], table[int(landing)] if landing >= 0 else 1.0)


def ddim(scheduler: Any, timestep: float | Tensor, options: Mapping[str, Any]) -> Levels:
    """DDIM and its relatives: land a fixed stride lower, which need not be the next entry of `timesteps`."""
    t = int(number(timestep))
    table = numbers(scheduler.alphas_cumprod)
    landing = t - stride(scheduler)
    return from_squares(scheduler, table[t], table[landing] if landing >= 0 else float(scheduler.final_alpha_cumprod))


def unclip(scheduler: Any, timestep: float | Tensor, options: Mapping[str, Any]) -> Levels:
    """UnCLIP: lands on the `prev_timestep` given to `step`, one training timestep lower if none is given."""
    t = int(number(timestep))
    table = numbers(scheduler.alphas_cumprod)
    given = options.get("prev_timestep")
    landing = t - 1 if given is None else int(number(given))
    return from_squares(scheduler, table[t], table[landing] if landing >= 0 else 1.0)


def lcm(scheduler: Any, timestep: float | Tensor, options: Mapping[str, Any]) -> Levels:
    """LCM: the last of `num_inference_steps` returns the clean sample, the others the next entry of `timesteps`."""
    index, t = _place(scheduler, timestep)
    table, schedule = numbers(scheduler.alphas_cumprod), numbers(scheduler.timesteps)
    if index == scheduler.num_inference_steps - 1:
        return from_squares(scheduler, table[t], 1.0)
    # Beyond its schedule LCM renews the noise at the level it is on.
    landing = int(schedule[index + 1]) if index + 1 < len(schedule) else t
    return from_squares(scheduler, table[t], table[landing])


def tcd(scheduler: Any, timestep: float | Tensor, options: Mapping[str, Any]) -> Levels:
    """TCD: lands on the next entry of `timesteps`, after the last on timestep 0, where sigma is not quite 0."""
    index, t = _place(scheduler, timestep)
    table, schedule = numbers(scheduler.alphas_cumprod), numbers(scheduler.timesteps)
    landing = int(schedule[index + 1]) if index + 1 < len(schedule) else 0
    return from_squares(scheduler, table[t], table[landing])


def wuerstchen(scheduler: Any, timestep: float | Tensor, options: Mapping[str, Any]) -> Levels:
    """DDPM of Wuerstchen and Stable Cascade: a cosine schedule over t in [0, 1]; the last step adds no noise."""
    t = number(timestep)
    schedule = numbers(scheduler.timesteps)
    nearest = min(range(len(schedule)), key=lambda i: abs(schedule[i] - t))
    landing = at(scheduler.timesteps, nearest + 1)

    def square(time: float) -> float:
        scaler, s = scheduler.config.scaler, scheduler.config.s
        if scaler > 1:
            time = 1.0 - (1.0 - time) ** scaler
        elif scaler < 1:
            time = time**scaler
        angle, first = (time + s) / (1.0 + s) * math.pi / 2, s / (1.0 + s) * math.pi / 2
        return min(max(math.cos(angle) ** 2 / math.cos(first) ** 2, 1e-4), 0.9999)

    before, after = square(t), square(landing)
    sigma_next = math.sqrt(1.0 - after) if landing > 0 else 0.0
    return Levels(math.sqrt(before), math.sqrt(1.0 - before), math.sqrt(after), sigma_next, "epsilon")


def consistency_decoder(scheduler: Any, timestep: float | Tensor, options: Mapping[str, Any]) -> Levels:
    """The two-step consistency decoder of DALL-E 3's autoencoder."""
    t = int(number(timestep))
    alphas, sigmas = numbers(scheduler.sqrt_alphas_cumprod), numbers(scheduler.sqrt_one_minus_alphas_cumprod)
    schedule = numbers(scheduler.timesteps)
    following = schedule.index(t) + 1
    if following == len(schedule):
        return Levels(alphas[t], sigmas[t], 1.0, 0.0, "preconditioned")
    landing = int(schedule[following])
    return Levels(alphas[t], sigmas[t], alphas[landing], sigmas[landing], "preconditioned")


def consistency_decoder_relation(scheduler: Any, timestep: float | Tensor, levels: Levels) -> Relation:
    """x0 = c_skip x + c_out m, from the scheduler's tables."""
    t = int(number(timestep))
    return 1.0, numbers(scheduler.c_skip)[t], numbers(scheduler.c_out)[t]


def ipndm(scheduler: Any, timestep: float | Tensor, options: Mapping[str, Any]) -> Levels:
    """IPNDM: `betas` holds sigma itself, and the network predicts v."""
    index = step_index(scheduler, timestep)
    alphas, sigmas = scheduler.alphas, scheduler.betas
    return Levels(at(alphas, index), at(sigmas, index), at(alphas, index + 1), at(sigmas, index + 1), "v_prediction")


def trigflow(scheduler: Any, timestep: float | Tensor, options: Mapping[str, Any]) -> Levels:
    """SCM: x = cos(t) x0 + sin(t) z with z of standard deviation sigma_data (Lu & Song 2024)."""
    index = step_index(scheduler, timestep)
    now, landing = at(scheduler.timesteps, index), at(scheduler.timesteps, index + 1)
    scale = scheduler.config.sigma_data
    return Levels(math.cos(now), math.sin(now) * scale, math.cos(landing), math.sin(landing) * scale, "trigflow")


def trigflow_relation(scheduler: Any, timestep: float | Tensor, levels: Levels) -> Relation:
    """x0 = cos(t) x - sin(t) m."""
    return 1.0, levels.alpha, -levels.sigma / scheduler.config.sigma_data


def _place(scheduler: Any, timestep: float | Tensor) -> tuple[int, int]:
    """Step index and training timestep; a timestep on a device is looked up in the schedule instead of awaited."""
    index = step_index(scheduler, timestep)
    schedule = numbers(scheduler.timesteps)
    if isinstance(timestep, Tensor) and timestep.device.type != "cpu" and index < len(schedule):
        return index, int(schedule[index])
    return index, int(number(timestep))
