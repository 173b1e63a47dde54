"""What a pipeline of this package returns: clean latents, decoded as `output_type` says."""

from __future__ import annotations

from typing import Any

from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from torch import Tensor

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


def answer(pipeline: Any, latents: Tensor, output_type: str, return_dict: bool) -> ImagePipelineOutput | tuple[Any]:
    """Decode clean, scaled latents, shape (V, C, h, w), into what `pipeline` returns.

    Args:
        pipeline: has `vae`, `image_processor` and offload hooks.
        latents: of V pictures.
        output_type: one of `OUTPUT_TYPES`.
        return_dict: False for a plain tuple.
    """
    images: Any = latents
    if output_type != "latent":
        vae = pipeline.vae
        decoded = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]
        images = pipeline.image_processor.postprocess(decoded, output_type=output_type)
    pipeline.maybe_free_model_hooks()
    return ImagePipelineOutput(images=images) if return_dict else (images,)
