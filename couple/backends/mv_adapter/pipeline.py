"""MV-Adapter on Stable Diffusion 2.1: the pipeline."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import StableDiffusionAdapterPipeline
from torch import Tensor

from couple.backends.mv_adapter import sampling
from couple.scenes.cameras import Cameras


class MVAdapterPipeline(StableDiffusionAdapterPipeline):
    """Views of one object from a prompt, and from a reference picture where the UNet is a `ReferenceUNet`.

    Components are those of `StableDiffusionAdapterPipeline`: `unet` a `MultiViewUNet`, `adapter` the camera encoder,
    `scheduler` on the shifted schedule. Make one with `load_pipeline`. A safety checker is not run.
    """

    default_size = 512

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
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> Any:
        """Sample the views.

        Args:
            prompt: one for all views; the authors use "high quality" beside a reference picture.
            image: the reference: a PIL picture, an array (H, W, 3) or a tensor (1, 3, H, W) in [0, 1], stretched to
                the size of the views, or its latents (1, 4, h, w). Best an object on grey, see `framed`.
            negative_prompt: the authors use "watermark, ugly, deformed, noisy, blurry, low contrast".
            cameras: V of them, in the order of the views; only their poses and picture size are read. `rig` by default.
            height: rows of a view, in pixels; the cameras', or 512.
            width: columns of a view.
            num_inference_steps: number of denoising steps.
            guidance_scale: 1 is none; 7 by default, 3 with a reference picture.
            multiview_scale: weight of the attention across views.
            reference_scale: weight of the attention to the reference picture.
            generator: for the first noise, the reference's latents and the steps, in this order.
            latents: the first noise of unit variance, shape (V, 4, h, w).
            prompt_embeds: in place of `prompt`, shape (1, tokens, width).
            negative_prompt_embeds: in place of `negative_prompt`, same shape.
            output_type: "pil", "np", "pt" or "latent".
            return_dict: False for a tuple.

        Returns:
            `ImagePipelineOutput` whose `images` are the V views.

        Raises:
            TypeError: an argument is of another type.
            ValueError: sizes, cameras, latents, pictures or the UNet do not fit together.
        """
        settings = sampling.checked(
            self,
            xl=False,
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
        encode: Any = self.encode_prompt
        positive, negative = encode(
            prompt,
            self._execution_device,
            1,
            settings.guided,
            negative_prompt,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
        )
        embeds = torch.cat([negative, positive]) if settings.guided else positive
        return sampling.sample(self, settings, sampling.Text(embeds))
