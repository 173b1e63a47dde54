"""Magic Fixup's published weights: from the names of the authors' code to ours, strictly.

The file holds both networks under the names of latent diffusion, besides parts that are not read here: an image
encoder whose output the networks ignore, and the autoencoder of Stable Diffusion 1.4 as it was.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from couple.backends.checkpoint import Published, load_strictly, read_checkpoint
from couple.backends.magic_fixup.model import MagicFixupUNet
from couple.backends.magic_fixup.pipeline import MagicFixupPipeline, scheduler

PUBLISHED = Published(
    "HadiZayer/MagicFixup", "magicfu_weights", "Adobe Research License, for non-commercial research only"
)
#: The model that the authors fine-tuned; its autoencoder is the one they use.
BASE = "CompVis/stable-diffusion-v1-4"

#: What the authors' forward never uses: the attention to text, and gates left over from an earlier design.
_UNUSED = re.compile(r"\.attn2\.|\.merge_attentions(_missing)?\.")
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def from_published(
    *, checkpoint: str | Path | None = None, base: str | Path = BASE, dtype: torch.dtype = torch.float32
) -> MagicFixupPipeline:
    """Load Magic Fixup.

    Args:
        checkpoint: the authors' file; `PUBLISHED` if None.
        base: Stable Diffusion 1, hub id or folder, for its autoencoder.
        dtype: precision of the networks.

    Returns:
        The pipeline, on the CPU, with the authors' sampler.

    Raises:
        FileNotFoundError: the checkpoint is not on this machine and cannot be fetched.
        ValueError: it cannot be read or is not this model's; the message names every missing and unexpected key.
    """
    path = Path(checkpoint) if checkpoint is not None else PUBLISHED.path()
    unet, reference = (_read(path, part) for part in ("diffusion_model", "reference_model"))
    vae = AutoencoderKL.from_pretrained(base, subfolder="vae")
    return MagicFixupPipeline(vae, unet, reference, scheduler()).to(dtype)


def convert(folder: str | Path, *, checkpoint: str | Path | None = None, base: str | Path = BASE) -> None:
    """Write the published model as a folder of safetensors for `MagicFixupPipeline.from_pretrained`.

    Args:
        folder: where to write, about 8 GB.
        checkpoint: see `from_published`.
        base: see `from_published`.
    """
    from_published(checkpoint=checkpoint, base=base).save_pretrained(folder, safe_serialization=True)


def load_unet(state: Mapping[str, Tensor], unet: MagicFixupUNet, *, source: str | Path) -> None:
    """Load one network from tensors by the authors' names, leaving out those that the authors' code never uses.

    Args:
        state: tensors by the authors' key, without the prefix of the network.
        unet: the network, on any device; one on the meta device gets the tensors themselves.
        source: what messages call the state.

    Raises:
        ValueError: keys are missing, unexpected (the message has all of them, by the authors' names) or of another
            shape.
    """
    names = _published_names(unet)
    missing = sorted(set(names.values()) - set(state))
    unexpected = sorted(key for key in set(state) - set(names.values()) if not _UNUSED.search(key))
    faults = [f"{kind}: {', '.join(keys)}" for kind, keys in (("missing", missing), ("unexpected", unexpected)) if keys]
    if faults:
        raise ValueError(f"{source} is not a Magic Fixup network ({'; '.join(faults)}).")
    load_strictly(unet, {ours: state[theirs] for ours, theirs in names.items()}, source=source)


def _read(path: Path, part: str) -> MagicFixupUNet:
    with torch.device("meta"):
        unet = MagicFixupUNet()
    load_unet(read_checkpoint(path, prefix=f"model.{part}."), unet, source=f"{part} of {path}")
    return unet.eval()


def _published_names(unet: MagicFixupUNet) -> dict[str, str]:
    """The authors' key for each key of `unet.state_dict()`."""
    modules = _published_modules(len(unet.config["block_out_channels"]), unet.config["layers_per_block"])
    names = {}
    for key in unet.state_dict():
        ours, theirs = next(pair for pair in modules.items() if key.startswith(f"unet.{pair[0]}."))
        rest = key.removeprefix(f"unet.{ours}.")
        if "resnets" in ours:
            part, _, end = rest.rpartition(".")
            rest = f"{_RESNET[part]}.{end}"
        # The second attention of our blocks is the authors' third.
        names[key] = f"{theirs}.{rest.replace('.attn2.', '.attn3.')}"
    return names


def _published_modules(levels: int, layers: int) -> dict[str, str]:
    """Names of the modules of a diffusers UNet, and what latent diffusion calls them: numbered in order of use."""
    modules = {
        "conv_in": "input_blocks.0.0",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    for level in range(levels):
        first = level * (layers + 1)
        for i in range(layers):
            modules[f"down_blocks.{level}.resnets.{i}"] = f"input_blocks.{first + i + 1}.0"
            modules[f"down_blocks.{level}.attentions.{i}"] = f"input_blocks.{first + i + 1}.1"
        modules[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{first + layers + 1}.0.op"
        for i in range(layers + 1):
            modules[f"up_blocks.{level}.resnets.{i}"] = f"output_blocks.{first + i}.0"
            modules[f"up_blocks.{level}.attentions.{i}"] = f"output_blocks.{first + i}.1"
        # The lowest level has no attention before its upsampling.
        modules[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{first + layers}.{min(level, 1) + 1}.conv"
    return modules
