"""Tiny UNet pipelines: SD 2.1; what stands on it (ControlNet, InstructPix2Pix, img2img, inpaint); SDXL."""

import functools
from typing import Any

from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    DDPMScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image

from tests.tiny.building import PROMPTS, Family, clip_encoder, clip_tokenizer, module, picture

_BLOCKS = {
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "attention_head_dim": (2, 4),
    "use_linear_projection": True,
}
# The noise schedule of Stable Diffusion.
_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@functools.cache
def unet(in_channels: int = 4) -> UNet2DConditionModel:
    """A UNet of two levels that listens to a 32-wide CLIP encoder."""
    return module(
        UNet2DConditionModel,
        sample_size=8,
        in_channels=in_channels,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        **_BLOCKS,
    )


@functools.cache
def autoencoder(latent_channels: int = 4, **config: Any) -> AutoencoderKL:
    """An autoencoder that halves the side once."""
    return module(
        AutoencoderKL,
        latent_channels=latent_channels,
        block_out_channels=(8, 16),
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        **config,
    )


def _shared(scheduler: Any, in_channels: int = 4) -> dict[str, Any]:
    return {
        "vae": autoencoder(),
        "text_encoder": clip_encoder(),
        "tokenizer": clip_tokenizer(),
        "unet": unet(in_channels),
        "scheduler": scheduler,
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


def sd21() -> StableDiffusionPipeline:
    """Stable Diffusion 2.1: DDIM on v-predictions."""
    return StableDiffusionPipeline(
        **_shared(DDIMScheduler(**_BETAS, prediction_type="v_prediction", set_alpha_to_one=False, clip_sample=False))
    )


def controlnet() -> StableDiffusionControlNetPipeline:
    """Stable Diffusion with a ControlNet, on DDPM."""
    control = module(ControlNetModel, cross_attention_dim=32, conditioning_embedding_out_channels=(8, 16), **_BLOCKS)
    return StableDiffusionControlNetPipeline(controlnet=control, **_shared(DDPMScheduler(**_BETAS, clip_sample=False)))


def instruct_pix2pix() -> StableDiffusionInstructPix2PixPipeline:
    """InstructPix2Pix: eight input channels, guidance over three rows, ancestral Euler."""
    return StableDiffusionInstructPix2PixPipeline(**_shared(EulerAncestralDiscreteScheduler(**_BETAS), in_channels=8))


def img2img() -> StableDiffusionImg2ImgPipeline:
    """SDEdit: the start is a noised picture."""
    return StableDiffusionImg2ImgPipeline(**_shared(DDIMScheduler(**_BETAS, clip_sample=False)))


def inpaint() -> StableDiffusionInpaintPipeline:
    """Inpainting with the four-channel UNet, which pastes the known part back after every step."""
    return StableDiffusionInpaintPipeline(**_shared(DDIMScheduler(**_BETAS, clip_sample=False)))


def sdxl() -> StableDiffusionXLPipeline:
    """SDXL: two text encoders, added time ids, Euler."""
    net = module(
        UNet2DConditionModel,
        sample_size=8,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=64,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=6 * 8 + 32,
        **_BLOCKS,
    )
    return StableDiffusionXLPipeline(
        vae=autoencoder(),
        text_encoder=clip_encoder(),
        text_encoder_2=clip_encoder(projection_dim=32),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=net,
        scheduler=EulerDiscreteScheduler(**_BETAS, timestep_spacing="leading", steps_offset=1),
        add_watermarker=False,
    )


def _text(k: int) -> dict[str, Any]:
    return {"prompt": PROMPTS[k], "num_inference_steps": 4, "guidance_scale": 5.0, "output_type": "latent"}


def _sized(k: int) -> dict[str, Any]:
    return {**_text(k), "height": 16, "width": 16}


def _mask() -> Image.Image:
    mask = Image.new("L", (16, 16), 0)
    mask.paste(255, (4, 4, 12, 12))
    return mask


FAMILIES = {
    "sd21": Family(sd21, lambda k: {**_sized(k), "output_type": "np"}),
    "controlnet": Family(controlnet, lambda k: {**_sized(k), "image": picture(k, 16)}),
    "instruct_pix2pix": Family(
        instruct_pix2pix, lambda k: {**_text(k), "image": picture(k, 16), "image_guidance_scale": 1.5}
    ),
    "img2img": Family(
        img2img, lambda k: {**_text(k), "image": picture(k, 16), "strength": 0.8, "num_inference_steps": 5}
    ),
    "inpaint": Family(inpaint, lambda k: {**_sized(k), "image": picture(k, 16), "mask_image": _mask()}),
    "sdxl": Family(sdxl, _sized),
}
