"""The pipeline of IC-Light: text to image on a UNet that also sees the foreground, and in "fbc" the background."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, UNet2DConditionModel
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from couple.backends import relighting
from couple.backends.ic_light import pixels
from couple.backends.output import answer

_CONDITIONS = {8: "a foreground", 12: "a foreground and a background"}


class IcLightPipeline(DiffusionPipeline):
    """Relights V pictures as one batch; row v of the state is picture v.

    Args:
        vae: autoencoder of Stable Diffusion.
        text_encoder: of Stable Diffusion 1.5.
        tokenizer: of Stable Diffusion 1.5.
        unet: with 8 input channels (noise, foreground) or 12 (noise, foreground, background).
        scheduler: any of the variance-preserving or exploding kind. The network was trained on the scaled-linear
            betas of Stable Diffusion, which `from_published` gives. The demo's DPM-Solver and Euler schedulers leave
            `beta_schedule` out and thus run on linear betas, other noise levels at the same timesteps: do not copy
            their configs where noise levels must match those of another model.

    Raises:
        ValueError: the UNet has another number of input channels.
    """

    model_cpu_offload_seq = "text_encoder->unet->vae"

    # Configs of diffusers have attributes that no type checker knows.
    vae: Any
    text_encoder: Any
    tokenizer: Any
    unet: Any
    scheduler: Any

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: Any,
    ):
        """Take the components."""
        super().__init__()
        self.register_modules(vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler)
        if self.unet.config.in_channels not in _CONDITIONS:
            raise ValueError(
                f"the UNet has {self.unet.config.in_channels} input channels; IC-Light has 8 or 12: "
                "widen_conv_in(unet, 8), then add the published offset."
            )
        self.vae_scale_factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.vae_scale_factor)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        images: Any,
        *,
        background: Any = None,
        alpha: Tensor | None = None,
        negative_prompt: str | list[str] = "",
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 25,
        guidance_scale: float = 2.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> Any:
        """Relight pictures.

        The authors add ", best quality" to the prompt, guide "fbc" by 7, and use the negative prompt "lowres, bad
        anatomy, bad hands, cropped, worst quality".

        Args:
            prompt: the light, one for all pictures or one for each.
            images: the foregrounds, V PIL pictures or a tensor of shape (V, 3, H, W) in [0, 1]. Each is laid over
                grey, then scaled and cropped to the size.
            background: for a UNet of 12 channels, one picture for all or one for each, as `images`.
            alpha: mattes, 1 in the foreground, shape (V, h, w) in [0, 1]; scaled to the pictures. If None, the
                transparency of the pictures; where they have none, what rembg finds (`pip install "rembg[cpu]"`).
            negative_prompt: one for all, or one for each.
            height: of the result in pixels; that of the pictures if None.
            width: as `height`.
            num_inference_steps: of the scheduler.
            guidance_scale: of classifier-free guidance by the prompt; 1 or less for none. Both of its branches see
                the same pictures.
            generator: of the noise; a list has one for each picture.
            latents: unit noise in place of what the generator would give, shape (V, 4, H/8, W/8).
            output_type: "pil", "np", "pt" or "latent".
            return_dict: False for a plain tuple.

        Returns:
            `ImagePipelineOutput`, whose `images` are V relit pictures.

        Raises:
            TypeError: pictures are neither PIL pictures nor a tensor.
            ValueError: numbers, sizes, shapes or ranges do not fit, or the background is missing or of no use.
            ImportError: a foreground has no matte and rembg is not installed.
        """
        given = relighting.pictures(images, "images")
        height, width = _size(given, height, width)
        shape = (len(given), 3, height, width)
        relighting.check_call(self, shape, latents, generator, output_type)
        prompts = _texts(prompt, len(given), "prompt")
        negatives = _texts(negative_prompt, len(given), "negative_prompt")
        backgrounds = self._backgrounds(background, len(given))
        _check_alpha(alpha, len(given))
        mattes = pixels.mattes(given, alpha)
        foregrounds = [pixels.over_grey(p.convert("RGB"), a) for p, a in zip(given, mattes, strict=True)]

        device = self._execution_device
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        context = self._context([*negatives, *prompts] if guidance_scale > 1 else prompts, device)
        seen = [self._encode(some, shape, device) for some in (foregrounds, backgrounds) if some]
        condition = torch.cat(seen, dim=1).repeat(len(context) // len(given), 1, 1, 1).to(context)
        result = relighting.denoise(
            self, latents, condition, context, shape=shape, guidance_scale=guidance_scale, generator=generator
        )
        return answer(self, result, output_type, return_dict)

    def _backgrounds(self, background: Any, count: int) -> list[Image.Image]:
        seen = self.unet.config.in_channels
        if background is None:
            if seen == 12:
                raise ValueError('this UNet sees a background ("fbc"); give background=..., a picture.')
            return []
        if seen == 8:
            raise ValueError(
                'this UNet sees the foreground alone ("fc"); leave `background` out or load '
                'ic_light.from_published("fbc").'
            )
        chosen = relighting.pictures(background, "background")
        relighting.one_each(chosen, count, "background")
        return [picture.convert("RGB") for picture in chosen]

    def _encode(self, chosen: Sequence[Image.Image], shape: tuple[int, ...], device: torch.device) -> Tensor:
        """Scaled modes of the autoencoder's posterior, shape (V, 4, h, w), of V pictures or of one for all."""
        cropped = [pixels.center_crop(picture, *shape[-2:]) for picture in chosen]
        batch = pixels.to_model(cropped).to(device, self.vae.dtype)
        modes = self.vae.encode(batch).latent_dist.mode() * self.vae.config.scaling_factor
        return modes.expand(shape[0], -1, -1, -1)

    def _context(self, texts: list[str], device: torch.device) -> Tensor:
        """Text context, shape (texts, tokens, width), in the precision of the UNet.

        A text of more tokens than the encoder takes is encoded in pieces, one after the other; shorter texts are
        repeated to equal length.
        """
        tokenizer = self.tokenizer
        room = tokenizer.model_max_length - 2
        pieces = []
        for text in texts:
            ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
            pieces.append([ids[i : i + room] for i in range(0, max(len(ids), 1), room)])
        longest = max(map(len, pieces))
        bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        rows = [
            [bos, *piece, *[eos] * (room + 1 - len(piece))]
            for of_text in pieces
            for piece in (of_text[i % len(of_text)] for i in range(longest))
        ]
        states = self.text_encoder(torch.tensor(rows, device=device)).last_hidden_state
        return states.reshape(len(texts), -1, states.shape[-1]).to(self.unet.dtype)


def _size(given: list[Image.Image], height: int | None, width: int | None) -> tuple[int, int]:
    sizes = {picture.size for picture in given}
    if len(sizes) > 1 and (height is None or width is None):
        raise ValueError(f"the pictures have {len(sizes)} different sizes; give height=... and width=...")
    return height or given[0].height, width or given[0].width


def _texts(given: str | list[str], count: int, name: str) -> list[str]:
    texts = [given] if isinstance(given, str) else list(given)
    return relighting.one_each(texts, count, name)


def _check_alpha(alpha: Tensor | None, count: int) -> None:
    if alpha is None:
        return
    if alpha.ndim != 3 or len(alpha) != count or not alpha.numel():
        raise ValueError(f"`alpha` has shape {tuple(alpha.shape)}; {count} pictures need ({count}, H, W).")
    relighting.check_unit(alpha, "alpha")
