"""The published adapters: where they are, and how one and a base model become a multi-view pipeline.

One flat file holds both parts of an adapter: the projections of the attention processors, by their place in the UNet,
and the camera encoder, under "adapter.".
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, T2IAdapter, UNet2DConditionModel
from torch import Tensor

from couple.backends.checkpoint import Published, load_strictly, read_checkpoint
from couple.backends.mv_adapter.pipeline import MVAdapterPipeline
from couple.backends.mv_adapter.pipeline_xl import MVAdapterXLPipeline
from couple.backends.mv_adapter.schedule import shifted
from couple.backends.mv_adapter.unet import MultiViewUNet, ReferenceUNet

_REPO, _LICENCE = "huanngzh/mv-adapter", "Apache-2.0"
T2MV_SD21 = Published(_REPO, "mvadapter_t2mv_sd21.safetensors", _LICENCE)
I2MV_SD21 = Published(_REPO, "mvadapter_i2mv_sd21.safetensors", _LICENCE)
T2MV_SDXL = Published(_REPO, "mvadapter_t2mv_sdxl.safetensors", _LICENCE)
I2MV_SDXL = Published(_REPO, "mvadapter_i2mv_sdxl.safetensors", _LICENCE)

#: Channels of a camera map.
_CAMERA_CHANNELS = 6


def load_pipeline(
    base: Any, checkpoint: Published | str | Path, *, scheduler: Any = None
) -> MVAdapterPipeline | MVAdapterXLPipeline:
    """Make a multi-view pipeline of a base model and an adapter.

    Args:
        base: a `StableDiffusionPipeline` of SD 2.1-base or a `StableDiffusionXLPipeline`; not changed. All but the
            scheduler is shared with it, down to the weights of the UNet.
        checkpoint: e.g. `I2MV_SD21`, or a file. It tells by itself whether it is t2mv or i2mv.
        scheduler: on the base model's own schedule, which is then shifted; `base.scheduler` by default. The authors
            find DDPM better on SD 2.1: `DDPMScheduler.from_config(base.scheduler.config, clip_sample=False)`.

    Raises:
        TypeError: `base` is another pipeline.
        FileNotFoundError: the checkpoint is not here and cannot be fetched.
        ValueError: the checkpoint does not fit the base model.
    """
    if not isinstance(base, StableDiffusionPipeline | StableDiffusionXLPipeline):
        raise TypeError(f"`base` is a {type(base).__name__}; give a StableDiffusionPipeline or an SDXL one.")
    path = checkpoint.path() if isinstance(checkpoint, Published) else Path(checkpoint)
    unet, adapter = load_adapter(base.unet, read_checkpoint(path), source=path.name)
    schedule = shifted(base.scheduler if scheduler is None else scheduler)
    parts: dict[str, Any] = {"vae": base.vae, "text_encoder": base.text_encoder, "tokenizer": base.tokenizer}
    parts |= {"unet": unet, "adapter": adapter, "scheduler": schedule}
    if isinstance(base, StableDiffusionXLPipeline):
        return MVAdapterXLPipeline(text_encoder_2=base.text_encoder_2, tokenizer_2=base.tokenizer_2, **parts)
    parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return MVAdapterPipeline(**parts)


def load_adapter(
    unet: UNet2DConditionModel, state: Mapping[str, Tensor], *, source: str | Path = "the adapter"
) -> tuple[MultiViewUNet, T2IAdapter]:
    """Make the two networks of an adapter.

    Args:
        unet: of the base model, on any device, without adapters of other kinds (fuse them first); not changed.
        state: the tensors of a published file.
        source: what messages call the state.

    Returns:
        The adapter's own UNet, a `ReferenceUNet` where the state has projections for a reference picture, whose base
        weights are the very tensors of `unet`; and the camera encoder. Both have the dtype and device of `unet`.

    Raises:
        ValueError: keys are missing, unexpected or of another shape; the message names them.
    """
    encoding = {key: value for key, value in state.items() if key.startswith("adapter.")}
    attending = {key: value for key, value in state.items() if key not in encoding}
    cls = ReferenceUNet if any(".to_q_ref." in key for key in attending) else MultiViewUNet
    with torch.device("meta"):
        own: Any = cls.from_config(unet.config)
        adapter = camera_encoder(unet)
    place = {"device": unet.device, "dtype": unet.dtype}
    attending = {key: value.to(**place) for key, value in attending.items()}
    encoding = {key: value.to(**place) for key, value in encoding.items()}
    load_strictly(own, {**unet.state_dict(), **attending}, source=source)
    load_strictly(adapter, encoding, source=source)
    return own.eval(), adapter.eval()


def camera_encoder(unet: UNet2DConditionModel) -> T2IAdapter:
    """A camera encoder, untrained, whose features fit the levels of `unet`."""
    channels = list(unet.config["block_out_channels"])
    if unet.config["addition_embed_type"] == "text_time":
        # One feature more than SDXL has levels: it is added in the middle block.
        channels.append(channels[-1])
        return T2IAdapter(_CAMERA_CHANNELS, channels, downscale_factor=16, adapter_type="full_adapter_xl")
    return T2IAdapter(_CAMERA_CHANNELS, channels, downscale_factor=8)
