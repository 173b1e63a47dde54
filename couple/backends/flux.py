"""Flux: its packed latents, its two kinds of guidance, its sizes.

Flux works on tokens, shape (B, S, 4C): the 2 x 2 patches of the latent picture in reading order. An energy
that looks at places or neighbours wants the picture, shape (B, C, H, W); give it one with a view,
`trajectory.through(partial(flux.unpack, height=H, width=W))`. The default energy, a sum over elements, needs
neither: tokens and picture hold the same numbers.
"""

import inspect
from typing import Any

from torch import Tensor


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Tokens as a latent picture.

    Args:
        tokens: Shape (B, H/2 * W/2, 4C), any dtype.
        height: H, rows of the latent picture, even.
        width: W, columns of the latent picture, even.

    Returns:
        The latent picture, shape (B, C, H, W).

    Raises:
        ValueError: If the tokens do not fill such a picture.
    """
    batch, count, channels = tokens.shape
    if height % 2 or width % 2 or count * 4 != height * width or channels % 4:
        raise ValueError(
            f"{count} tokens of {channels} channels do not make a {height} x {width} latent picture: "
            f"it takes {height * width / 4:g} of a multiple of 4; height and width are those of the "
            "latents, not of the pixels."
        )
    patches = tokens.reshape(batch, height // 2, width // 2, channels // 4, 2, 2)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels // 4, height, width)


def pack(latents: Tensor) -> Tensor:
    """A latent picture, shape (B, C, H, W) with even H and W, as tokens, shape (B, H/2 * W/2, 4C)."""
    batch, channels, height, width = latents.shape
    patches = latents.reshape(batch, channels, height // 2, 2, width // 2, 2)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, height * width // 4, channels * 4)


def guidance_kwargs(pipeline: Any, scale: float) -> dict[str, Any]:
    """Call arguments that guide `pipeline` by `scale`, for any text-to-image pipeline.

    Flux-dev and its kin were distilled to take the scale as an input (`guidance_scale`). A transformer
    without that input needs real classifier-free guidance, which such pipelines do only when given a negative
    prompt as well.
    """
    takes_true_cfg = "true_cfg_scale" in inspect.signature(pipeline.__call__).parameters
    if takes_true_cfg and not pipeline.transformer.config.guidance_embeds:
        return {"true_cfg_scale": scale, "negative_prompt": ""}
    return {"guidance_scale": scale}


def size_multiple(pipeline: Any) -> int:
    """What the height and the width of a picture must be multiples of, in pixels, for any latent pipeline."""
    patch = 2 if hasattr(pipeline, "_pack_latents") else 1
    return pipeline.vae_scale_factor * patch
