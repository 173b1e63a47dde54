"""What Stable Virtual Camera sees of the input pictures: clean latents, and one token that says what they show."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing
from torch import Tensor
from transformers import CLIPVisionModelWithProjection
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD


def encode(vae: Any, pixels: Tensor) -> Tensor:
    """Latents of pictures: the mean of the posterior, scaled.

    Args:
        vae: the `AutoencoderKL`.
        pixels: shape (n, 3, H, W), in [-1, 1].

    Returns:
        Shape (n, 4, H / f, W / f), float32.
    """
    return vae.encode(pixels.to(vae.dtype)).latent_dist.mode().float() * vae.config["scaling_factor"]


def decode(vae: Any, latents: Tensor) -> Tensor:
    """Pictures of latents, shape (V, 3, H, W), float32, in [-1, 1] and a little beyond; one after the other."""
    scaled = (latents / vae.config["scaling_factor"]).to(vae.dtype)
    return torch.cat([vae.decode(view[None], return_dict=False)[0].float() for view in scaled])


def token(image_encoder: CLIPVisionModelWithProjection, pixels: Tensor) -> Tensor:
    """CLIP embedding of pictures, averaged over them.

    Args:
        image_encoder: CLIP with its projection, ViT-H/14 for the published weights.
        pixels: shape (n, 3, H, W), in [-1, 1]. They are squeezed to the encoder's square, blurred first where that
            makes them smaller, bicubic, corner pixels on corner pixels.

    Returns:
        Shape (1, 1, embedding channels), float32.
    """
    size = image_encoder.config.image_size
    small = (_resize_with_antialiasing(pixels.float(), (size, size)) + 1) / 2
    mean, std = (small.new_tensor(values).view(3, 1, 1) for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    seen = ((small - mean) / std).to(image_encoder.dtype)
    return image_encoder(seen).image_embeds.float().mean(dim=0)[None, None]
