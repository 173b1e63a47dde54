"""MV-Adapter on SDXL: the pipeline."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import StableDiffusionXLAdapterPipeline
from torch import Tensor

from couple.backends.mv_adapter import sampling
from couple.scenes.cameras import Cameras


class MVAdapterXLPipeline(StableDiffusionXLAdapterPipeline):
    """Views of one object from a prompt, and from a reference picture where the UNet is a `ReferenceUNet`.

    Components are those of `StableDiffusionXLAdapterPipeline`: `unet` a `MultiViewUNet`, `adapter` the camera encoder,
    `scheduler` on the shifted schedule. Make one with `load_pipeline`.
    """

    default_size = 768

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | None = None,
        *,
        image: Any = None,
        negative_prompt: str | None = None,
        cameras: Cameras | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float | None = None,
        multiview_scale: float = 1.0,
        reference_scale: float = 1.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> Any:
        """Sample the views; arguments, result and errors are those of `MVAdapterPipeline` but for these.

        Args:
            prompt: one for all views.
            image: the reference picture, or its latents in the space of SDXL.
            negative_prompt: one for all views.
            cameras: V of them, in the order of the views. `rig` by default.
            height: rows of a view, in pixels; the cameras', or 768.
            width: columns of a view.
            num_inference_steps: number of denoising steps.
            guidance_scale: 1 is none; 7 by default, 3 with a reference picture.
            multiview_scale: weight of the attention across views.
            reference_scale: weight of the attention to the reference picture.
            generator: for the first noise, the reference's latents and the steps, in this order.
            latents: the first noise of unit variance, shape (V, 4, h, w).
            prompt_embeds: in place of `prompt`, shape (1, tokens, width).
            negative_prompt_embeds: in place of `negative_prompt`, same shape.
            pooled_prompt_embeds: of shape (1, width), with `prompt_embeds`.
            negative_pooled_prompt_embeds: of shape (1, width), with `negative_prompt_embeds`.
            output_type: "pil", "np", "pt" or "latent".
            return_dict: False for a tuple.
        """
        settings = sampling.checked(
            self,
            xl=True,
            image=image,
            cameras=cameras,
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            multiview_scale=multiview_scale,
            reference_scale=reference_scale,
            generator=generator,
            latents=latents,
            output_type=output_type,
            return_dict=return_dict,
        )
        sampling.check_text(
            self,
            settings,
            prompt=prompt,
            negative_prompt=negative_prompt,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
        )
        _check_pooled("", prompt_embeds, pooled_prompt_embeds)
        _check_pooled("negative_", negative_prompt_embeds, negative_pooled_prompt_embeds)
        encode: Any = self.encode_prompt
        positive, negative, pooled, negative_pooled = encode(
            prompt,
            device=self._execution_device,
            do_classifier_free_guidance=settings.guided,
            negative_prompt=negative_prompt,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            pooled_prompt_embeds=pooled_prompt_embeds,
            negative_pooled_prompt_embeds=negative_pooled_prompt_embeds,
        )
        embeds = torch.cat([negative, positive]) if settings.guided else positive
        pooled = torch.cat([negative_pooled, pooled]) if settings.guided else pooled
        size = (settings.cameras.height, settings.cameras.width)
        ids = self._get_add_time_ids(size, (0, 0), size, embeds.dtype, pooled.shape[-1])
        added = {"text_embeds": pooled, "time_ids": ids.to(embeds.device).repeat(len(embeds), 1)}
        return sampling.sample(self, settings, sampling.Text(embeds, added))


def _check_pooled(kind: str, embeds: Tensor | None, pooled: Tensor | None) -> None:
    if (embeds is None) != (pooled is None):
        raise ValueError(
            f"give `{kind}prompt_embeds` and `{kind}pooled_prompt_embeds` together; encode_prompt returns both."
        )
    if pooled is not None and (pooled.ndim != 2 or len(pooled) != 1):
        raise ValueError(
            f"`{kind}pooled_prompt_embeds` has shape {tuple(pooled.shape)}; all views share one, of shape (1, width)."
        )
