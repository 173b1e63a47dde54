"""The noise schedule of MV-Adapter: the base model's, with more noise towards its end.

Views that must agree hide less from each other under noise than one picture does. MV-Adapter divides the
signal-to-noise ratio alpha² / sigma² of every timestep by up to 8.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SHIFT_SCALE = 8.0


def shifted(scheduler: Any, scale: float = SHIFT_SCALE, *, interpolated: bool = True) -> Any:
    """A scheduler like `scheduler` on the shifted noise schedule.

    Args:
        scheduler: any diffusers scheduler that is made of betas; it is not changed, and must not be shifted already.
        scale: what the signal-to-noise ratio is divided by.
        interpolated: the published adapters' schedule: the division grows from 1 at the first training timestep to
            `scale` at the last, evenly in its logarithm. False divides by `scale` everywhere.

    Returns:
        A new scheduler of the same class and settings, with `trained_betas`.

    Raises:
        ValueError: the scheduler has no betas, or already has `trained_betas`.
    """
    name = type(scheduler).__name__
    if getattr(scheduler, "betas", None) is None:
        raise ValueError(
            f"{name} is not made of betas and cannot be shifted; "
            "take e.g. DDPMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)."
        )
    if scheduler.config.get("trained_betas") is not None:
        raise ValueError(f"this {name} already has `trained_betas`; shift the base model's own scheduler, once.")
    betas = shifted_betas(scheduler.betas, scale, interpolated=interpolated)
    return type(scheduler).from_config(scheduler.config, trained_betas=betas.tolist())


def shifted_betas(betas: Tensor, scale: float, *, interpolated: bool) -> Tensor:
    """The betas, shape (T,), whose signal-to-noise ratio is that of `betas` divided as `shifted` says; float64."""
    alphas_cumprod = (1 - betas.double()).cumprod(0)
    progress = torch.linspace(0, 1, len(betas), dtype=torch.float64)
    ratio = alphas_cumprod / (1 - alphas_cumprod) / scale ** (progress if interpolated else torch.ones_like(progress))
    alphas_cumprod = ratio / (1 + ratio)
    before = torch.cat([alphas_cumprod.new_ones(1), alphas_cumprod[:-1]])
    return 1 - alphas_cumprod / before
