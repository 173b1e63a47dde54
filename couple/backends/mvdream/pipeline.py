"""MVDream as a diffusers pipeline: a prompt becomes views of one object, taken by cameras around it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, ImagePipelineOutput, SchedulerMixin
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from couple.backends.checkpoint import Published
from couple.backends.mvdream import loading
from couple.backends.mvdream.cameras import camera_vectors, rig
from couple.backends.mvdream.checks import check_call
from couple.backends.mvdream.model import MVDreamModel
from couple.backends.output import answer
from couple.scenes.cameras import Cameras
from couple.schedulers.reading import step_options


class MVDreamPipeline(DiffusionPipeline):
    """Text to views of one object.

    The latents are those of Stable Diffusion 2.1, one row of the batch for each view: shape (V, 4, h, w).

    Args:
        vae: autoencoder of Stable Diffusion 2.1.
        text_encoder: its text encoder. It ends at the last layer but one of its CLIP, as MVDream's does.
        tokenizer: its tokenizer.
        unet: the network.
        scheduler: any of VP or VE kind that suits a network that predicts noise.
    """

    model_cpu_offload_seq = "text_encoder->unet->vae"

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: MVDreamModel,
        scheduler: SchedulerMixin,
    ) -> None:
        """Put the components together."""
        super().__init__()
        self.register_modules(vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler)
        self.vae_scale_factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.vae_scale_factor)

    @classmethod
    def from_single_file(
        cls,
        checkpoint: str | Path | Published = loading.ORIGINAL,
        *,
        base: str | Path = loading.BASE,
        dtype: torch.dtype = torch.float32,
    ) -> MVDreamPipeline:
        """Load MVDream from one file of weights and Stable Diffusion 2.1 base.

        Args:
            checkpoint: the authors' `sd-v2.1-base-4view.pt`, the network alone as .safetensors, or where one of them
                is published (`loading.ORIGINAL`, `loading.SAFETENSORS`).
            base: folder or hub id of the autoencoder, the text encoder and the tokenizer.
            dtype: of all weights.

        Returns:
            The pipeline, on the CPU, with the sampler that MVDream is published with.

        Raises:
            FileNotFoundError: the checkpoint is not there and cannot be fetched.
            ValueError: the checkpoint is not one of MVDream.
        """
        path = checkpoint.path() if isinstance(checkpoint, Published) else checkpoint
        unet = loading.load_unet(path, dtype=dtype)
        parts = {"use_safetensors": True, "dtype": dtype}
        return cls(
            vae=AutoencoderKL.from_pretrained(base, subfolder="vae", **parts),
            text_encoder=CLIPTextModel.from_pretrained(base, subfolder="text_encoder", **parts),
            tokenizer=CLIPTokenizer.from_pretrained(base, subfolder="tokenizer"),
            unet=unet,
            scheduler=loading.ddim(),
        )

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | None = None,
        *,
        negative_prompt: str = "",
        num_views: int = 4,
        cameras: Cameras | None = None,
        elevation: float = 0.0,
        height: int = 256,
        width: int = 256,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.0,
        eta: float = 0.0,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Draw the views.

        Args:
            prompt: what to draw; the authors' demo appends ", 3d asset".
            negative_prompt: what to steer away from, unless `guidance_scale` is at most 1.
            num_views: V, how many views; the network was trained on 4.
            cameras: where from, V of them, around the origin of a world with z up; by default evenly around it (`rig`).
                The network sees neither their distances nor their intrinsics.
            elevation: of the default cameras above the horizon, in degrees; the authors' demo has 15.
            height: of the pictures, in pixels; a multiple of 64 for the published network.
            width: of the pictures.
            num_inference_steps: how many denoising steps.
            guidance_scale: of classifier-free guidance; at most 1 is without.
            eta: noise of DDIM, 0 to 1; other schedulers ignore it.
            generator: source of all noise.
            latents: noise to begin with, shape (V, 4, h, w), of standard deviation 1.
            prompt_embeds: the encoded prompt, shape (1, L, context_dim), in place of `prompt`.
            negative_prompt_embeds: the encoded negative prompt, of the shape of the encoded prompt.
            output_type: "pil", "np" (V, height, width, 3) and "pt" (V, 3, height, width) in [0, 1], or "latent".
            return_dict: whether to return the pictures as `.images` rather than in a tuple.

        Returns:
            The V pictures, in the order of the cameras.

        Raises:
            TypeError: the prompt is not text.
            ValueError: an argument does not fit the others or the network; the message names it.
        """
        check_call(
            self,
            prompt=prompt,
            num_views=num_views,
            cameras=cameras,
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            latents=latents,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            output_type=output_type,
        )
        device, dtype = self._execution_device, self.unet.dtype
        camera = camera_vectors(rig(num_views, elevation=elevation) if cameras is None else cameras)
        texts = [self._encode(prompt) if prompt_embeds is None else prompt_embeds]
        if guidance_scale > 1:
            length = texts[0].shape[1]
            negative = (
                self._encode(negative_prompt, length) if negative_prompt_embeds is None else negative_prompt_embeds
            )
            texts.insert(0, negative)
        context = torch.cat([text.to(device, dtype).expand(num_views, -1, -1) for text in texts])
        camera = camera.to(device, dtype).repeat(len(texts), 1)

        self.scheduler.set_timesteps(num_inference_steps, device=device)
        if latents is None:
            size = height // self.vae_scale_factor, width // self.vae_scale_factor
            shape = (num_views, self.unet.config.in_channels, *size)
            latents = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
        x: Any = latents.to(device, dtype) * self.scheduler.init_noise_sigma
        extra = step_options(self.scheduler, eta=eta, generator=generator)

        # The compiler mark on diffusers' progress bar hides its signature from type checkers.
        for t in self.progress_bar(self.scheduler.timesteps):  # pyright: ignore
            rows = self.scheduler.scale_model_input(torch.cat([x] * len(texts)), t)
            noise = self.unet(rows, t, context, camera=camera, num_views=num_views, return_dict=False)[0]
            if guidance_scale > 1:
                negative, positive = noise.chunk(2)
                noise = negative + guidance_scale * (positive - negative)
            x = self.scheduler.step(noise, t, x, **extra, return_dict=False)[0]

        return answer(self, x, output_type, return_dict)

    def _encode(self, text: str | None, length: int | None = None) -> Tensor:
        """Encode a text as `length` tokens, as many as the tokenizer is made for by default; (1, L, context_dim)."""
        limit: int = length or self.tokenizer.model_max_length
        ids = self.tokenizer(text, padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
        whole = self.tokenizer(text, verbose=False).input_ids
        if len(whole) > limit:
            warnings.warn(
                f"a prompt of {len(whole)} tokens is cut off: the text encoder sees the first {limit}.", stacklevel=4
            )
        return self.text_encoder(ids.input_ids.to(self._execution_device))[0]
