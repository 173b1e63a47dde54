"""Which scheduler classes and settings cannot be coupled, why, and what to use instead."""

from typing import Any

from couple.schedulers.support import SUPPORTED, Support

_TOKENS = "its state is discrete tokens, which have no alpha x0 + sigma eps to pull on", "a model in a continuous space"
_INVERSION = "it runs from data to noise"

REFUSED: dict[str, tuple[str, str]] = {
    "AmusedScheduler": _TOKENS,
    "BlockRefinementScheduler": _TOKENS,
    "DiscreteDDIMScheduler": _TOKENS,
    "EntropyBoundScheduler": _TOKENS,
    "VQDiffusionScheduler": _TOKENS,
    "DDIMInverseScheduler": (_INVERSION, "DDIMScheduler, in the sampling that follows the inversion"),
    "DPMSolverMultistepInverseScheduler": (
        _INVERSION,
        "DPMSolverMultistepScheduler, in the sampling that follows the inversion",
    ),
    "KarrasVeScheduler": (
        "its `step` takes two sigmas and no timestep, and `step_correct` then starts over from the state before it",
        "EDMEulerScheduler or HeunDiscreteScheduler",
    ),
    "ScoreSdeVeScheduler": (
        "it has no `step`: `step_pred` and `step_correct` take turns",
        "EulerAncestralDiscreteScheduler",
    ),
    "ScoreSdeVpScheduler": ("it has no `step`, only `step_pred`", "DDPMScheduler"),
    "HeliosDMDScheduler": (
        "its sigmas count from the start to the end of a stage, not from noise to data, and `step` is handed its noise",
        "HeliosScheduler with stages=1",
    ),
    "RFD4ProteinaScheduler": (
        "it rescales the score to sample at a lowered temperature, so its state is not at the level of its timestep",
        "FlowMatchEulerDiscreteScheduler",
    ),
}


def support(scheduler: Any) -> Support:
    """How `scheduler` is read.

    Raises:
        TypeError: it is a class.
        NotImplementedError: the class cannot be coupled or is unknown; the message names it, says why and what to use.
    """
    if isinstance(scheduler, type):
        made = f"{scheduler.__name__}()"
        raise TypeError(f"the scheduler is the class {scheduler.__name__}, not a scheduler. Did you mean {made}?")
    name = type(scheduler).__name__
    for base in type(scheduler).__mro__:
        if base.__name__ in SUPPORTED:
            return SUPPORTED[base.__name__]
        if base.__name__ in REFUSED:
            reason, instead = REFUSED[base.__name__]
            raise NotImplementedError(f"{name} cannot be coupled: {reason}. Use {instead}.")
    raise NotImplementedError(
        f"{name} is not a scheduler that couple knows, so it cannot tell the noise levels of its steps. Derive it from "
        "the class whose state it shares: DDIMScheduler (variance preserving), EulerDiscreteScheduler (variance "
        "exploding) or FlowMatchEulerDiscreteScheduler (flow). `python -m couple.schedulers` lists all that are known."
    )


def check(scheduler: Any) -> None:
    """Refuse a scheduler, or a setting of it, that cannot be coupled; call it before anything slow.

    Args:
        scheduler: a diffusers scheduler, or one derived from it; it need not have a schedule yet.

    Raises:
        TypeError: it is a class.
        NotImplementedError: the class is refused or unknown.
        ValueError: a setting makes the levels or x0 undefined.
    """
    kind, name, config = support(scheduler), type(scheduler).__name__, scheduler.config
    given = config.get("prediction_type")
    if kind.predictions and given not in kind.predictions:
        raise ValueError(
            f"{name} with prediction_type={given!r} cannot be coupled: its step takes {' or '.join(kind.predictions)}. "
            f"Use {name}.from_config(scheduler.config, prediction_type={kind.predictions[0]!r})."
        )
    if given == "flow_prediction" and not config.get("use_flow_sigmas"):
        raise ValueError(
            f"{name} with prediction_type='flow_prediction' needs flow sigmas, or its x0 is wrong. "
            f"Use {name}.from_config(scheduler.config, use_flow_sigmas=True)."
        )
    _check_zero_snr(scheduler)
    _check_flow_sigmas(scheduler)
    renoises = config.get("stochastic_sampling") or _is(scheduler, "FlowMatchLCMScheduler")
    if config.get("invert_sigmas") and renoises:
        raise ValueError(
            f"{name} with invert_sigmas=True draws new noise with sigma and 1 - sigma exchanged, so its state is at no "
            f"known level. Use {name}.from_config(scheduler.config, invert_sigmas=False)."
        )
    if getattr(scheduler, "_scale_factors", None):
        raise ValueError(
            f"{name} with scale_factors changes the size of the state between steps, so a pull would not fit it. "
            "Use scale_factors=None."
        )
    if config.get("stages", 1) != 1 or config.get("scheduler_type", "euler") == "dmd":
        raise ValueError(
            f"{name} with stages={config.stages} and scheduler_type={config.scheduler_type!r} counts its sigmas from "
            "the start to the end of a stage, not from noise to data. Use stages=1 and scheduler_type='unipc'."
        )


def _is(scheduler: Any, *names: str) -> bool:
    return any(base.__name__ in names for base in type(scheduler).__mro__)


def _check_zero_snr(scheduler: Any) -> None:
    table, name, config = getattr(scheduler, "alphas_cumprod", None), type(scheduler).__name__, scheduler.config
    starts_at_end = config.get("timestep_spacing") != "leading" or _is(scheduler, "LCMScheduler", "TCDScheduler")
    if table is not None and config.get("prediction_type") == "epsilon" and starts_at_end and float(table[-1]) == 0.0:
        raise ValueError(
            f"{name} with rescale_betas_zero_snr=True starts at alpha = 0, where prediction_type='epsilon' says "
            "nothing about x0 and the first step is NaN. Use prediction_type='v_prediction' with a model trained for "
            "it, or rescale_betas_zero_snr=False."
        )


def _check_flow_sigmas(scheduler: Any) -> None:
    name, config = type(scheduler).__name__, scheduler.config
    if not config.get("use_flow_sigmas"):
        return
    tables = ["use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas", "use_karras_sigmas"]
    if _is(scheduler, "UniPCMultistepScheduler"):
        tables.remove("use_karras_sigmas")  # the one combination that diffusers converts
    for table in tables:
        if config.get(table):
            raise ValueError(
                f"{name} with use_flow_sigmas=True and {table}=True takes VE sigmas, which pass 1, for flow sigmas. "
                f"Use {name}.from_config(scheduler.config, {table}=False)."
            )
