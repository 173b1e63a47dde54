"""Neural Gaffer against values of the authors' code (`tests/data/README.md`)."""

import math
import re

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from couple.backends import relighting
from couple.backends.neural_gaffer import environment, widen_conv_in
from tests.golden import Golden, relative_error, weight, weights

GOLDEN = Golden("neuralgaffer_golden_tiny.safetensors")
VIEWS = GOLDEN.meta["views"]
views = pytest.mark.parametrize("n", range(len(VIEWS)))


@pytest.fixture(scope="module")
def config():
    return {key: value for key, value in GOLDEN.meta["config"].items() if key != "in_channels_after_widening"}


@pytest.fixture(scope="module")
def unet(config):
    wide = (
        UNet2DConditionModel(**{**config, "in_channels": GOLDEN.meta["config"]["in_channels_after_widening"]})
        .eval()
        .requires_grad_(False)
    )
    wide.load_state_dict(weights(GOLDEN.meta["keys_shapes"]))
    return wide


def rotated(n):
    turn = 2 * math.pi * VIEWS[n]["rotation_idx"] / VIEWS[n]["total_view"]
    return environment.rotated(GOLDEN["env.map"], GOLDEN[f"view.{n}.w2c"], turn)


@views
def test_the_map_is_turned_into_the_frame_of_the_camera(n):
    assert relative_error(rotated(n), GOLDEN[f"view.{n}.rotated"]) < 1e-5


@views
@pytest.mark.parametrize("name", ["ldr", "hdr"])
def test_the_map_is_made_8_bit(n, name):
    pixels = getattr(environment, name)(rotated(n))
    assert np.abs(pixels.astype(int) - GOLDEN[f"view.{n}.{name}"].numpy().astype(int)).max() <= 1


@pytest.mark.parametrize("name", ["ldr", "hdr"])
def test_the_autoencoder_sees_the_resized_map(name):
    (key,) = [key for key in GOLDEN.tensors if key.endswith(f"{name}_model")]
    means = GOLDEN[f"{key}_mean8"]
    seen = environment.to_model(GOLDEN[key.removesuffix("_model")].numpy(), 8 * means.shape[1], 8 * means.shape[2])
    step = 2 / 255 + 1e-5
    crop = re.search(r"rows (\d+)\.\.(\d+), columns (\d+)\.\.(\d+)", GOLDEN.meta["tensors"][key]["meaning"])
    top, bottom, left, right = map(int, crop.groups())
    assert (seen[:, top : bottom + 1, left : right + 1] - GOLDEN[key]).abs().max() < step
    assert (torch.nn.functional.avg_pool2d(seen, 8) - means).abs().max() < step / 4


def test_the_first_convolution_is_widened(config):
    narrow = UNet2DConditionModel(**config).requires_grad_(False)
    narrow.conv_in.weight.copy_(weight("conv_in.weight", tuple(narrow.conv_in.weight.shape)))
    wide = widen_conv_in(narrow, GOLDEN.meta["config"]["in_channels_after_widening"])
    assert relative_error(wide.conv_in.weight, GOLDEN["widen.conv_in_weight"]) < 1e-6
    assert not wide.conv_in.weight[:, config["in_channels"] :].any()


@pytest.mark.parametrize("rows", ["uncond", "cond", "guided"])
def test_the_network_sees_picture_and_both_maps_behind_the_noise(unet, rows):
    condition = torch.cat([GOLDEN["net.image"], GOLDEN["net.hdr"], GOLDEN["net.ldr"]], dim=1)
    inputs = [condition, GOLDEN["net.clip"]]
    zeros = [torch.zeros_like(value) for value in inputs]
    seen = {"uncond": zeros, "cond": inputs, "guided": [torch.cat(pair) for pair in zip(zeros, inputs, strict=True)]}
    scale = float(GOLDEN.meta["guidance"])
    eps = relighting.guided_output(unet, GOLDEN["net.x_t"], GOLDEN["net.t"], *seen[rows], scale)
    assert relative_error(eps, GOLDEN[f"net.eps_{rows}"]) < 1e-4
