"""Tiny Magic Fixup: two networks, one of which looks at the other, from the noised coarse edit, on DDIM with noise."""

from typing import Any

from PIL import Image

from couple.backends.magic_fixup import MagicFixupPipeline, MagicFixupUNet, scheduler
from tests.tiny.building import Family, module, picture
from tests.tiny.stable_diffusion import autoencoder


def unet() -> MagicFixupUNet:
    """A network of two levels."""
    return module(
        MagicFixupUNet,
        block_out_channels=(16, 32),
        layers_per_block=1,
        attention_heads=2,
        norm_num_groups=8,
    )


def magic_fixup() -> MagicFixupPipeline:
    """Magic Fixup with two networks of unequal weights."""
    reference = unet()
    for parameter in reference.parameters():
        parameter.mul_(0.9)
    return MagicFixupPipeline(autoencoder(), unet(), reference, scheduler())


def edit(k: int, size: int = 16) -> Image.Image:
    """A seeded picture with a square hole."""
    coarse = picture(100 + k, size).convert("RGBA")
    coarse.paste((0, 0, 0, 0), (size // 4, size // 4, size // 2, size // 2))
    return coarse


def _call(k: int) -> dict[str, Any]:
    return {
        "edits": [edit(k), edit(k + 10)],
        "references": [picture(k, 16), picture(k + 10, 16)],
        "num_inference_steps": 4,
        "output_type": "latent",
    }


FAMILIES = {"magic_fixup": Family(magic_fixup, _call)}
