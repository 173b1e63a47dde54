"""The reference picture of i2mv: how it is framed, and what is accepted as one."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

_GREY = (127, 127, 127, 255)
_FILLED = 0.9


def framed(image: Image.Image, height: int, width: int) -> Image.Image:
    """A cut-out object as the published adapters expect it: centred on grey, filling nine tenths of the picture.

    Args:
        image: with an alpha channel, 0 outside the object.
        height: rows of the result, in pixels.
        width: columns of the result.

    Returns:
        An RGB picture.

    Raises:
        ValueError: the picture has no alpha channel, or is transparent everywhere.
    """
    if "A" not in image.getbands():
        raise ValueError(f"the picture has mode {image.mode} and no alpha channel; cut the object out first.")
    image = image.convert("RGBA")
    box = image.getchannel("A").getbbox()
    if box is None:
        raise ValueError("the picture is transparent everywhere; there is no object to frame.")
    cut = image.crop(box)
    scale = _FILLED * min(height / cut.height, width / cut.width)
    cut = cut.resize((max(1, int(cut.width * scale)), max(1, int(cut.height * scale))), Image.Resampling.BICUBIC)
    canvas = Image.new("RGBA", (width, height), _GREY)
    canvas.alpha_composite(cut, ((width - cut.width) // 2, (height - cut.height) // 2))
    return canvas.convert("RGB")


def check_reference(image: Any, height: int, width: int, latent_size: tuple[int, int]) -> None:
    """Raise unless `image` is one picture, or one set of latents of `latent_size`.

    Raises:
        TypeError: it is neither a PIL picture, nor an array, nor a tensor.
        ValueError: there are several pictures, it has an alpha channel or a wrong shape.
    """
    if isinstance(image, list | tuple):
        if len(image) != 1:
            raise ValueError(f"`image` has {len(image)} pictures; all views share one reference: image=images[0].")
        image = image[0]
    if isinstance(image, Image.Image):
        if "A" in image.getbands():
            raise ValueError(
                f"`image` has mode {image.mode}; put the object on grey first: image=framed(image, {height}, {width})."
            )
        return
    if not isinstance(image, Tensor | np.ndarray):
        raise TypeError(f"`image` is a {type(image).__name__}; give a PIL picture, an array or a tensor.")
    shape = tuple(image.shape)
    if len(shape) == 4 and shape[0] != 1:
        raise ValueError(f"`image` has shape {shape}: {shape[0]} pictures; all views share one: image=image[:1].")
    if isinstance(image, Tensor):
        latents = (1, 4, *latent_size)
        if shape not in (latents, latents[1:]) and (len(shape) not in (3, 4) or shape[-3] != 3):
            raise ValueError(
                f"`image` has shape {shape}; give a picture of shape (1, 3, H, W) in [0, 1] or latents of shape "
                f"{latents}."
            )
    elif len(shape) not in (3, 4) or shape[-1] != 3:
        raise ValueError(f"`image` has shape {shape}; an array is a picture of shape (H, W, 3) in [0, 1].")
