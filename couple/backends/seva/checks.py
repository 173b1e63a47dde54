"""What can be wrong with the arguments of `SevaPipeline`, said in one sentence before any network runs."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from couple import schedulers
from couple.backends.output import OUTPUT_TYPES
from couple.backends.seva.schedule import SIGMAS
from couple.scenes.cameras import Cameras


def cameras(**given: Any) -> None:
    """Cameras are `Cameras`, not bare matrices."""
    for name, value in given.items():
        if not isinstance(value, Cameras):
            kind = type(value).__name__
            raise TypeError(f"`{name}` is a {kind}; give {name}=couple.scenes.cameras.Cameras(c2w, K, height, width).")


def pictures(images: Any, cameras: Cameras) -> None:
    """One picture per camera, each of the size its camera is for."""
    if isinstance(images, Image.Image):
        raise TypeError("`images` is one picture; give a list, [image], with one camera for each.")
    if len(images) != len(cameras):
        raise ValueError(f"{len(images)} pictures but {len(cameras)} cameras; give `cameras` one for each picture.")
    for k, image in enumerate(images):
        height, width = _size(image)
        if (height, width) != (cameras.height, cameras.width):
            raise ValueError(
                f"picture {k} has {height} x {width} pixels (height x width) but its camera is for {cameras.height} x "
                f"{cameras.width}; use cameras.resized({height}, {width}) if the picture was scaled."
            )


def _size(image: Image.Image | Tensor | np.ndarray) -> tuple[int, int]:
    if isinstance(image, Image.Image):
        return image.height, image.width
    axes = image.shape[-2:] if isinstance(image, Tensor) else image.shape[-3:-1]
    return int(axes[0]), int(axes[1])


def size(height: int, width: int, multiple: int) -> None:
    """Sides that the network can halve three times in latent space."""
    if height % multiple or width % multiple:
        fit = [max(round(side / multiple), 1) * multiple for side in (height, width)]
        raise ValueError(
            f"{height} x {width} pixels: both must be multiples of {multiple}; pass height={fit[0]}, width={fit[1]}."
        )


def views(num_inputs: int, num_views: int, num_frames: int) -> None:
    """Room for a target in every window."""
    if num_views > num_frames and num_inputs >= num_frames:
        raise ValueError(
            f"{num_inputs} input views leave no room for targets in windows of {num_frames} frames; give at most "
            f"{num_frames - 1} input views."
        )


def options(guidance: str, output_type: str, camera_scale: float) -> None:
    """Words and numbers that are known."""
    if guidance not in ("multiview", "temporal"):
        raise ValueError(f"guidance={guidance!r} is unknown; use 'multiview' or 'temporal'.")
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type={output_type!r} is unknown; use one of {', '.join(map(repr, OUTPUT_TYPES))}.")
    if not camera_scale > 0:
        raise ValueError(f"camera_scale={camera_scale} must be positive, such as camera_scale=2.0.")


def latents(given: Tensor | None, shape: tuple[int, ...]) -> None:
    """Noise for every view, padding never counted."""
    if given is not None and tuple(given.shape) != shape:
        raise ValueError(
            f"`latents` has shape {tuple(given.shape)}; expected one row per view, inputs first: torch.randn{shape}."
        )


def start(scheduler: Any) -> None:
    """A first state that is within what the network was trained on."""
    level = schedulers.levels(scheduler, scheduler.timesteps[0])
    alpha, sigma = float(level.alpha), float(level.sigma)
    if sigma > 1.01 * SIGMAS[-1] * alpha:
        raise ValueError(
            f"{type(scheduler).__name__} starts at alpha {alpha:.3g}, sigma {sigma:.3g}; the network knows none above"
            f" sigma / alpha = {SIGMAS[-1]:.1f}; set pipeline.scheduler = shared_scheduler() or native_scheduler()."
        )
