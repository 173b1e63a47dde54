"""Which scheduler classes are supported, and how each is read; the others are in `refusals`.

A scheduler is looked up by the names along its class's method resolution order, so that a subclass, a class of the
same name made at run time, and a scheduler of another library that derives from one of diffusers' are all read like
the class they come from, and diffusers itself need not be imported.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from couple.schedulers import flow, multistage, sigma, vp
from couple.schedulers.convention import Levels, Relation, relation

VP = "VP: alpha² + sigma² = 1"
VE = "VE: alpha = 1"
FLOW = "flow: alpha = 1 - sigma"
VP_OR_FLOW = "VP, or flow with `use_flow_sigmas`"
TRIGFLOW = "TrigFlow: alpha = cos t, sigma = sin t · sigma_data"

RENOISES = "draws its noise anew at every step, so a pull acts only through the next prediction"


def _plain(scheduler: Any, timestep: float | Tensor, levels: Levels) -> Relation:
    return relation(levels.prediction, levels.alpha, levels.sigma)


def _whole(scheduler: Any, output: Tensor, sample: Tensor) -> Tensor:
    return output


def _same(scheduler: Any, prediction: Tensor, output: Tensor | None) -> Tensor:
    return prediction


def _unlimited(scheduler: Any, x0: Tensor) -> Tensor:
    return x0


@dataclass(frozen=True)
class Support:
    """How the schedulers of one kind are read.

    Attributes:
        convention: the state's convention, for the table.
        levels: (scheduler, timestep, options of `step`) -> Levels.
        predictions: the `prediction_type`s its step accepts; empty if the scheduler knows only one.
        relation: (scheduler, timestep, levels) -> (a, b, c) of `convention.relation`.
        read: (scheduler, output, sample) -> the part of a network's output that is the prediction.
        write: (scheduler, prediction, output or None) -> a network's output with this prediction.
        limit: (scheduler, x0) -> x0 clipped or thresholded as the step does.
        note: what a user should know, for the table.
    """

    convention: str
    levels: Callable[[Any, float | Tensor, Mapping[str, Any]], Levels]
    predictions: tuple[str, ...] = ()
    relation: Callable[[Any, float | Tensor, Levels], Relation] = _plain
    read: Callable[[Any, Tensor, Tensor], Tensor] = _whole
    write: Callable[[Any, Tensor, Tensor | None], Tensor] = _same
    limit: Callable[[Any, Tensor], Tensor] = _unlimited
    note: str = ""


def _threshold_or_clip(scheduler: Any, x0: Tensor) -> Tensor:
    if scheduler.config.thresholding:
        return scheduler._threshold_sample(x0)
    return _clip(scheduler, x0)


def _threshold(scheduler: Any, x0: Tensor) -> Tensor:
    return scheduler._threshold_sample(x0) if scheduler.config.thresholding else x0


def _clip(scheduler: Any, x0: Tensor) -> Tensor:
    config = scheduler.config
    return x0.clamp(-config.clip_sample_range, config.clip_sample_range) if config.clip_sample else x0


def _clip_to_one(scheduler: Any, x0: Tensor) -> Tensor:
    config = scheduler.config
    clips = config.clip_denoised if "clip_denoised" in config else config.clip_sample
    return x0.clamp(-1.0, 1.0) if clips else x0


def _learned_variance(scheduler: Any) -> bool:
    return scheduler.config.variance_type in ("learned", "learned_range")


def _without_variance(scheduler: Any, output: Tensor, sample: Tensor) -> Tensor:
    if _learned_variance(scheduler) and output.shape[1] == 2 * sample.shape[1]:
        return output[:, : sample.shape[1]]
    return output


def _with_variance(scheduler: Any, prediction: Tensor, output: Tensor | None) -> Tensor:
    if not _learned_variance(scheduler):
        return prediction
    if output is None:
        # 0 is half way between the two variances that a learned range interpolates.
        return torch.cat([prediction, torch.zeros_like(prediction)], dim=1)
    return torch.cat([prediction, output[:, prediction.shape[1] :]], dim=1)


_ESV = ("epsilon", "sample", "v_prediction")
_EV = ("epsilon", "v_prediction")
_MULTISTEP = (*_ESV, "flow_prediction")

_VARIANCE = {"read": _without_variance, "write": _with_variance}

_ddpm = Support(VP, vp.ddpm, _ESV, limit=_threshold_or_clip, **_VARIANCE)
_ddim = Support(VP, vp.ddim, _ESV, limit=_threshold_or_clip)
_cogvideo = Support(VP, vp.ddim, _ESV)
_edm = Support(VE, sigma.edm, _EV, sigma.edm_relation, note="EDM preconditioning")

SUPPORTED: dict[str, Support] = {
    "DDPMScheduler": _ddpm,
    "DDPMParallelScheduler": _ddpm,
    "DDPMWuerstchenScheduler": Support(VP, vp.wuerstchen, note="predicts epsilon"),
    "DDIMScheduler": _ddim,
    "DDIMParallelScheduler": _ddim,
    "CogVideoXDDIMScheduler": _cogvideo,
    "CogVideoXDPMScheduler": _cogvideo,
    "UnCLIPScheduler": Support(
        VP, vp.unclip, ("epsilon", "sample"), limit=_clip, note="lands on the `prev_timestep` of `step`", **_VARIANCE
    ),
    "RePaintScheduler": Support(
        VP, vp.ddim, limit=_clip_to_one, note="redraws the known region at every step: a pull acts on the unknown one"
    ),
    "LCMScheduler": Support(VP, vp.lcm, _ESV, limit=_threshold_or_clip, note=RENOISES),
    "TCDScheduler": Support(VP, vp.tcd, _ESV, note="with `eta` = 1 " + RENOISES),
    "ConsistencyDecoderScheduler": Support(
        VP, vp.consistency_decoder, (), vp.consistency_decoder_relation, note=RENOISES
    ),
    "PNDMScheduler": Support(VP, multistage.pndm, _EV, note="pulled when a Runge-Kutta step completes"),
    "IPNDMScheduler": Support(VP, vp.ipndm, note="predicts v; its first step ignores the network"),
    "SCMScheduler": Support(TRIGFLOW, vp.trigflow, ("trigflow",), vp.trigflow_relation, note=RENOISES),
    "EulerDiscreteScheduler": Support(VE, sigma.variance_exploding, (*_ESV, "original_sample")),
    "EulerAncestralDiscreteScheduler": Support(VE, sigma.variance_exploding, _EV),
    "LMSDiscreteScheduler": Support(VE, sigma.variance_exploding, _ESV),
    "HeunDiscreteScheduler": Support(VE, multistage.heun, _ESV, limit=_clip, note="pulled after both stages"),
    "KDPM2DiscreteScheduler": Support(VE, multistage.kdpm2, _EV, note="pulled after both stages"),
    "KDPM2AncestralDiscreteScheduler": Support(VE, multistage.kdpm2_ancestral, _EV, note="pulled after both stages"),
    "DPMSolverSDEScheduler": Support(VE, multistage.dpm_sde, _EV, note="pulled after both stages"),
    "EDMEulerScheduler": _edm,
    "EDMDPMSolverMultistepScheduler": Support(
        VE, sigma.edm, _EV, sigma.edm_relation, limit=_threshold, note="EDM preconditioning"
    ),
    "CosineDPMSolverMultistepScheduler": _edm,
    "CMStochasticIterativeScheduler": Support(
        VE, sigma.consistency, (), sigma.consistency_relation, limit=_clip_to_one, note=RENOISES
    ),
    "DPMSolverMultistepScheduler": Support(VP_OR_FLOW, sigma.multistep, _MULTISTEP, limit=_threshold, **_VARIANCE),
    "DPMSolverSinglestepScheduler": Support(
        VP_OR_FLOW,
        multistage.singlestep,
        _MULTISTEP,
        limit=_threshold,
        note="pulled when a step of all its orders completes",
        **_VARIANCE,
    ),
    "DEISMultistepScheduler": Support(VP_OR_FLOW, sigma.multistep, _MULTISTEP, limit=_threshold),
    "UniPCMultistepScheduler": Support(
        VP_OR_FLOW, sigma.multistep, _MULTISTEP, limit=_threshold, note="the pull is carried through the corrector"
    ),
    "SASolverScheduler": Support(
        VP_OR_FLOW,
        sigma.multistep,
        _MULTISTEP,
        limit=_threshold,
        note="the pull is carried through the corrector",
        **_VARIANCE,
    ),
    "FlowMatchEulerDiscreteScheduler": Support(
        FLOW, flow.euler, note="with `stochastic_sampling` " + RENOISES + "; levels per token if `step` is given them"
    ),
    "FlowMatchHeunDiscreteScheduler": Support(FLOW, multistage.flow_heun, note="pulled after both stages"),
    "FlowMatchLCMScheduler": Support(FLOW, flow.indexed, note=RENOISES),
    "FlowMapEulerDiscreteScheduler": Support(
        FLOW, flow.flow_map, note="predicts the mean velocity of a jump: x0 is the end of its straight line"
    ),
    "LTXEulerAncestralRFScheduler": Support(FLOW, flow.indexed),
    "MiniMaxH3Scheduler": Support(FLOW, flow.reversed_time, note="predicts x0 - eps instead"),
    "PiflowScheduler": Support(
        FLOW, flow.indexed, (), read=flow.piflow_read, write=flow.piflow_write, note="x0 of the present level"
    ),
    "HeliosScheduler": Support(
        FLOW, flow.helios, ("flow_prediction",), note="with one stage; the pull is carried through the corrector"
    ),
}
