"""Random editing models of the right shapes, so that whole experiments run in seconds."""

from pathlib import Path

from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDPMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionInstructPix2PixPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from couple.backends.seva import SevaModel, SevaPipeline, shared_scheduler
from tests.tiny.building import clip_encoder, clip_tokenizer, module

_BLOCKS = {
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "attention_head_dim": (2, 4),
    "cross_attention_dim": 32,
}


def _unet(in_channels: int) -> UNet2DConditionModel:
    return module(
        UNet2DConditionModel,
        sample_size=12,
        in_channels=in_channels,
        out_channels=4,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **_BLOCKS,
    )


def write(folder: Path) -> dict[str, Path]:
    """Write a multi-view model and two editors of pictures of 48 x 48; their folders by name."""
    vae = module(
        AutoencoderKL,
        block_out_channels=(8, 8, 16),
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )
    eyes = module(
        CLIPVisionModelWithProjection,
        CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=37,
            num_hidden_layers=1,
            num_attention_heads=4,
            image_size=48,
            patch_size=16,
            projection_dim=16,
        ),
    )
    network = module(
        SevaModel,
        model_channels=32,
        num_frames=6,
        num_head_channels=32,
        context_dim=16,
        channel_mult=(1, 1),
        num_res_blocks=1,
        prediction_type="v_prediction",
        clean_inputs=True,
    )
    scheduler = DDPMScheduler.from_config(shared_scheduler().config, prediction_type="v_prediction")
    shared = {
        "vae": vae,
        "text_encoder": clip_encoder(),
        "tokenizer": clip_tokenizer(),
        "scheduler": scheduler,
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    control = module(ControlNetModel, conditioning_embedding_out_channels=(8, 8, 16), **_BLOCKS)
    pipelines = {
        "views": SevaPipeline(vae, eyes, network, shared_scheduler()),
        "instruct": StableDiffusionInstructPix2PixPipeline(unet=_unet(8), **shared),
        "restyle": StableDiffusionControlNetPipeline(unet=_unet(4), controlnet=control, **shared),
    }
    for name, pipeline in pipelines.items():
        pipeline.save_pretrained(folder / name)
    return {name: folder / name for name in pipelines}
