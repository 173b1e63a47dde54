"""Magic Fixup as a diffusers pipeline: coarse edits and the original pictures in, photographs out.

Many pictures are the rows of one state. Sampling starts from the noised coarse edit, never from pure noise; at every
step the original is noised afresh and goes through the second network, whose features the first one looks at.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, ImagePipelineOutput
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor

from couple.backends.magic_fixup.model import MagicFixupUNet
from couple.backends.magic_fixup.pictures import as_tensor, fill_holes, latent_mask
from couple.backends.output import OUTPUT_TYPES, answer
from couple.schedulers.reading import step_options


def scheduler() -> DDIMScheduler:
    """The noise schedule that the published weights were trained on, with the sampler of the authors' code.

    Its betas are those of Stable Diffusion, rescaled so that the last timestep has no signal at all.
    """
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        rescale_betas_zero_snr=True,
        timestep_spacing="leading",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
    )


class MagicFixupPipeline(DiffusionPipeline):
    """Edits pictures as coarse edits show.

    Args:
        vae: the autoencoder of Stable Diffusion 1.
        unet: sees the edit and is denoised.
        reference_unet: sees the original picture.
        scheduler: any of diffusers' on noise, for the authors' see `scheduler`.

    Source: adobe-research/MagicFixup@0607d9fe, `run_magicfu.py`.
    """

    model_cpu_offload_seq = "reference_unet->unet->vae"

    def __init__(
        self, vae: AutoencoderKL, unet: MagicFixupUNet, reference_unet: MagicFixupUNet, scheduler: Any
    ) -> None:
        """Put the parts together."""
        super().__init__()
        self.register_modules(vae=vae, unet=unet, reference_unet=reference_unet, scheduler=scheduler)
        self.vae_scale_factor = 2 ** (len(vae.config["block_out_channels"]) - 1)
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.vae_scale_factor)

    @torch.no_grad()
    def __call__(
        self,
        edits: list[Image.Image] | Tensor,
        references: list[Image.Image] | Tensor,
        *,
        num_inference_steps: int = 50,
        eta: float = 1.0,
        guidance_scale: float = 1.0,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Turn V coarse edits into V pictures.

        Args:
            edits: coarse edits, V pictures of mode RGBA or a tensor (V, 4, H, W) in [0, 1]; alpha is 1 where there is
                content and 0 in holes. The published weights are for 512 x 512 pixels.
            references: the original pictures, V of them, of the same size; RGB or a tensor (V, 3, H, W) in [0, 1].
            num_inference_steps: steps of the scheduler.
            eta: noise added at each DDIM step, from 0 (none) to 1 (as much as DDPM); other schedulers ignore it.
            guidance_scale: must be 1; the model has no unconditional prediction to be guided away from.
            generator: of all noise: the autoencoder's, the reference's, and the steps'.
            latents: the unit noise of the first state, shape (V, 4, h, w); drawn if not given.
            output_type: "pil", "np" (V, H, W, 3) or "pt" (V, 3, H, W) in [0, 1], or "latent" (V, 4, h, w).
            return_dict: False for a tuple.

        Returns:
            The pictures.

        Raises:
            TypeError: pictures are neither PIL nor tensors.
            ValueError: an argument does not fit the others; the message tells which.
            ImportError: an edit has holes and OpenCV is not installed.
        """
        edit, original = as_tensor(edits, "RGBA", "edits"), as_tensor(references, "RGB", "references")
        self.scheduler.set_timesteps(num_inference_steps, device=self._execution_device)
        self._check(edit, original, guidance_scale, latents, output_type)

        coarse = self._encode(fill_holes(edit), generator)
        states = self.denoise(
            coarse,
            latent_mask(edit, *coarse.shape[-2:]).to(coarse),
            self._encode(original, generator),
            eta=eta,
            generator=generator,
            noise=latents,
        )
        return answer(self, states, output_type, return_dict)

    def denoise(
        self,
        coarse: Tensor,
        mask: Tensor,
        original: Tensor,
        *,
        eta: float = 1.0,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Sample latents over the timesteps that the scheduler is set to.

        Args:
            coarse: scaled latents of the coarse edits, shape (V, 4, h, w).
            mask: 1 for content and 0 for holes, shape (V, 1, h, w).
            original: scaled latents of the original pictures, shape (V, 4, h, w).
            eta: see `__call__`.
            generator: of all noise; None for torch's own.
            noise: of the first state, shape (V, 4, h, w); drawn if None.

        Returns:
            Scaled latents, shape (V, 4, h, w).
        """

        def unit_noise() -> Tensor:
            return randn_tensor(coarse.shape, generator=generator, device=coarse.device, dtype=coarse.dtype)

        def noised(latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
            return self.scheduler.add_noise(latents, noise, timestep.expand(len(latents)))

        options = step_options(self.scheduler, eta=eta, generator=generator)
        timesteps = self.scheduler.timesteps
        if hasattr(self.scheduler, "set_begin_index"):
            # Karras spacing rounds to repeated timesteps: only by counting steps does the scheduler know its level.
            self.scheduler.set_begin_index(0)
        x = noised(coarse, unit_noise() if noise is None else noise.to(coarse), timesteps[0])
        for t in self.progress_bar(timesteps):  # pyright: ignore
            # The networks know states whose variance is that of noise-preserving samplers.
            reference = self.scheduler.scale_model_input(noised(original, unit_noise(), t), t)
            features = self.reference_unet(torch.cat([reference, original, mask], 1), t).features
            state = self.scheduler.scale_model_input(x, t)
            eps = self.unet(torch.cat([state, coarse, mask], 1), t, features).sample
            x = self.scheduler.step(eps, t, x, **options, return_dict=False)[0]
        return x

    def _encode(self, pictures: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw scaled latents from the autoencoder's posterior of pictures in [0, 1]."""
        pixels = (2 * pictures - 1).to(self._execution_device, self.vae.dtype)
        latents = self.vae.encode(pixels).latent_dist.sample(generator) * self.vae.config.scaling_factor
        return latents.to(self.unet.dtype)

    def _check(
        self, edit: Tensor, original: Tensor, guidance_scale: float, latents: Tensor | None, output_type: str
    ) -> None:
        (count, _, height, width), others = edit.shape, original.shape
        if (count, height, width) != (others[0], *others[2:]):
            raise ValueError(
                f"there are {count} edits of {height} x {width} pixels (height x width) and {others[0]} references of "
                f"{others[2]} x {others[3]}; give each edit the original picture of the same size."
            )
        multiple = self.vae_scale_factor * 2 ** (len(self.unet.config["block_out_channels"]) - 1)
        if height % multiple or width % multiple:
            raise ValueError(
                f"pictures are {height} x {width} pixels; height and width must be multiples of {multiple}, and the "
                "published weights are for 512 x 512: picture.resize((512, 512))."
            )
        if guidance_scale != 1:
            raise ValueError(
                f"`guidance_scale` is {guidance_scale}; Magic Fixup has no unconditional prediction: leave it at 1."
            )
        size = (count, self.vae.config.latent_channels, height // self.vae_scale_factor, width // self.vae_scale_factor)
        if latents is not None and tuple(latents.shape) != size:
            raise ValueError(f"`latents` has shape {tuple(latents.shape)}; expected unit noise of shape {size}.")
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"`output_type` is {output_type!r}; expected one of {', '.join(OUTPUT_TYPES)}.")
        first, signal = self.scheduler.timesteps[0], self.scheduler.alphas_cumprod
        if signal[min(int(first), len(signal) - 1)] == 0:
            raise ValueError(
                f"the first timestep, {int(first)}, is pure noise, from which nothing can be predicted: take fewer "
                "steps, or a scheduler with timestep_spacing='leading'."
            )
