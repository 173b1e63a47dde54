"""MVDream at tiny size: four views, guided, on DDIM."""

import functools
from typing import Any

from couple.backends.mvdream import MVDreamModel, MVDreamPipeline
from couple.backends.mvdream.loading import ddim
from tests.tiny.building import PROMPTS, Family, clip_encoder, clip_tokenizer, module
from tests.tiny.stable_diffusion import autoencoder


@functools.cache
def unet(**config: Any) -> MVDreamModel:
    """A network of two levels, both with attention, that listens to a 32-wide CLIP encoder."""
    small = {"model_channels": 32, "channel_mult": (1, 2), "num_res_blocks": 1, "attention_resolutions": (1, 2)}
    return module(MVDreamModel, num_head_channels=16, context_dim=32, **small, **config)


def mvdream() -> MVDreamPipeline:
    """MVDream with an autoencoder that halves the side once: 16 x 16 pixels are 8 x 8 latents."""
    return MVDreamPipeline(
        vae=autoencoder(), text_encoder=clip_encoder(), tokenizer=clip_tokenizer(), unet=unet(), scheduler=ddim()
    )


FAMILIES = {
    "mvdream": Family(
        mvdream,
        lambda k: {
            "prompt": PROMPTS[k],
            "height": 16,
            "width": 16,
            "elevation": 15.0,
            "num_inference_steps": 4,
            "guidance_scale": 5.0,
            "output_type": "np",
        },
    ),
}
