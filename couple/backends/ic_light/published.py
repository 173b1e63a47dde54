"""The published IC-Light: offsets of every tensor of a widened Stable Diffusion 1.5 UNet, added to a base model."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from couple.backends.checkpoint import Published, add_strictly, read_checkpoint
from couple.backends.ic_light.pipeline import IcLightPipeline
from couple.backends.relighting import widen_conv_in

#: The base model of the authors' demo.
BASE = "stablediffusionapi/realistic-vision-v51"

#: Published offsets: by foreground, the same trained with offset noise, by foreground and background.
OFFSETS = {
    variant: Published("lllyasviel/ic-light", f"iclight_sd15_{variant}.safetensors", "creativeml-openrail-m")
    for variant in ("fc", "fcon", "fbc")
}


def from_published(
    variant: str = "fc",
    *,
    base: str | Path = BASE,
    offset: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
) -> IcLightPipeline:
    """Load IC-Light.

    Args:
        variant: "fc", "fcon" or "fbc", see `OFFSETS`.
        base: any Stable Diffusion 1.5, hub id or folder.
        offset: a file of offsets; the published one of `variant` if None.
        dtype: precision of the networks. The offset is added in float32.

    Returns:
        The pipeline, on the CPU, with a DDIM scheduler on the betas of the base (scaled linear, 0.00085 to 0.012).

    Raises:
        ValueError: there is no such variant, or the offset does not fit the base; the message names the keys.
        FileNotFoundError: the offset is not on this machine and cannot be fetched.
    """
    if variant not in OFFSETS:
        raise ValueError(f"`variant` is {variant!r}; it must be one of {', '.join(OFFSETS)}.")
    path = Path(offset) if offset is not None else OFFSETS[variant].path()
    unet = UNet2DConditionModel.from_pretrained(base, subfolder="unet", dtype=torch.float32)
    widen_conv_in(unet, 12 if variant == "fbc" else 8)
    add_strictly(unet, read_checkpoint(path), source=path)
    return IcLightPipeline(
        vae=AutoencoderKL.from_pretrained(base, subfolder="vae"),
        text_encoder=CLIPTextModel.from_pretrained(base, subfolder="text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(base, subfolder="tokenizer"),
        unet=unet,
        # A base whose config was written for another class may lack what only DDIM has: latents are not clipped.
        scheduler=DDIMScheduler.from_pretrained(base, subfolder="scheduler", clip_sample=False),
    ).to(dtype)
