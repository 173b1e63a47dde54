"""Tiny relighting editors: IC-Light by foreground and by foreground and background, Neural Gaffer. Two views each."""

import functools
import math
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, UNet2DConditionModel
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from couple.backends.ic_light import IcLightPipeline
from couple.backends.neural_gaffer import NeuralGafferPipeline
from couple.scenes.cameras import Cameras, intrinsics
from tests.tiny.building import PROMPTS, Family, clip_encoder, clip_tokenizer, module, picture
from tests.tiny.stable_diffusion import autoencoder

# The noise schedule of Stable Diffusion.
_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@functools.cache
def unet(in_channels: int) -> UNet2DConditionModel:
    """A UNet of two levels with the layout of Stable Diffusion 1.5."""
    return module(
        UNet2DConditionModel,
        sample_size=8,
        in_channels=in_channels,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=4,
        cross_attention_dim=32,
    )


@functools.cache
def image_encoder() -> CLIPVisionModelWithProjection:
    """A CLIP picture encoder of 32 pixels and 32 numbers a picture."""
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        projection_dim=32,
    )
    return module(CLIPVisionModelWithProjection, config)


def ic_light(in_channels: int, scheduler: Any) -> IcLightPipeline:
    """IC-Light with a UNet of 8 or 12 input channels."""
    return IcLightPipeline(autoencoder(), clip_encoder(), clip_tokenizer(), unet(in_channels), scheduler)


def ic_light_fc() -> IcLightPipeline:
    """IC-Light by foreground, on DDPM."""
    return ic_light(8, DDPMScheduler(**_BETAS, clip_sample=False))


def ic_light_fbc() -> IcLightPipeline:
    """IC-Light by foreground and background, on Euler."""
    return ic_light(12, EulerDiscreteScheduler(**_BETAS, timestep_spacing="trailing"))


def neural_gaffer() -> NeuralGafferPipeline:
    """Neural Gaffer, on its DDIM."""
    scheduler = DDIMScheduler(**_BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    return NeuralGafferPipeline(autoencoder(), image_encoder(), CLIPImageProcessor(), unet(16), scheduler)


def mattes() -> torch.Tensor:
    """Mattes of two pictures: a square with a soft edge, shape (2, 16, 16)."""
    alpha = torch.zeros(2, 16, 16)
    alpha[:, 3:13, 3:13] = 0.5
    alpha[:, 4:12, 4:12] = 1
    return alpha


def cameras() -> Cameras:
    """Two cameras that look at the origin along the world's +y and -x, z up."""
    ahead = torch.tensor([[1.0, 0, 0, 0], [0, 0, 1, -2], [0, -1, 0, 0], [0, 0, 0, 1]])
    aside = torch.tensor([[0.0, 0, -1, 2], [1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    return Cameras(torch.stack([ahead, aside]), intrinsics(math.radians(49), 16, 16), 16, 16)


def environment_map(k: int) -> torch.Tensor:
    """A seeded map with a bright spot, shape (8, 16, 3)."""
    radiance = torch.rand(8, 16, 3, generator=torch.Generator().manual_seed(k))
    radiance[2, 5] = 20
    return radiance


def _lit(k: int) -> dict[str, Any]:
    return {
        "prompt": PROMPTS[k],
        "images": [picture(2 * k, 16), picture(2 * k + 1, 16)],
        "alpha": mattes(),
        "num_inference_steps": 4,
        "output_type": "latent",
    }


def _gaffer(k: int) -> dict[str, Any]:
    return {
        "images": [picture(2 * k, 24), picture(2 * k + 1, 24)],
        "environment_map": environment_map(k),
        "cameras": cameras(),
        "num_inference_steps": 4,
        "output_type": "latent",
    }


FAMILIES = {
    "ic_light fc": Family(ic_light_fc, lambda k: {**_lit(k), "output_type": "np"}),
    "ic_light fbc": Family(
        ic_light_fbc, lambda k: {**_lit(k), "background": picture(k + 7, 16), "guidance_scale": 5.0}
    ),
    "neural_gaffer": Family(neural_gaffer, _gaffer),
}
