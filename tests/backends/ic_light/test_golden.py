"""IC-Light against values of the authors' code (`tests/data/README.md`)."""

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image

from couple.backends import relighting
from couple.backends.checkpoint import add_strictly
from couple.backends.ic_light import pixels, widen_conv_in
from tests.golden import Golden, relative_error, weight, weights
from tests.tiny.relighting import FAMILIES

CHANNELS = {"fc": 8, "fbc": 12}


@pytest.fixture(scope="module")
def golden():
    return Golden("iclight_golden_tiny.safetensors")


@pytest.fixture(scope="module", params=CHANNELS)
def variant(request):
    return request.param


@pytest.fixture(scope="module")
def merged(golden, variant):
    unet = UNet2DConditionModel(**golden.meta["config"]).eval().requires_grad_(False)
    unet.load_state_dict(weights(golden.meta["keys_shapes"]))
    widen_conv_in(unet, CHANNELS[variant])
    offset = {
        key: 0.25 * weight(f"offset.{variant}.{key}", tuple(value.shape)) for key, value in unet.state_dict().items()
    }
    add_strictly(unet, offset, source="offset")
    return unet


@pytest.fixture(scope="module")
def picture(golden):
    return Image.fromarray(golden["image.rgb"].numpy())


def off(got, expected):
    """The largest difference of 8-bit pixels."""
    return int(np.abs(np.asarray(got).astype(int) - np.asarray(expected).astype(int)).max())


def test_offsets_are_added_to_the_widened_network(golden, variant, merged):
    assert relative_error(merged.conv_in.weight, golden[f"{variant}.conv_in_weight"]) < 1e-6
    norm = merged.down_blocks[0].resnets[0].norm1.weight
    assert relative_error(norm, golden[f"{variant}.merged_norm"]) < 1e-6
    assert merged.config.in_channels == CHANNELS[variant]


def test_the_network_sees_the_condition_behind_the_noise(golden, variant, merged):
    x, context = golden[f"{variant}.x_t"], golden[f"{variant}.context"]
    condition = golden[f"{variant}.concat"].repeat(len(x), 1, 1, 1)
    eps = relighting.guided_output(merged, x, golden[f"{variant}.t"], condition, context, 1.0)
    assert relative_error(eps, golden[f"{variant}.eps"]) < 1e-4


def test_a_matte_is_fitted_to_the_picture(golden, picture):
    alpha = pixels.fit_alpha(golden["matting.alpha_small"][0, 0], picture.height, picture.width)
    assert relative_error(torch.from_numpy(alpha), golden["matting.alpha"]) < 1e-5


def test_the_foreground_is_laid_over_grey(golden, picture):
    found = golden.under("matting.rgb_sigma")
    assert found
    for sigma, expected in found.items():
        assert off(pixels.over_grey(picture, golden["matting.alpha"].numpy(), float(sigma)), expected) <= 1


def test_the_matting_network_sees_about_a_million_pixels(golden, picture):
    feed = pixels.matting_input(picture)
    assert list(feed.shape[2:]) == golden["matting.feed_size"].tolist()
    means = torch.nn.functional.avg_pool2d(feed, 64)
    assert relative_error(means, golden["matting.feed_mean64"]) < 1e-3  # Lanczos may be off by a grey level


@pytest.mark.parametrize("resize", ["center_crop", "no_crop"])
def test_pictures_are_resized(golden, picture, resize):
    found = [key for key in golden.tensors if key.startswith("resize.") and key.endswith(resize)]
    assert found
    for key in found:
        height, width, _ = golden[key].shape
        assert off(getattr(pixels, resize)(picture, height, width), golden[key]) <= 1


def test_grey_127_is_zero(golden, picture):
    expected = golden["pixels.to_model"]
    height, width = expected.shape[2:]
    assert (pixels.to_model([picture.crop((0, 0, width, height))]) - expected).abs().max() < 1e-5
    assert not pixels.to_model([Image.new("RGB", (2, 2), (127, 127, 127))]).any()


def test_decoded_pictures_are_the_demos(golden):
    processor = FAMILIES["ic_light fc"].pipeline().image_processor
    (decoded,) = processor.postprocess(golden["pixels.from_model_in"], output_type="pil")
    assert off(decoded, golden["pixels.from_model_out"]) <= 1
