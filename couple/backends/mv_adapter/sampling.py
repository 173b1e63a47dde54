"""What the two MV-Adapter pipelines share: the checked call, the conditions, the denoising loop, the decoded views.

The batch is the views; under guidance it is the views with the negative prompt, then the views with the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import retrieve_timesteps
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img import retrieve_latents
from torch import Tensor

from couple.autoencoders import wide_enough
from couple.backends.mv_adapter.attention import Recorder, Views
from couple.backends.mv_adapter.cameras import camera_map, rig
from couple.backends.mv_adapter.reference import check_reference
from couple.backends.output import OUTPUT_TYPES
from couple.scenes.cameras import Cameras

#: The authors' guidance scales for a prompt alone, and with a reference picture.
TEXT_GUIDANCE, IMAGE_GUIDANCE = 7.0, 3.0


@dataclass(frozen=True, eq=False)
class Settings:
    """The checked arguments of a call that do not depend on the base model."""

    cameras: Cameras
    image: Any
    num_inference_steps: int
    guidance_scale: float
    multiview_scale: float
    reference_scale: float
    generator: Any
    latents: Tensor | None
    output_type: str
    return_dict: bool

    @property
    def guided(self) -> bool:
        """Whether there are rows with the negative prompt."""
        return self.guidance_scale > 1


@dataclass(frozen=True, eq=False)
class Text:
    """What the UNet is told in words: one row, or the negative one and the positive one.

    Attributes:
        embeds: shape (G, tokens, C).
        added: `added_cond_kwargs` of SDXL, each of shape (G, C).
    """

    embeds: Tensor
    added: dict[str, Tensor] | None = None

    def positive(self) -> dict[str, Any]:
        """Forward arguments for one row with the prompt."""
        return self._arguments(lambda rows: rows[-1:])

    def repeated(self, views: int) -> dict[str, Any]:
        """Forward arguments for `views` rows of each."""
        return self._arguments(lambda rows: rows.repeat_interleave(views, 0))

    def _arguments(self, choose: Any) -> dict[str, Any]:
        added = None if self.added is None else {key: choose(rows) for key, rows in self.added.items()}
        return {"encoder_hidden_states": choose(self.embeds), "added_cond_kwargs": added}


def checked(
    pipe: Any,
    *,
    xl: bool,
    image: Any,
    cameras: Cameras | None,
    height: int | None,
    width: int | None,
    latents: Tensor | None,
    guidance_scale: float | None,
    **settings: Any,
) -> Settings:
    """Return the settings of a call, defaults filled in; raise for what does not fit, before any network runs."""
    _check_unet(pipe.unet, xl, image is not None)
    cameras = _sized(pipe, cameras, height, width)
    size = (cameras.height, cameras.width)
    latent_size = (size[0] // pipe.vae_scale_factor, size[1] // pipe.vae_scale_factor)
    shape = (len(cameras), pipe.unet.config.in_channels, *latent_size)
    if latents is not None and tuple(latents.shape) != shape:
        raise ValueError(
            f"`latents` has shape {tuple(latents.shape)}; {len(cameras)} cameras of {size[0]} x {size[1]} pixels need "
            f"{shape}. Pass as many `cameras` as there are views, or other latents."
        )
    if image is not None:
        check_reference(image, *size, latent_size)
    if guidance_scale is None:
        guidance_scale = TEXT_GUIDANCE if image is None else IMAGE_GUIDANCE
    call = Settings(cameras=cameras, image=image, latents=latents, guidance_scale=guidance_scale, **settings)
    if call.num_inference_steps < 1:
        raise ValueError(f"`num_inference_steps` is {call.num_inference_steps}; it must be at least 1.")
    if call.output_type not in OUTPUT_TYPES:
        raise ValueError(f"`output_type` is {call.output_type!r}; it must be one of {', '.join(OUTPUT_TYPES)}.")
    return call


def check_text(
    pipe: Any,
    settings: Settings,
    *,
    prompt: Any,
    negative_prompt: Any,
    prompt_embeds: Tensor | None,
    negative_prompt_embeds: Tensor | None,
) -> None:
    """Raise unless there is exactly one prompt, in words or encoded, and a negative one to guide by."""
    if (prompt is None) == (prompt_embeds is None):
        raise ValueError("give either `prompt` or `prompt_embeds`, for all views together.")
    for name, words in (("prompt", prompt), ("negative_prompt", negative_prompt)):
        if words is not None and not isinstance(words, str):
            raise TypeError(f"`{name}` is a {type(words).__name__}; all views share one string.")
    width = pipe.unet.config.cross_attention_dim
    for name, embeds in (("prompt_embeds", prompt_embeds), ("negative_prompt_embeds", negative_prompt_embeds)):
        if embeds is not None and (embeds.ndim != 3 or embeds.shape[::2] != (1, width)):
            raise ValueError(
                f"`{name}` has shape {tuple(embeds.shape)}; all views share one prompt, of shape (1, tokens, {width})."
            )
    if pipe.text_encoder is None and (prompt is not None or (settings.guided and negative_prompt_embeds is None)):
        raise ValueError(
            "this pipeline has no text encoder; give `prompt_embeds` and, unless guidance_scale=1, "
            "`negative_prompt_embeds`."
        )


def _sized(pipe: Any, cameras: Cameras | None, height: int | None, width: int | None) -> Cameras:
    """Return the cameras of a call, in a size that the network can draw."""
    if cameras is None:
        cameras = rig(height=height or pipe.default_size, width=width or pipe.default_size)
    elif not isinstance(cameras, Cameras):
        raise TypeError(f"`cameras` is a {type(cameras).__name__}; give couple.scenes.cameras.Cameras, e.g. of rig().")
    size = (cameras.height, cameras.width)
    asked = (height or size[0], width or size[1])
    if asked != size:
        raise ValueError(
            f"`cameras` take pictures of {size[0]} x {size[1]} pixels and `height` x `width` is {asked[0]} x "
            f"{asked[1]}; pass cameras.resized({asked[0]}, {asked[1]})."
        )
    multiple = pipe.adapter.total_downscale_factor
    if size[0] % multiple or size[1] % multiple:
        raise ValueError(
            f"pictures of {size[0]} x {size[1]} pixels do not fit the network; height and width must be multiples of "
            f"{multiple}, e.g. {-(-size[0] // multiple) * multiple} x {-(-size[1] // multiple) * multiple}."
        )
    return cameras


def _check_unet(unet: Any, xl: bool, with_image: bool) -> None:
    # Not isinstance: a compiled UNet is another class with the same attributes.
    reference = getattr(unet, "reference", None)
    if reference is None:
        raise ValueError(
            f"the UNet is a {type(unet).__name__} without an adapter; use load_pipeline(base, checkpoint) or "
            "unet, adapter = load_adapter(base.unet, state)."
        )
    if (unet.config.addition_embed_type == "text_time") != xl:
        of, other = ("SD 2.1", "MVAdapterPipeline") if xl else ("SDXL", "MVAdapterXLPipeline")
        raise ValueError(f"the UNet is of the {of} family; use {other}.")
    if with_image and not reference:
        raise ValueError("this adapter is text-to-multi-view and reads no picture; leave out `image` or load an i2mv.")
    if reference and not with_image:
        raise ValueError("this adapter is image-to-multi-view; pass image=picture or load a t2mv adapter.")


def sample(pipe: Any, settings: Settings, text: Text) -> Any:
    """Denoise the views of a checked call and return what the pipeline returns."""
    device, dtype = pipe._execution_device, text.embeds.dtype
    cameras, groups = settings.cameras, len(text.embeds)
    timesteps: Any = retrieve_timesteps(pipe.scheduler, settings.num_inference_steps, device)[0]
    latents = pipe.prepare_latents(
        len(cameras),
        pipe.unet.config.in_channels,
        cameras.height,
        cameras.width,
        dtype,
        device,
        settings.generator,
        settings.latents,
    )
    views = Views(len(cameras), latents.shape[-2], latents.shape[-1], settings.multiview_scale)
    if settings.image is not None:
        features = _reference_features(pipe, settings, text, timesteps)
        views = views._replace(reference=features, reference_scale=settings.reference_scale)
    residuals = pipe.adapter(camera_map(cameras).to(device, pipe.adapter.dtype))
    conditions = text.repeated(len(cameras))
    residuals = [torch.cat([residual.to(dtype)] * groups) for residual in residuals]
    extra = pipe.prepare_extra_step_kwargs(settings.generator, 0.0)
    for t in pipe.progress_bar(timesteps):
        output = pipe.unet(
            pipe.scheduler.scale_model_input(torch.cat([latents] * groups), t),
            t,
            cross_attention_kwargs={"views": views},
            # The UNet empties the list it is given.
            down_intrablock_additional_residuals=list(residuals),
            return_dict=False,
            **conditions,
        )[0]
        if settings.guided:
            negative, positive = output.chunk(2)
            output = negative + settings.guidance_scale * (positive - negative)
        latents = pipe.scheduler.step(output, t, latents, **extra, return_dict=False)[0]
    images = latents if settings.output_type == "latent" else _decoded(pipe, latents, settings.output_type)
    pipe.maybe_free_model_hooks()
    return ImagePipelineOutput(images=images) if settings.return_dict else (images,)


def _reference_features(pipe: Any, settings: Settings, text: Text, timesteps: Tensor) -> dict[str, Tensor]:
    """What the self-attentions of the same UNet are given on the clean reference, a row for each row of the batch.

    The rows with the negative prompt get zeros.
    """
    cameras = settings.cameras
    image = pipe.image_processor.preprocess(settings.image, cameras.height, cameras.width)
    image = image.to(pipe._execution_device, text.embeds.dtype)
    if image.shape[1] != pipe.unet.config.in_channels:
        with wide_enough(pipe.vae):
            encoded = pipe.vae.encode(image.to(pipe.vae.dtype))
        image = retrieve_latents(encoded, settings.generator).to(text.embeds.dtype) * pipe.vae.config.scaling_factor
    recorder = Recorder()
    pipe.unet(
        image,
        torch.zeros_like(timesteps[0]),
        cross_attention_kwargs={"record": recorder},
        return_dict=False,
        **text.positive(),
    )
    features = recorder.features
    if settings.guided:
        features = {place: torch.cat([torch.zeros_like(row), row]) for place, row in features.items()}
    return {place: rows.repeat_interleave(len(cameras), 0) for place, rows in features.items()}


def _decoded(pipe: Any, latents: Tensor, output_type: str) -> Any:
    with wide_enough(pipe.vae):
        images = pipe.vae.decode(latents.to(pipe.vae.dtype) / pipe.vae.config.scaling_factor, return_dict=False)[0]
    return pipe.image_processor.postprocess(images, output_type=output_type)
