"""What a call of `MVDreamPipeline` must be, checked before any network runs."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from couple.backends.output import OUTPUT_TYPES
from couple.scenes.cameras import Cameras


def check_call(
    pipeline: Any,
    *,
    prompt: str | None,
    num_views: int,
    cameras: Cameras | None,
    height: int,
    width: int,
    num_inference_steps: int,
    latents: Tensor | None,
    prompt_embeds: Tensor | None,
    negative_prompt_embeds: Tensor | None,
    output_type: str,
) -> None:
    """Raise TypeError or ValueError, naming the argument and the way out, unless the call can run."""
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"`output_type` is {output_type!r}; give one of {', '.join(OUTPUT_TYPES)}.")
    if num_inference_steps < 1:
        raise ValueError(f"`num_inference_steps` is {num_inference_steps}; give at least 1.")
    _check_views(num_views, cameras)
    _check_size(pipeline, num_views, height, width, latents)
    _check_text(pipeline, prompt, prompt_embeds, negative_prompt_embeds)


def _check_views(num_views: int, cameras: Cameras | None) -> None:
    if num_views < 1:
        raise ValueError(f"`num_views` is {num_views}; give at least 1.")
    if cameras is not None and len(cameras) != num_views:
        raise ValueError(
            f"`cameras` has {len(cameras)} cameras for {num_views} views; pass num_views={len(cameras)} or choose with "
            f"cameras[:{num_views}]."
        )


def _check_size(pipeline: Any, num_views: int, height: int, width: int, latents: Tensor | None) -> None:
    # Every level but the last halves the latents, and what comes back up must meet what went down.
    scale, config = pipeline.vae_scale_factor, pipeline.unet.config
    multiple = scale * 2 ** (len(config.channel_mult) - 1)
    if height < 1 or width < 1 or height % multiple or width % multiple:
        near = [max(1, round(side / multiple)) * multiple for side in (height, width)]
        raise ValueError(
            f"pictures of {height} x {width} pixels do not fit the network, which takes multiples of {multiple}; pass "
            f"height={near[0]}, width={near[1]}."
        )
    expected = (num_views, config.in_channels, height // scale, width // scale)
    if latents is not None and tuple(latents.shape) != expected:
        raise ValueError(
            f"`latents` has shape {tuple(latents.shape)}; {num_views} views of {height} x {width} pixels take "
            f"latents of shape {expected}."
        )


def _check_text(
    pipeline: Any, prompt: str | None, prompt_embeds: Tensor | None, negative_prompt_embeds: Tensor | None
) -> None:
    if (prompt is None) == (prompt_embeds is None):
        raise ValueError("give either `prompt` or `prompt_embeds`, and not both.")
    if prompt is not None and not isinstance(prompt, str):
        raise TypeError(f"`prompt` is {prompt!r:.80}; one call draws one object: give one text, all views share it.")
    length = pipeline.tokenizer.model_max_length
    if prompt_embeds is not None:
        length = prompt_embeds.shape[1] if prompt_embeds.ndim == 3 else "L"
    expected = (1, length, pipeline.unet.config.context_dim)
    named = {"prompt_embeds": prompt_embeds, "negative_prompt_embeds": negative_prompt_embeds}
    for name, embeds in named.items():
        if embeds is not None and tuple(embeds.shape) != expected:
            wanted = ", ".join(map(str, expected))
            raise ValueError(f"`{name}` has shape {tuple(embeds.shape)}; the network takes ({wanted}) for one prompt.")
