"""The pipeline of Neural Gaffer: V pictures of an object, one environment map, a camera for each picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, UNet2DConditionModel
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

from couple.backends import relighting
from couple.backends.neural_gaffer import environment
from couple.backends.output import answer
from couple.scenes.cameras import Cameras

_CHANNELS = 16


class NeuralGafferPipeline(DiffusionPipeline):
    """Relights V pictures as one batch; row v of the state is picture v.

    Args:
        vae: autoencoder of Stable Diffusion.
        image_encoder: CLIP ViT-L/14; its embedding of a picture is the only token of the cross-attention.
        feature_extractor: has the mean and the deviation of that encoder's pixels; nothing else of it is used.
        unet: with 16 input channels: noise, picture, logarithmic map, tone-mapped map.
        scheduler: any of the variance-preserving or exploding kind.

    Raises:
        ValueError: the UNet has another number of input channels.
    """

    model_cpu_offload_seq = "image_encoder->unet->vae"

    # Configs of diffusers have attributes that no type checker knows.
    vae: Any
    image_encoder: Any
    feature_extractor: Any
    unet: Any
    scheduler: Any

    def __init__(
        self,
        vae: AutoencoderKL,
        image_encoder: CLIPVisionModelWithProjection,
        feature_extractor: CLIPImageProcessor,
        unet: UNet2DConditionModel,
        scheduler: Any,
    ):
        """Take the components."""
        super().__init__()
        self.register_modules(
            vae=vae,
            image_encoder=image_encoder,
            feature_extractor=feature_extractor,
            unet=unet,
            scheduler=scheduler,
        )
        if self.unet.config.in_channels != _CHANNELS:
            raise ValueError(
                f"the UNet has {self.unet.config.in_channels} input channels; Neural Gaffer has {_CHANNELS}: "
                f"widen_conv_in(unet, {_CHANNELS}), then load the published weights."
            )
        self.vae_scale_factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.vae_scale_factor)

    @torch.no_grad()
    def __call__(
        self,
        images: Any,
        environment_map: Tensor | np.ndarray,
        cameras: Cameras | Tensor,
        *,
        turn: float = 0.0,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 3.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> Any:
        """Relight pictures.

        Args:
            images: V PIL pictures of an object on white, or a tensor of shape (V, 3, H, W) in [0, 1]. Transparent
                ones are laid over white. Scaled to the size; square pictures keep their proportions.
            environment_map: the light, linear radiance of shape (H, W, 3); row 0 is the world's +z (`environment`).
            cameras: V cameras of a world whose z axis is up; or world-to-camera matrices in Blender axes, shape
                (V, 3, 4).
            turn: turns the light about the world's z axis by this many radians, clockwise seen from above.
            height: of the result in pixels; what the network was trained on, 256, if None.
            width: as `height`.
            num_inference_steps: of the scheduler.
            guidance_scale: of classifier-free guidance; 1 or less for none. Its other branch sees zeros in place of
                every condition.
            generator: of the noise; a list has one for each picture.
            latents: unit noise in place of what the generator would give, shape (V, 4, H/8, W/8).
            output_type: "pil", "np", "pt" or "latent".
            return_dict: False for a plain tuple.

        Returns:
            `ImagePipelineOutput`, whose `images` are V relit pictures.

        Raises:
            TypeError: pictures are neither PIL pictures nor a tensor, or the map is of integers.
            ValueError: numbers, sizes, shapes or ranges do not fit, or radiance is negative or not finite.
        """
        given = relighting.pictures(images, "images")
        side = self.unet.config.sample_size * self.vae_scale_factor
        shape = (len(given), 3, height or side, width or side)
        relighting.check_call(self, shape, latents, generator, output_type)
        light = environment.check_environment_map(environment_map)
        views = environment.blender_w2c(cameras, len(given))

        device = self._execution_device
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        seen, logarithmic, tone_mapped = self._inputs(given, light, views, turn, shape, device)
        context = self._token(seen).to(self.unet.dtype)
        condition = torch.cat([self._encode(some) for some in (seen, logarithmic, tone_mapped)], dim=1).to(context)
        if guidance_scale > 1:
            context = torch.cat([torch.zeros_like(context), context])
            condition = torch.cat([torch.zeros_like(condition), condition])
        result = relighting.denoise(
            self, latents, condition, context, shape=shape, guidance_scale=guidance_scale, generator=generator
        )
        return answer(self, result, output_type, return_dict)

    def _inputs(
        self, given: list[Image.Image], light: Tensor, views: Tensor, turn: float, shape: tuple, device: torch.device
    ) -> list[Tensor]:
        """Pictures, logarithmic maps and tone-mapped maps, each of shape (V, 3, H, W) in [-1, 1]."""
        maps = [environment.rotated(light, view, turn) for view in views]
        in_order = (map(_over_white, given), map(environment.hdr, maps), map(environment.ldr, maps))
        return [torch.stack([environment.to_model(p, *shape[-2:]) for p in some]).to(device) for some in in_order]

    def _encode(self, inputs: Tensor) -> Tensor:
        """Modes of the autoencoder's posterior, not scaled (the habit of Zero123), shape (V, 4, h, w)."""
        return self.vae.encode(inputs.to(self.vae.dtype)).latent_dist.mode()

    def _token(self, inputs: Tensor) -> Tensor:
        """CLIP embeddings as a context of one token, shape (V, 1, width), of pictures in [-1, 1].

        The authors resize by corners and without antialiasing, unlike CLIP's own preprocessing.
        """
        size = self.image_encoder.config.image_size
        resized = interpolate(inputs, size=(size, size), mode="bicubic", align_corners=True)
        mean, std = (
            torch.tensor(values, device=inputs.device)[:, None, None]
            for values in (self.feature_extractor.image_mean, self.feature_extractor.image_std)
        )
        pixels = ((resized + 1) / 2 - mean) / std
        return self.image_encoder(pixels.to(self.image_encoder.dtype)).image_embeds[:, None]


def _over_white(picture: Image.Image) -> np.ndarray:
    if not picture.has_transparency_data:
        return np.asarray(picture.convert("RGB"))
    picture = picture.convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return np.asarray(Image.alpha_composite(white, picture).convert("RGB"))
