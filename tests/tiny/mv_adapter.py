"""Tiny MV-Adapter pipelines: four views from a prompt, and from a picture too, on an SD 2.1 and an SDXL shape."""

import functools
from typing import Any

from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler

from couple.backends.mv_adapter import (
    MultiViewUNet,
    MVAdapterPipeline,
    MVAdapterXLPipeline,
    ReferenceUNet,
    rig,
    shifted,
)
from couple.backends.mv_adapter.loading import camera_encoder
from tests.tiny.building import PROMPTS, Family, clip_encoder, clip_tokenizer, module, picture

_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
_AZIMUTHS = (0, 90, 180, 270)


@functools.cache
def autoencoder() -> AutoencoderKL:
    """An autoencoder that shrinks the side eight times, as the camera encoder does."""
    return module(
        AutoencoderKL,
        latent_channels=4,
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )


@functools.cache
def unet(reference: bool) -> MultiViewUNet:
    """A UNet of the SD 2.1 shape: attention above, none on the last level."""
    return module(
        ReferenceUNet if reference else MultiViewUNet,
        sample_size=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=(2, 4),
        cross_attention_dim=32,
        use_linear_projection=True,
    )


@functools.cache
def unet_xl(reference: bool) -> MultiViewUNet:
    """A UNet of the SDXL shape: no attention on the first level, two blocks of it below, added embeddings."""
    return module(
        ReferenceUNet if reference else MultiViewUNet,
        sample_size=8,
        block_out_channels=(8, 16, 16),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(1, 2, 2),
        transformer_layers_per_block=(1, 1, 2),
        cross_attention_dim=64,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 32,
    )


def sd21(scheduler: Any, reference: bool) -> MVAdapterPipeline:
    """MV-Adapter on Stable Diffusion 2.1."""
    return MVAdapterPipeline(
        vae=autoencoder(),
        text_encoder=clip_encoder(),
        tokenizer=clip_tokenizer(),
        unet=unet(reference),
        adapter=module(camera_encoder, unet(reference)),
        scheduler=shifted(scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl(reference: bool) -> MVAdapterXLPipeline:
    """MV-Adapter on SDXL, Euler."""
    return MVAdapterXLPipeline(
        vae=autoencoder(),
        text_encoder=clip_encoder(),
        text_encoder_2=clip_encoder(projection_dim=32),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=unet_xl(reference),
        adapter=module(camera_encoder, unet_xl(reference)),
        scheduler=shifted(EulerDiscreteScheduler(**_BETAS, timestep_spacing="leading", steps_offset=1)),
    )


def _t2mv_sd21() -> MVAdapterPipeline:
    return sd21(DDIMScheduler(**_BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1), reference=False)


def _i2mv_sd21() -> MVAdapterPipeline:
    return sd21(DDPMScheduler(**_BETAS, clip_sample=False, steps_offset=1), reference=True)


def _t2mv_sdxl() -> MVAdapterXLPipeline:
    return sdxl(reference=False)


def _i2mv_sdxl() -> MVAdapterXLPipeline:
    return sdxl(reference=True)


def _text(k: int, size: int) -> dict[str, Any]:
    return {
        "prompt": PROMPTS[k],
        "negative_prompt": "blur",
        "cameras": rig(_AZIMUTHS, height=size, width=size),
        "num_inference_steps": 3,
        "output_type": "latent",
    }


FAMILIES = {
    "mv_adapter t2mv sd21": Family(_t2mv_sd21, lambda k: {**_text(k, 32), "output_type": "np"}),
    "mv_adapter i2mv sd21": Family(_i2mv_sd21, lambda k: {**_text(k, 32), "image": picture(k)}),
    "mv_adapter t2mv sdxl": Family(_t2mv_sdxl, lambda k: _text(k, 64)),
    "mv_adapter i2mv sdxl": Family(_i2mv_sdxl, lambda k: {**_text(k, 64), "image": picture(k, 64)}),
}
