"""What Magic Fixup's networks see of a coarse edit: pictures without holes, and where the holes were.

The authors fill holes by OpenCV's inpainting before they encode; the network knows from the mask not to trust it.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

#: Side of the square by which holes are widened, in pixels, and how far around them inpainting looks.
_WIDENING, _RADIUS = 7, 3


def as_tensor(pictures: list[Image.Image] | Tensor, channels: str, name: str) -> Tensor:
    """Pictures as one float32 tensor, shape (V, C, H, W), in [0, 1].

    Args:
        pictures: V pictures of one size, or such a tensor.
        channels: "RGB" or "RGBA". Pictures are converted to RGB, but never to RGBA: an alpha has a meaning.
        name: what messages call them.

    Raises:
        TypeError: they are neither.
        ValueError: there are none, sizes differ, a mode or shape is wrong, or a number is outside [0, 1].
    """
    if isinstance(pictures, Tensor):
        if pictures.ndim != 4 or pictures.shape[1] != len(channels) or not pictures.numel():
            raise ValueError(f"`{name}` has shape {tuple(pictures.shape)}; expected (V, {len(channels)}, H, W).")
        if not pictures.is_floating_point() or not bool(((pictures >= 0) & (pictures <= 1)).all()):
            raise ValueError(f"`{name}` must hold floating-point numbers in [0, 1], e.g. {name}.float() / 255.")
        return pictures.float()
    if not isinstance(pictures, list | tuple) or not all(isinstance(picture, Image.Image) for picture in pictures):
        raise TypeError(f"`{name}` must be a list of PIL pictures or a tensor (V, {len(channels)}, H, W) in [0, 1].")
    if len({picture.size for picture in pictures}) != 1:
        sizes = ", ".join(f"{width} x {height}" for width, height in (picture.size for picture in pictures))
        raise ValueError(
            f"`{name}` must be pictures of one size, at least one; got {sizes or 'none'} (width x height)."
        )
    for i, picture in enumerate(pictures):
        if channels == "RGBA" and picture.mode != "RGBA":
            raise ValueError(
                f"`{name}[{i}]` has mode {picture.mode}; its alpha must tell content (255) from holes (0). "
                "If nothing is missing: picture.convert('RGBA')."
            )
    arrays = np.stack([np.asarray(picture.convert(channels)) for picture in pictures])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 255


def fill_holes(rgba: Tensor) -> Tensor:
    """Fill what is transparent from what is around it.

    A hole is where alpha is below one half, widened by a square of 7 pixels; it is filled by Navier-Stokes inpainting
    of radius 3 (Bertalmio et al. 2001) on 8-bit colours. All pictures become 8-bit, those without holes too.

    Args:
        rgba: shape (V, 4, H, W), float32, in [0, 1].

    Returns:
        Shape (V, 3, H, W), float32, in [0, 1].

    Raises:
        ImportError: there are holes and OpenCV is not installed.
    """
    holes = functional.max_pool2d((rgba[:, 3:] < 0.5).float(), _WIDENING, stride=1, padding=_WIDENING // 2).byte()
    # The authors round down after a trip through [-1, 1], which darkens some colours by one step. Inpainting
    # amplifies it: with plain rounding, filled pixels differ by up to 8 steps from theirs.
    model_range = (rgba[:, :3] - 0.5) / 0.5
    pixels = ((model_range + 1) / 2 * 255).byte()
    filled = [_inpainted(*pair) if pair[1].any() else pair[0] for pair in zip(pixels, holes, strict=True)]
    return torch.stack(filled).float() / 255


def _inpainted(pixels: Tensor, holes: Tensor) -> Tensor:
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            "filling the holes of an edit takes OpenCV, which is not installed; run: pip install 'couple[edit]'"
        ) from error
    picture = np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy())
    result = cv2.inpaint(picture, holes[0].cpu().numpy(), _RADIUS, cv2.INPAINT_NS)
    return torch.from_numpy(result).permute(2, 0, 1).to(pixels.device)


def latent_mask(rgba: Tensor, height: int, width: int) -> Tensor:
    """Alpha at the size of the latents, shape (V, 1, height, width): sampled bilinearly, not averaged."""
    return functional.interpolate(rgba[:, 3:], (height, width), mode="bilinear", align_corners=False, antialias=False)
