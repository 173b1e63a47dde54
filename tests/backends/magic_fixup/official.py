"""The golden networks: ours, with the weights that the authors' code had."""

import functools

from couple.backends.magic_fixup import MagicFixupUNet
from couple.backends.magic_fixup.published import load_unet
from tests.golden import Golden, weight

GOLDEN = Golden("magicfixup_golden_tiny.safetensors")
PARTS = ("diffusion_model", "reference_model")


def golden_unet():
    """A network of the size that the authors' code ran at, with random weights."""
    config = GOLDEN.meta["config"]
    return MagicFixupUNet(
        block_out_channels=tuple(config["model_channels"] * m for m in config["channel_mult"]),
        layers_per_block=config["num_res_blocks"],
        attention_heads=config["num_heads"],
    )


def golden_state(part):
    """The weights of one of `PARTS` by the authors' key; the rule of the weights reads the whole key."""
    keys = dict(GOLDEN.meta["keys_shapes"])
    return {key: weight(f"model.{part}.{key}", tuple(shape)) for key, shape in keys.items()}


@functools.cache
def official_unet(part):
    """One of `PARTS`, as the authors had it."""
    unet = golden_unet()
    load_unet(golden_state(part), unet, source=part)
    return unet.eval()
