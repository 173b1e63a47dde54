"""How the state of a call lies in memory, and what of an edge depends on it: sizes, masks, energies of pictures."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from couple import Trajectory, latents
from couple.backends import flux


@dataclass(frozen=True)
class unpacked:
    """A map from tokens, shape (B, S, 4C), to their latent picture, (B, C, height, width); see `flux.unpack`."""

    height: int
    width: int

    def __call__(self, tokens: Tensor) -> Tensor:
        """Make the picture."""
        return flux.unpack(tokens, self.height, self.width)


def picture_size(call: Mapping[str, Any]) -> tuple[int, int] | None:
    """The (height, width) that a call makes, in pixels: as it says, or of the picture that it edits; or None."""
    if isinstance(call.get("height"), int) and isinstance(call.get("width"), int):
        return call["height"], call["width"]
    edited = call.get("image")
    return (edited.height, edited.width) if isinstance(edited, Image.Image) else None


def made_size(pipeline: Any, call: Mapping[str, Any]) -> tuple[int, int] | None:
    """The (height, width) that a call of a pipeline makes, in pixels, where it is known for certain; or None."""
    takes = inspect.signature(type(pipeline).__call__).parameters
    if "max_area" in takes:
        return None  # It makes a size of its own near the one that it is asked for.
    if "image" in call and "height" in takes:
        return picture_size({**call, "image": None})
    if "image" in call or "height" not in takes:
        return picture_size(call)
    side = getattr(pipeline, "default_sample_size", None)
    usual = side * pipeline.vae_scale_factor if isinstance(side, int) else None
    return picture_size({name: call.get(name) or takes[name].default or usual for name in ("height", "width")})


def is_tokens(pipeline: Any) -> bool:
    """Whether the state of a pipeline, or of a class of pipelines, is a sequence of tokens."""
    return hasattr(pipeline, "_pack_latents")


def latent_size(pipeline: Any, call: Mapping[str, Any]) -> tuple[int, int] | None:
    """Rows and columns of the latent picture that a call of a pipeline makes; None where that is not known."""
    size = picture_size(call)
    scale = getattr(pipeline, "vae_scale_factor", getattr(pipeline, "vae_scale_factor_spatial", None))
    if size is None or not isinstance(scale, int):
        return None
    patch = 2 if is_tokens(pipeline) else 1
    height, width = (side // (scale * patch) * patch for side in size)
    return height, width


def is_packed_like_flux(pipeline: Any) -> bool:
    """Whether the tokens of a pipeline are 2 x 2 patches in reading order, as `flux.pack` makes them."""
    picture = torch.arange(128.0).reshape(1, 8, 4, 4)
    try:
        if hasattr(pipeline, "_patchify_latents"):
            tokens = pipeline._pack_latents(pipeline._patchify_latents(picture))
        else:
            tokens = pipeline._pack_latents(picture, *picture.shape)
    except (TypeError, RuntimeError):
        return False  # Of videos or layers.
    return torch.equal(tokens, flux.pack(picture))


def picture_of(node: Trajectory, where: str) -> unpacked | None:
    """The map that shows the state of a trajectory as a picture; None where the state is one.

    Raises:
        ValueError: how the tokens lie is not known.
    """
    if not is_tokens(node.pipeline):
        return None
    size, kind = latent_size(node.pipeline, node.call_kwargs), type(node.pipeline).__name__
    if not is_packed_like_flux(node.pipeline):
        raise ValueError(f'{where}: how tokens of {kind} make a picture is not known; write energy = "cosine".')
    if size is None:
        raise ValueError(f"{where}: the size of {node.name!r} is not known; write height and width in its call.")
    return unpacked(*size)


def masked(node: Trajectory, grey: Image.Image, as_picture: bool, where: str) -> Tensor:
    """A grey picture in the layout of a trajectory's state.

    Args:
        node: the trajectory.
        grey: of any size; white is where its edge acts.
        as_picture: whether the edge sees tokens as a picture.
        where: which file, and line.

    Returns:
        Shape (1, 1, h, w), or (1, S, 4C) for tokens; in [0, 1].

    Raises:
        ValueError: the size of the state is not known.
    """
    size = latent_size(node.pipeline, node.call_kwargs)
    if size is None:
        raise ValueError(
            f"{where}: how a mask fits {node.name!r} is known for pictures of a stated size; write height and width in "
            "its call."
        )
    pixels = torch.frombuffer(bytearray(grey.tobytes()), dtype=torch.uint8).reshape(1, 1, grey.height, grey.width)
    mask = torch.nn.functional.interpolate(pixels.float() / 255, size, mode="area")
    if as_picture or not is_tokens(node.pipeline):
        return mask
    return flux.pack(mask.expand(1, node.pipeline.transformer.config.in_channels // 4, *size))


def differences(a: Any, b: Any, as_pictures: bool) -> list[str]:
    """What keeps states of two pipelines from being compared, as far as it is known; see `couple.latents.space`."""
    if a is b:
        return []
    spaces = [latents.space(pipeline) for pipeline in (a, b)]
    if as_pictures:
        spaces = [None if one is None else replace(one, packing="picture") for one in spaces]
    one, other = spaces
    return [] if one is None or other is None else one.differences(other)
