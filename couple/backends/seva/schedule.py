"""The noise levels Stable Virtual Camera knows, and two schedulers that drive it.

The network is an ordinary variance-preserving epsilon model with an unusual table: 1000 levels from 0.025 to 84.9
(noise over signal), those of a scaled-linear schedule with 2.4 added to log sigma. What it is fed as a timestep is
the index of a level, 0 for the cleanest. Any scheduler can drive it: the level of the state is looked up in the table.
"""

from __future__ import annotations

import bisect
import math

import numpy as np
from diffusers import DDPMScheduler, EulerDiscreteScheduler


def _table() -> tuple[float, ...]:
    betas = np.linspace(math.sqrt(5e-6), math.sqrt(0.012), 1000) ** 2
    squares = np.cumprod(1 - betas)
    return tuple((np.sqrt((1 - squares) / squares) * math.exp(2.4)).tolist())


#: The 1000 noise levels sigma / alpha, ascending.
SIGMAS = _table()


def nearest_index(sigma: float) -> int:
    """Return the index of the level nearest to `sigma`, a noise-to-signal ratio sigma / alpha."""
    after = min(max(bisect.bisect_left(SIGMAS, sigma), 1), len(SIGMAS) - 1)
    return after if SIGMAS[after] - sigma < sigma - SIGMAS[after - 1] else after - 1


def native_sigmas(num_inference_steps: int) -> list[float]:
    """Return the official levels of a run, descending, with 0 at the end, for `pipeline(..., sigmas=...)`."""
    indices = np.linspace(len(SIGMAS) - 1, 0, num_inference_steps, endpoint=False).astype(int)
    return [*(SIGMAS[i] for i in indices), 0.0]


def native_scheduler() -> EulerDiscreteScheduler:
    """Make the scheduler the model was published with: Euler over its own 1000 levels, starting at 84.9.

    Its own spacing gives the official levels where the number of steps divides 1000, as the usual 50 do, as exactly
    as the scheduler's float32 tables can; `sigmas=native_sigmas(n)` gives them for any number, to the last bit. The
    official sampler also adds 1e-6 to every level, which is left out.
    """
    squares = 1 / (1 + np.square(SIGMAS))
    betas = 1 - squares / np.concatenate([[1.0], squares[:-1]])
    return EulerDiscreteScheduler(trained_betas=betas.tolist(), timestep_spacing="trailing")


def shared_scheduler() -> DDPMScheduler:
    """Make the scheduler for coupling with Stable Diffusion: its betas, and ancestral (DDPM) steps.

    A pull compares clean predictions, and those of two models say the same kind of thing only at equal noise. Stable
    Diffusion was trained up to a noise-to-signal ratio of 14.6, and 19 of the 50 native steps of Stable Virtual Camera
    are noisier: there the other model has never seen a state like it. So both run on Stable Diffusion's levels. The
    first, timestep 999, is level 620 of this model, which then never sees the noisiest 379 of its levels; what that
    costs in quality on the published weights is not known. Give both pipelines a scheduler made here, or take another
    class with the same levels: `DDIMScheduler.from_config(shared_scheduler().config)`.
    """
    return DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        timestep_spacing="trailing",
        steps_offset=1,  # without effect here, but StableDiffusionPipeline warns if it is not as published
    )
