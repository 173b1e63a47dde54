"""Tiny video pipelines: Wan (text, two transformers, image), CogVideoX, LTX, Mochi."""

import functools
from typing import Any

from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLLTXVideo,
    AutoencoderKLMochi,
    AutoencoderKLWan,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    MochiPipeline,
    MochiTransformer3DModel,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from tests.tiny.building import PROMPTS, Family, module, picture, t5_encoder, t5_tokenizer

_STEPS = {"num_inference_steps": 3, "output_type": "latent"}


@functools.cache
def _wan_autoencoder() -> AutoencoderKLWan:
    return module(AutoencoderKLWan, base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)


def _wan_transformer(**config: Any) -> WanTransformer3DModel:
    return module(
        WanTransformer3DModel,
        **{
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "text_dim": 32,
            "freq_dim": 32,
            "ffn_dim": 32,
            "num_layers": 2,
            "rope_max_seq_len": 32,
            **config,
        },
    )


def _wan_parts() -> dict[str, Any]:
    return {
        "tokenizer": t5_tokenizer(),
        "text_encoder": t5_encoder(),
        "vae": _wan_autoencoder(),
        "scheduler": UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    }


def wan() -> WanPipeline:
    """Wan text-to-video: UniPC on flow, guidance in two forwards."""
    return WanPipeline(transformer=_wan_transformer(), **_wan_parts())


def wan_two_transformers() -> WanPipeline:
    """Wan 2.2: one transformer above the boundary noise level and another below."""
    return WanPipeline(
        transformer=_wan_transformer(),
        transformer_2=_wan_transformer(num_layers=1),
        boundary_ratio=0.8,
        **_wan_parts(),
    )


def wan_image_to_video() -> WanImageToVideoPipeline:
    """Wan image-to-video: the condition joins the state's channels and CLIP sees the picture too."""
    eyes = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=16,
        patch_size=8,
    )
    return WanImageToVideoPipeline(
        image_processor=CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16),
        image_encoder=module(CLIPVisionModel, eyes),
        transformer=_wan_transformer(in_channels=36, image_dim=32, added_kv_proj_dim=24),
        **_wan_parts(),
    )


def cogvideox() -> CogVideoXPipeline:
    """CogVideoX: frames before channels in the state, v-prediction, its own DDIM."""
    return CogVideoXPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=t5_encoder(),
        vae=module(
            AutoencoderKLCogVideoX,
            latent_channels=4,
            block_out_channels=(8, 8, 8, 8),
            layers_per_block=1,
            norm_num_groups=2,
        ),
        transformer=module(
            CogVideoXTransformer3DModel,
            in_channels=4,
            out_channels=4,
            num_attention_heads=4,
            attention_head_dim=8,
            time_embed_dim=2,
            text_embed_dim=32,
            num_layers=1,
            sample_width=2,
            sample_height=2,
            sample_frames=9,
            max_text_seq_length=24,
        ),
        scheduler=CogVideoXDDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True),
    )


def ltx() -> LTXPipeline:
    """LTX: packed video tokens, float rope over seconds, dynamic shift."""
    return LTXPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=module(
            AutoencoderKLLTXVideo,
            latent_channels=8,
            block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            layers_per_block=(1, 1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1, 1),
        ),
        text_encoder=t5_encoder(),
        tokenizer=t5_tokenizer(),
        transformer=module(
            LTXVideoTransformer3DModel,
            in_channels=8,
            out_channels=8,
            num_attention_heads=4,
            attention_head_dim=8,
            cross_attention_dim=32,
            num_layers=1,
            caption_channels=32,
        ),
    )


def mochi() -> MochiPipeline:
    """Mochi: asymmetric joint attention, inverted time."""
    return MochiPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        vae=module(
            AutoencoderKLMochi,
            latent_channels=12,
            encoder_block_out_channels=(32, 32, 32, 32),
            decoder_block_out_channels=(32, 32, 32, 32),
            layers_per_block=(1, 1, 1, 1, 1),
        ),
        text_encoder=t5_encoder(),
        tokenizer=t5_tokenizer(),
        transformer=module(
            MochiTransformer3DModel,
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=2,
            pooled_projection_dim=16,
            in_channels=12,
            text_embed_dim=32,
            time_embed_dim=4,
            max_sequence_length=24,
        ),
    )


def _text(k: int, frames: int, size: int = 16) -> dict[str, Any]:
    return {
        **_STEPS,
        "prompt": PROMPTS[k],
        "negative_prompt": "blur",
        "height": size,
        "width": size,
        "num_frames": frames,
        "max_sequence_length": 24,
        "guidance_scale": 4.0,
    }


FAMILIES = {
    "wan": Family(wan, lambda k: {**_text(k, 5), "num_inference_steps": 4}),
    "wan_two_transformers": Family(wan_two_transformers, lambda k: {**_text(k, 5), "guidance_scale_2": 2.0}),
    "wan_image_to_video": Family(wan_image_to_video, lambda k: {**_text(k, 5), "image": picture(k, 16)}),
    "cogvideox": Family(cogvideox, lambda k: _text(k, 9)),
    "ltx": Family(ltx, lambda k: _text(k, 9, 32)),
    "mochi": Family(mochi, lambda k: {**_text(k, 7), "output_type": "pt"}),
}
