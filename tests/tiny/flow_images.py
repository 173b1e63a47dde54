"""Tiny transformer pipelines for pictures: Flux, Flux Kontext, Flux2 Klein, SD3, QwenImage, Sana, PixArt."""

from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxKontextPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)

from tests.tiny.building import (
    PROMPTS,
    Family,
    clip_encoder,
    clip_tokenizer,
    embeds,
    module,
    picture,
    t5_encoder,
    t5_tokenizer,
)
from tests.tiny.stable_diffusion import autoencoder

_STEPS = {"num_inference_steps": 3, "output_type": "latent"}


def _flux_parts() -> dict[str, Any]:
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        "vae": autoencoder(
            4, shift_factor=0.1159, scaling_factor=0.3611, use_quant_conv=False, use_post_quant_conv=False
        ),
        "text_encoder": clip_encoder(),
        "tokenizer": clip_tokenizer(),
        "text_encoder_2": t5_encoder(),
        "tokenizer_2": t5_tokenizer(),
        "transformer": module(
            FluxTransformer2DModel,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            guidance_embeds=True,
            axes_dims_rope=(4, 4, 8),
        ),
    }


def flux() -> FluxPipeline:
    """Flux: packed tokens, ids without a batch axis, embedded guidance, dynamic shift."""
    return FluxPipeline(**_flux_parts())


def flux_kontext() -> FluxKontextPipeline:
    """Flux Kontext: the reference picture's tokens follow the state's and are cut off again."""
    return FluxKontextPipeline(**_flux_parts())


def flux2_klein() -> Flux2KleinPipeline:
    """Flux2 Klein: ids with a batch axis, guidance in two forwards, an autoencoder with a batch norm."""
    return Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=module(
            AutoencoderKLFlux2,
            latent_channels=4,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=8,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
        ),
        text_encoder=None,
        tokenizer=None,
        transformer=module(
            Flux2Transformer2DModel,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            timestep_guidance_channels=16,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        ),
    )


def sd3() -> StableDiffusion3Pipeline:
    """Stable Diffusion 3: joint attention, guidance on a doubled batch, embeddings given."""
    return StableDiffusion3Pipeline(
        transformer=module(
            SD3Transformer2DModel,
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=32,
            caption_projection_dim=32,
            pooled_projection_dim=48,
            pos_embed_max_size=8,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(4, shift_factor=0.0609, scaling_factor=1.5305, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        text_encoder_3=None,
        tokenizer_3=None,
    )


def qwen_image() -> QwenImagePipeline:
    """QwenImage: packed tokens, a prompt mask, true guidance with its norm rescaled, a terminal shift."""
    return QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, shift_terminal=0.02, time_shift_type="exponential"
        ),
        vae=module(
            AutoencoderKLQwenImage,
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 2],
            num_res_blocks=1,
            temperal_downsample=[False],
            latents_mean=[0.1, -0.2, 0.0, 0.3],
            latents_std=[1.0, 2.0, 1.5, 0.5],
        ),
        text_encoder=None,
        tokenizer=None,
        transformer=module(
            QwenImageTransformer2DModel,
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            axes_dims_rope=(4, 4, 8),
        ),
    )


def sana() -> SanaPipeline:
    """Sana: linear attention, a deep-compression autoencoder, DPM-Solver++ on flow."""
    return SanaPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=module(
            AutoencoderDC,
            latent_channels=4,
            attention_head_dim=2,
            encoder_block_types=("ResBlock", "EfficientViTBlock"),
            decoder_block_types=("ResBlock", "EfficientViTBlock"),
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            encoder_layers_per_block=(1, 1),
            decoder_layers_per_block=(1, 1),
            encoder_qkv_multiscales=((), (5,)),
            decoder_qkv_multiscales=((), (5,)),
            downsample_block_type="conv",
            upsample_block_type="interpolate",
            scaling_factor=0.41407,
        ),
        transformer=module(
            SanaTransformer2DModel,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=32,
            sample_size=16,
        ),
        scheduler=DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    )


def pixart_sigma() -> PixArtSigmaPipeline:
    """PixArt sigma: a transformer with learned variance, whose extra channels the pipeline cuts off."""
    return PixArtSigmaPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=t5_encoder(),
        vae=autoencoder(),
        transformer=module(
            PixArtTransformer2DModel,
            sample_size=8,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=3,
            cross_attention_dim=24,
            caption_channels=32,
            in_channels=4,
            out_channels=8,
        ),
        scheduler=DPMSolverMultistepScheduler(),
    )


def _flux_call(k: int) -> dict[str, Any]:
    return {**_STEPS, "prompt": PROMPTS[k], "height": 16, "width": 16, "max_sequence_length": 24}


def _embedded(k: int, size: int = 16) -> dict[str, Any]:
    return {
        **_STEPS,
        "prompt_embeds": embeds(k, 1, 6, 32),
        "negative_prompt_embeds": embeds(99, 1, 6, 32),
        "height": size,
        "width": size,
    }


def _sd3_call(k: int) -> dict[str, Any]:
    pooled = {"pooled_prompt_embeds": embeds(k, 1, 48), "negative_pooled_prompt_embeds": embeds(99, 1, 48)}
    return {**_embedded(k), **pooled}


def _qwen_call(k: int) -> dict[str, Any]:
    mask = torch.ones(1, 6, dtype=torch.long)
    return {**_embedded(k), "prompt_embeds_mask": mask, "negative_prompt_embeds_mask": mask}


def _sana_call(k: int) -> dict[str, Any]:
    mask = torch.ones(1, 6, dtype=torch.long)
    masks = {"prompt_attention_mask": mask, "negative_prompt_attention_mask": mask, "negative_prompt": None}
    return {**_embedded(k, 32), **masks, "use_resolution_binning": False}


def _pixart_call(k: int) -> dict[str, Any]:
    return {**_flux_call(k), "clean_caption": False, "use_resolution_binning": False}


def _kontext_call(k: int) -> dict[str, Any]:
    return {**_flux_call(k), "image": picture(k, 16), "_auto_resize": False, "max_area": 256}


FAMILIES = {
    "flux": Family(flux, lambda k: {**_flux_call(k), "output_type": "pt"}),
    "flux_kontext": Family(flux_kontext, _kontext_call),
    "flux2_klein": Family(flux2_klein, _embedded),
    "sd3": Family(sd3, _sd3_call),
    "qwen_image": Family(qwen_image, _qwen_call),
    "sana": Family(sana, _sana_call),
    "pixart_sigma": Family(pixart_sigma, _pixart_call),
}
