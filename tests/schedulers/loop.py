"""A plain sampling loop that can run any supported scheduler, with a denoiser for a network.

`network` turns a clean prediction into what the scheduler expects of a network, by formulas of its own, so that it
cannot share a mistake with the package.
"""

import copy
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import diffusers.schedulers
import torch
from torch import Tensor

import couple.schedulers as schedulers

STEPS = 8
STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}

_built: dict[str, Any] = {}


@dataclass(frozen=True)
class Case:
    """One scheduler class with one configuration.

    Attributes:
        name: the class.
        config: keyword arguments of its constructor.
        schedule: keyword arguments of `set_timesteps` beside the number of steps.
        step: keyword arguments of `step` beside output, timestep, sample and generator.
        kind: "ode" or "sde" if the next state is the exact one under an oracle (up to fresh noise for "sde"), "renoise"
            if nothing but x0 survives a step, "rough" if the solver itself is only approximate for a known x0.
    """

    name: str
    config: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)
    step: dict[str, Any] = field(default_factory=dict)
    kind: str = "ode"

    def __str__(self) -> str:
        settings = {**self.config, **self.schedule, **self.step}
        settings = {k: v for k, v in settings.items() if k not in STABLE_DIFFUSION}
        return " ".join([self.name.removesuffix("Scheduler"), *(f"{k}={v}" for k, v in settings.items())])

    def scheduler(self, steps: int | None = STEPS) -> Any:
        key = f"{self.name} {self.config}"
        if key not in _built:  # some constructors take half a second
            _built[key] = getattr(diffusers.schedulers, self.name)(**self.config)
        made = copy.deepcopy(_built[key])
        if steps is not None:
            self.set_timesteps(made, steps)
        return made

    def set_timesteps(self, scheduler: Any, steps: int) -> None:
        schedule = dict(self.schedule)
        if self.name == "SCMScheduler" and steps != 2:
            schedule["intermediate_timesteps"] = None
        if self.name == "MiniMaxH3Scheduler":
            steps += 1  # it counts the ends of its steps
        if self.name == "RePaintScheduler":
            schedule.update(jump_length=10 * steps, jump_n_sample=1)
        if self.name == "ConsistencyDecoderScheduler":
            steps = 2
        scheduler.set_timesteps(steps, **schedule)


def timesteps_of(scheduler: Any) -> Tensor:
    """The timesteps that a pipeline would loop over."""
    if type(scheduler).__name__ in ("SCMScheduler", "DDPMWuerstchenScheduler"):
        return scheduler.timesteps[:-1]
    return scheduler.timesteps


def take_step(
    case: Case, scheduler: Any, output: Tensor, i: int, sample: Tensor, generator: torch.Generator, memory: dict
) -> tuple[Tensor, Tensor | None]:
    """One stock step as a pipeline takes it; returns the next state and x0 where the scheduler reports it."""
    timesteps = timesteps_of(scheduler)
    t, options = timestep_of(scheduler, i, sample), dict(case.step)
    if "generator" in inspect.signature(scheduler.step).parameters:
        options["generator"] = generator
    if case.name == "CogVideoXDPMScheduler":
        back = timesteps[i - 1] if i > 0 else None
        following, x0 = scheduler.step(
            output, memory.get("x0"), t, back, sample, return_dict=False, generator=generator
        )
        memory["x0"] = x0
        return following, x0
    if case.name == "UnCLIPScheduler":
        options["prev_timestep"] = timesteps[i + 1] if i + 1 < len(timesteps) else None
    if case.name == "RePaintScheduler":
        options.update(original_image=torch.zeros_like(sample), mask=torch.zeros_like(sample))
    result = scheduler.step(output, t, sample, **options)
    return result.prev_sample, getattr(result, "pred_original_sample", None)


def timestep_of(scheduler: Any, i: int, sample: Tensor) -> Tensor:
    t = timesteps_of(scheduler)[i]
    return t.expand(sample.shape[0]) if type(scheduler).__name__ == "DDPMWuerstchenScheduler" else t


def levels_of(case: Case, scheduler: Any, i: int, sample: Tensor) -> schedulers.Levels:
    options = dict(case.step)
    if case.name == "UnCLIPScheduler":
        timesteps = timesteps_of(scheduler)
        options["prev_timestep"] = timesteps[i + 1] if i + 1 < len(timesteps) else None
    return schedulers.levels(scheduler, timestep_of(scheduler, i, sample), **options)


def network(case: Case, scheduler: Any, i: int, x0: Tensor, x: Tensor, alpha: float, sigma: float) -> Tensor:
    """What a network that knows x0 returns for the state x = alpha x0 + sigma eps."""
    config, name = scheduler.config, case.name
    eps = (x - alpha * x0) / sigma
    kind = config.get("prediction_type", "epsilon")
    if name in ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler", "CosineDPMSolverMultistepScheduler"):
        data = config.sigma_data
        skip, out = data**2 / (sigma**2 + data**2), sigma * data / math.sqrt(sigma**2 + data**2)
        return (x0 - skip * x) / (-out if kind == "v_prediction" else out)
    if name == "CMStochasticIterativeScheduler":
        skip, out = scheduler.get_scalings_for_boundary_condition(torch.tensor(sigma, dtype=torch.float64))
        return (x0 - skip * x) / out
    if name == "ConsistencyDecoderScheduler":
        t = scheduler.timesteps[i]
        return (x0 - scheduler.c_skip[t] * x) / scheduler.c_out[t]
    if name == "SCMScheduler":
        return alpha * (eps * config.sigma_data) - sigma / config.sigma_data * x0
    if name == "IPNDMScheduler":
        return alpha * eps - sigma * x0
    if name == "MiniMaxH3Scheduler" or config.get("invert_sigmas"):
        return x0 - eps
    if name == "PiflowScheduler":
        return torch.cat([eps - x0] * config.n_grid, dim=-1)
    if name.startswith("Flow") or name.startswith("LTX") or kind == "flow_prediction":
        return eps - x0
    variance = config.get("variance_type") in ("learned", "learned_range")
    match kind:
        case "epsilon":
            return torch.cat([eps, torch.zeros_like(eps)], dim=1) if variance else eps
        case "sample":
            return x0
        case "v_prediction":
            return (alpha * eps - sigma * x0) / math.sqrt(alpha**2 + sigma**2)
    raise AssertionError(kind)


Denoiser = Callable[[Tensor, float, float], Tensor]


def run(
    case: Case,
    scheduler: Any,
    denoiser: Denoiser,
    sample: Tensor,
    *,
    nudge: dict[int, Tensor] | None = None,
    on_step: Callable[..., None] | None = None,
) -> Tensor:
    """Sample as a pipeline does, with `denoiser(x, alpha, sigma) -> x0` for a network.

    Args:
        nudge: displacement added after step i, and carried.
        on_step: called as on_step(i, levels, x, output, x_next, reported_x0).
    """
    memory: dict = {}
    generator = torch.Generator().manual_seed(5)
    for i in range(len(timesteps_of(scheduler))):
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(sample, timestep_of(scheduler, i, sample))
        levels = levels_of(case, scheduler, i, sample)
        x0 = denoiser(sample, levels.alpha, levels.sigma)
        output = network(case, scheduler, i, x0, sample, levels.alpha, levels.sigma)
        following, reported = take_step(case, scheduler, output, i, sample, generator, memory)
        if on_step is not None:
            on_step(i, levels, sample, output, following, reported)
        if nudge and i in nudge:
            following = following + nudge[i].to(following.dtype)
            schedulers.carry(scheduler, nudge[i])
        sample = following
    return sample
