"""The supported schedulers with their settings, and a plain sampling loop that can run any of them.

`CASES` holds one entry for each way of setting up a scheduler; the tests beside this file are parametrised over it.
`networks` turn a clean prediction into what the scheduler expects of a network, by formulas of their own, so that they
cannot share a mistake with the package.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import diffusers
import diffusers.schedulers
import torch
from torch import Tensor

import couple.schedulers as schedulers

STEPS = 8
ALPHAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


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
        return "-".join([self.name.removesuffix("Scheduler"), *(f"{k}={v}" for k, v in settings.items())])

    def scheduler(self, steps: int | None = STEPS) -> Any:
        made = getattr(diffusers.schedulers, self.name)(**self.config)
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
    look: bool = True,
    nudge: dict[int, Tensor] | None = None,
    on_step: Callable[..., None] | None = None,
) -> Tensor:
    """Sample as a pipeline does, with `denoiser(x, alpha, sigma) -> x0` for a network.

    Args:
        look: call `levels` at every step; if not, the levels are those of a second scheduler that runs beside.
        nudge: displacement added after step i.
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


def _cases() -> list[Case]:
    def case(name: str, kind: str = "ode", schedule: dict | None = None, step: dict | None = None, **config: Any) -> Case:
        return Case(name + "Scheduler", config, schedule or {}, step or {}, kind)

    three = ("epsilon", "sample", "v_prediction")
    spacings = ("leading", "trailing", "linspace")
    unclipped = {"clip_sample": False}
    zero_snr = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    tables = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
    made = []
    for name, kind in (("DDPM", "sde"), ("DDPMParallel", "sde"), ("DDIM", "ode"), ("DDIMParallel", "ode")):
        made += [case(name, kind, prediction_type=p, timestep_spacing="trailing", **unclipped) for p in three]
        made += [case(name, kind, timestep_spacing=s, **unclipped, **ALPHAS) for s in spacings]
        made += [case(name, kind, **zero_snr, **unclipped)]
        made += [case(name, "rough", clip_sample_range=0.8), case(name, "rough", thresholding=True, sample_max_value=1.5)]
    made += [
        case("DDPM", "sde", variance_type="fixed_small_log", **unclipped),
        case("DDPM", "rough", variance_type="fixed_large", **unclipped),
        case("DDPM", "rough", variance_type="learned_range", **unclipped),
        case("DDPM", "rough", variance_type="learned_range", prediction_type="epsilon", thresholding=True),
        case("DDIM", set_alpha_to_one=False, steps_offset=1, **unclipped, **ALPHAS),
        case("DDIM", "sde", step={"eta": 1.0}, **unclipped),
        case("DDPMWuerstchen", "sde"),
        case("DDPMWuerstchen", "sde", scaler=2.0),
        case("DDPMWuerstchen", "sde", scaler=0.5),
        case("UnCLIP", "sde", clip_sample=False),
        case("UnCLIP", "sde", clip_sample=False, prediction_type="sample"),
        case("UnCLIP", "rough", clip_sample=False, variance_type="learned_range"),
        case("UnCLIP", "rough", clip_sample_range=0.8),
        case("RePaint", clip_sample=False),
        case("RePaint", "rough"),
        case("RePaint", "sde", clip_sample=False, eta=0.5),
        case("ConsistencyDecoder", "renoise"),
        case("IPNDM"),
        case("SCM", "renoise"),
        case("SCM", "renoise", schedule={"max_timesteps": 1.55}, sigma_data=1.0),
        case("Piflow"),
        case("Piflow", shift=1.0, n_grid=4),
    ]
    for name, kind in (("CogVideoXDDIM", "ode"), ("CogVideoXDPM", "sde")):
        made += [case(name, kind, prediction_type=p) for p in three]
        made += [case(name, kind, **zero_snr), case(name, kind, snr_shift_scale=1.0, timestep_spacing="linspace")]
    for name in ("LCM", "TCD"):
        made += [case(name, "renoise", prediction_type=p) for p in three]
        made += [case(name, "renoise", **zero_snr)]
    made += [
        case("LCM", "renoise", clip_sample=True, clip_sample_range=0.8),
        case("TCD", "sde", step={"eta": 0.0}),
        case("TCD", "renoise", step={"eta": 1.0}),
    ]
    made += [
        case("PNDM", "rough", skip_prk_steps=skip, prediction_type=p, **ALPHAS)
        for skip in (False, True)
        for p in ("epsilon", "v_prediction")
    ]
    made += [case("PNDM", "rough", skip_prk_steps=True, set_alpha_to_one=True, timestep_spacing="trailing", **ALPHAS)]
    ve = {
        "EulerDiscrete": ("ode", three),
        "EulerAncestralDiscrete": ("sde", ("epsilon", "v_prediction")),
        "LMSDiscrete": ("ode", three),
        "HeunDiscrete": ("ode", three),
        "KDPM2Discrete": ("ode", ("epsilon", "v_prediction")),
        "KDPM2AncestralDiscrete": ("sde", ("epsilon", "v_prediction")),
        "DPMSolverSDE": ("sde", ("epsilon", "v_prediction")),
    }
    for name, (kind, predictions) in ve.items():
        made += [case(name, kind, prediction_type=p, **ALPHAS) for p in predictions]
        made += [case(name, kind, timestep_spacing=s, steps_offset=1, **ALPHAS) for s in spacings]
        if name != "EulerAncestralDiscrete":
            made += [case(name, kind, **{table: True}, **ALPHAS) for table in tables]
    made += [
        case("EulerDiscrete", final_sigmas_type="sigma_min", **ALPHAS),
        case("EulerDiscrete", interpolation_type="log_linear", **ALPHAS),
        case("EulerDiscrete", timestep_type="continuous", use_karras_sigmas=True, prediction_type="v_prediction"),
        case("EulerDiscrete", **zero_snr),
        case("HeunDiscrete", "rough", clip_sample=True, clip_sample_range=0.8, **ALPHAS),
    ]
    for name, kind in (("EDMEuler", "ode"), ("EDMDPMSolverMultistep", "ode"), ("CosineDPMSolverMultistep", "sde")):
        made += [case(name, kind, prediction_type=p, sigma_schedule="exponential") for p in ("epsilon", "v_prediction")]
        made += [case(name, kind, sigma_schedule="karras", sigma_data=1.0, final_sigmas_type="sigma_min")]
    made += [
        case("EDMDPMSolverMultistep", algorithm_type="dpmsolver++", solver_order=3),
        case("EDMDPMSolverMultistep", "sde", algorithm_type="sde-dpmsolver++"),
        case("EDMDPMSolverMultistep", "rough", thresholding=True, sample_max_value=1.5),
        case("CMStochasticIterative", "renoise", clip_denoised=False),
        case("CMStochasticIterative", "renoise", sigma_data=1.0),
    ]
    for name in ("DPMSolverMultistep", "DPMSolverSinglestep", "DEISMultistep", "UniPCMultistep", "SASolver"):
        kind = "sde" if name == "SASolver" else "ode"
        made += [case(name, kind, prediction_type=p, **ALPHAS) for p in three]
        made += [case(name, kind, **{table: True}, **ALPHAS) for table in tables]
        made += [case(name, kind, **flow), case(name, kind, flow_shift=3.0, **flow)]
        made += [case(name, "rough", thresholding=True, sample_max_value=1.5, **ALPHAS)]
        if name != "DPMSolverSinglestep":
            made += [case(name, kind, timestep_spacing=s, **ALPHAS) for s in ("leading", "trailing")]
        if name != "SASolver":
            made += [case(name, kind, solver_order=order, **ALPHAS) for order in (1, 3)]
        if name not in ("DEISMultistep", "SASolver"):
            made += [case(name, kind, final_sigmas_type="sigma_min", **ALPHAS)]
    made += [
        case("DPMSolverMultistep", use_lu_lambdas=True, **ALPHAS),
        case("DPMSolverMultistep", euler_at_final=True, solver_type="heun", **ALPHAS),
        case("DPMSolverMultistep", algorithm_type="dpmsolver", final_sigmas_type="sigma_min", **ALPHAS),
        case("DPMSolverMultistep", "sde", algorithm_type="sde-dpmsolver++", **ALPHAS),
        case("DPMSolverMultistep", "rough", algorithm_type="sde-dpmsolver", final_sigmas_type="sigma_min", **ALPHAS),
        case("DPMSolverMultistep", variance_type="learned_range", **ALPHAS),
        case("DPMSolverMultistep", schedule={"mu": 0.7}, use_dynamic_shifting=True, **flow),
        case("DPMSolverMultistep", **zero_snr),
        case("DPMSolverSinglestep", "sde", algorithm_type="sde-dpmsolver++", **ALPHAS),
        case("DPMSolverSinglestep", lower_order_final=True, solver_order=3, solver_type="heun", **ALPHAS),
        case("UniPCMultistep", predict_x0=False, solver_type="bh1", final_sigmas_type="sigma_min", **ALPHAS),
        case("UniPCMultistep", disable_corrector=[0, 1, 3], **ALPHAS),
        case("UniPCMultistep", schedule={"mu": 0.7}, use_dynamic_shifting=True, shift_terminal=0.02, **flow),
        case("UniPCMultistep", use_karras_sigmas=True, **flow),
        case("UniPCMultistep", **zero_snr),
        case("SASolver", tau_func=None, predictor_order=3, corrector_order=3, **ALPHAS),
        case("SASolver", "rough", algorithm_type="noise_prediction", **ALPHAS),
    ]
    for name, kind in (("FlowMatchEulerDiscrete", "ode"), ("FlowMatchLCM", "renoise")):
        made += [case(name, kind), case(name, kind, shift=3.0)]
        made += [case(name, kind, **{table: True}) for table in tables]
        made += [case(name, kind, {"mu": 0.7}, use_dynamic_shifting=True, time_shift_type=s) for s in ("exponential", "linear")]
        made += [case(name, kind, shift_terminal=0.02)]
    made += [
        case("FlowMatchEulerDiscrete", "renoise", stochastic_sampling=True, shift=3.0),
        case("FlowMatchEulerDiscrete", invert_sigmas=True),
        case("FlowMatchHeunDiscrete"),
        case("FlowMatchHeunDiscrete", shift=3.0),
        case("FlowMapEulerDiscrete"),
        case("FlowMapEulerDiscrete", shift=3.0),
        case("LTXEulerAncestralRF", "sde"),
        case("LTXEulerAncestralRF", "sde", eta=0.5),
        case("LTXEulerAncestralRF", eta=0.0),
        case("MiniMaxH3"),
        case("MiniMaxH3", shift=1.0),
        case("Helios", stages=1),
        case("Helios", stages=1, scheduler_type="euler", shift=3.0),
    ]
    return made


CASES = _cases()
