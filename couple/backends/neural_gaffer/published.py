"""The published Neural Gaffer: the UNet of a training state saved by `accelerate`, the rest from its base model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

from couple.backends.checkpoint import Published, load_strictly, read_checkpoint
from couple.backends.neural_gaffer.pipeline import NeuralGafferPipeline

#: The model that was fine-tuned.
BASE = "kxic/zero123-xl"

#: An archive of the folder that `from_published` takes.
PUBLISHED = Published("coast01/Neural_Gaffer", "neural_gaffer_res256_ckpt.zip", "MIT")

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def from_published(
    folder: str | Path, *, base: str | Path = BASE, dtype: torch.dtype = torch.float32
) -> NeuralGafferPipeline:
    """Load Neural Gaffer.

    Args:
        folder: the published archive, unpacked: `unzip "$(hf download coast01/Neural_Gaffer
            neural_gaffer_res256_ckpt.zip)"`. Of the state in it only the weights are read (model.safetensors or
            pytorch_model.bin).
        base: its autoencoder, CLIP encoder, scheduler and the configuration of its UNet are used; hub id or folder.
        dtype: precision of the networks.

    Returns:
        The pipeline, on the CPU, with the DDIM scheduler of the base.

    Raises:
        FileNotFoundError: the folder has no weights.
        ValueError: the weights cannot be read, or do not fit the UNet; the message names the keys.
    """
    path = _weights(Path(folder).expanduser())
    config: Any = UNet2DConditionModel.load_config(base, subfolder="unet")
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel.from_config(config, in_channels=16)
    # Saved by several processes, every key has the name of their wrapper in front.
    state = {key.removeprefix("module."): value for key, value in read_checkpoint(path).items()}
    load_strictly(unet, state, source=path)
    return NeuralGafferPipeline(
        vae=AutoencoderKL.from_pretrained(base, subfolder="vae"),
        image_encoder=CLIPVisionModelWithProjection.from_pretrained(base, subfolder="image_encoder"),
        feature_extractor=CLIPImageProcessor.from_pretrained(base, subfolder="feature_extractor"),
        unet=unet.eval(),
        scheduler=DDIMScheduler.from_pretrained(base, subfolder="scheduler"),
    ).to(dtype)


def _weights(folder: Path) -> Path:
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(
        f"{folder} has neither {' nor '.join(_WEIGHTS)}; give the folder of the unpacked archive: unzip "
        f'"$(hf download {PUBLISHED.repo} {PUBLISHED.file})"'
    )
