"""Maps cut, resize and smooth, and are differentiable; a bridge leads into other latents, and is not."""

import copy
import re

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler

import couple
from couple import autoencoders, maps
from tests.tiny import FAMILIES
from tests.tiny.building import module
from tests.tiny.stable_diffusion import autoencoder

ALL = [maps.row(1), maps.row(-1), maps.frame(0, 1), maps.crop(1, 2, 3, 2), maps.resize(3, 7), maps.low_pass(2)]


@pytest.mark.parametrize("map", ALL, ids=maps.call)
def test_autograd_agrees_with_finite_differences(map):
    x = torch.randn(2, 2, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(map, x)


@pytest.mark.parametrize("map", [maps.crop(1, 0, 2, 2), maps.resize(3, 7), maps.low_pass(3)], ids=maps.call)
@pytest.mark.parametrize("lead", [(), (2,), (2, 3), (1, 4, 3)])
def test_maps_of_the_last_two_axes_take_any_leading_ones(map, lead):
    x = torch.randn(*lead, 6, 5, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([map(plane) for plane in x.reshape(-1, 6, 5)])
    assert torch.allclose(map(x), expected.reshape(*lead, *expected.shape[1:]), atol=1e-6)


def test_a_crop_is_the_rectangle():
    x = torch.arange(30.0).reshape(5, 6)
    assert torch.equal(maps.crop(1, 2, 3, 4)(x), x[1:4, 2:6])


def test_resizing_keeps_a_constant_picture():
    assert torch.allclose(maps.resize(3, 9)(torch.full((1, 2, 5, 5), 2.0)), torch.tensor(2.0))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 9])
def test_low_pass_is_an_orthogonal_projection(size):
    x, y = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    project = maps.low_pass(size)
    assert torch.allclose(project(project(x)), project(x))
    assert torch.allclose((project(x) * y).sum(), (x * project(y)).sum())
    assert torch.allclose(project(x).sum(), x.sum())
    assert torch.equal(project(torch.ones(5, 7)), torch.ones(5, 7))


def test_low_pass_averages_blocks_and_what_the_border_leaves_of_them():
    x = torch.tensor([[1.0, 3.0, 5.0], [5.0, 7.0, 7.0], [2.0, 4.0, 9.0]])
    expected = torch.tensor([[4.0, 4.0, 6.0], [4.0, 4.0, 6.0], [3.0, 3.0, 9.0]])
    assert torch.equal(maps.low_pass(2)(x), expected)


def test_low_pass_of_one_pixel_is_the_identity():
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(maps.low_pass(1)(x), x)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: maps.low_pass(0), ValueError, "`size` must be a whole number, 1 or more; got 0. Did you mean low_pass(8)?"),
        (lambda: maps.low_pass(torch.zeros(2)), ValueError, "Did you mean low_pass(8)?"),
        (lambda: maps.low_pass(2)(torch.zeros(3)), ValueError, "low_pass(2) works on states of shape (..., H, W); got (3,)"),
        (lambda: maps.resize(0, 4), ValueError, "resize(0, 4): height and width must be 1 or more"),
        (lambda: maps.resize(2, 4)(torch.zeros(3)), ValueError, "resize(2, 4) works on states of shape"),
        (lambda: maps.crop(-1, 0, 4, 4), ValueError, "crop(-1, 0, 4, 4): top and left must be 0 or more"),
        (lambda: maps.crop(0, 0, 4, 4)(torch.zeros(1, 3, 8)), ValueError, "does not fit in a state of shape (1, 3, 8)"),
        (lambda: maps.row(3)(torch.zeros(2)), IndexError, "row(3)"),
    ],
)  # fmt: skip
def test_bad_maps_are_refused(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()


def coarse_autoencoder(latent_channels=4, scaling_factor=0.5, levels=3):
    """An autoencoder that halves the side `levels - 1` times and shares no weight with the tiny pipelines'."""
    return module(
        AutoencoderKL,
        latent_channels=latent_channels,
        scaling_factor=scaling_factor,
        shift_factor=0.1,
        block_out_channels=(8, 16, 16, 16)[:levels],
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
    )


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_a_bridge_decodes_and_encodes():
    fine, coarse = autoencoder(), coarse_autoencoder(latent_channels=6)
    x = noise(2, 4, 8, 8)
    across = maps.bridge(fine, coarse)(x)
    assert across.shape == (2, 6, 4, 4)
    picture = fine.decode(x / 0.18215).sample
    torch.testing.assert_close(across, (coarse.encode(picture).latent_dist.mode() - 0.1) * 0.5)
    back = maps.bridge(coarse, fine)(across)
    picture = coarse.decode(across / 0.5 + 0.1).sample
    torch.testing.assert_close(back, fine.encode(picture).latent_dist.mode() * 0.18215)


def test_a_bridge_resizes_the_picture_to_the_size_of_the_other_end():
    deep = coarse_autoencoder(levels=4)
    x = noise(1, 4, 8, 8)
    bridge = maps.bridge(autoencoder(), deep, size=(32, 48))
    picture = maps.resize(32, 48)(autoencoders.decode(autoencoder(), x))
    assert torch.equal(bridge(x), autoencoders.encode(deep, picture))
    assert bridge(x).shape == (1, 4, 4, 6)
    assert maps.bridge(autoencoder(), deep)(x).shape == (1, 4, 2, 2)


def test_a_bridge_into_its_own_latents_gives_what_the_autoencoder_makes_of_its_own_picture():
    vae = autoencoder()
    x = noise(1, 4, 8, 8)
    expected = vae.encode(vae.decode(x / 0.18215).sample).latent_dist.mode() * 0.18215
    torch.testing.assert_close(maps.bridge(vae, vae)(x), expected)


def test_a_frame_of_a_video_crosses_to_a_picture():
    x = noise(1, 16, 3, 2, 2)
    first = maps.bridge(FAMILIES["wan"].pipeline().vae, autoencoder())(maps.frame(0)(x))
    assert first.shape == (1, 4, 8, 8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_bridge_returns_the_dtype_it_was_given(dtype):
    x = noise(1, 4, 8, 8)
    across = maps.bridge(autoencoder(), copy.deepcopy(coarse_autoencoder()).bfloat16())
    assert across(x.to(dtype)).dtype == dtype
    assert torch.equal(across(x.double()).float(), across(x))


def test_no_gradient_passes_a_bridge():
    x = noise(1, 4, 8, 8).requires_grad_()
    assert not maps.bridge(autoencoder(), coarse_autoencoder())(x).requires_grad


def painters(edges_between):
    """Two Stable Diffusions with autoencoders of their own, the second with pictures of twice as few latents."""
    pipelines = [copy.copy(FAMILIES["sd21"].pipeline()) for _ in range(2)]
    pipelines[1].__dict__["vae"] = coarse_autoencoder()
    for pipeline in pipelines:
        pipeline.__dict__["scheduler"] = DDIMScheduler(clip_sample=False)
    sides = (16, 8)
    a, b = (
        couple.Trajectory(
            pipeline, name=name, prompt=name, latents=noise(1, 4, side, side), num_inference_steps=6,
            height=32, width=32, output_type="latent",
        )
        for pipeline, name, side in zip(pipelines, ("cat", "fox"), sides, strict=True)
    )  # fmt: skip
    result = couple.sample([a, b], edges_between(a, b), progress=False)
    return result[a].images, result[b].images


def test_two_stable_diffusions_meet_over_bridges():
    fine, coarse = autoencoder(), coarse_autoencoder()
    there, back = maps.bridge(fine, coarse), maps.bridge(coarse, fine)
    law = couple.weights.relax(1.0)

    def onto_b(a, b):
        return couple.pair(a.through(there), b, weight=law, directed=True)

    def onto_a(a, b):
        return couple.pair(b.through(back), a, weight=law, directed=True)

    def apart(a, b):
        return float((there(a) - b).norm()), float((back(b) - a).norm())

    stock = painters(lambda a, b: [])
    led = painters(onto_b)
    both = painters(lambda a, b: onto_b(a, b) + onto_a(a, b))
    assert torch.equal(led[0], stock[0])
    assert apart(*led)[0] < 0.5 * apart(*stock)[0]
    assert all(now < 0.5 * before for now, before in zip(apart(*both), apart(*stock), strict=True))


@pytest.mark.parametrize("ends", ["undirected", "wrong way", "both"])
def test_an_end_that_should_move_may_not_look_through_a_bridge(ends):
    a, b = couple.Trajectory(print, name="cat"), couple.Trajectory(print, name="fox")
    seen = a.through(maps.bridge(autoencoder(), coarse_autoencoder()))
    make = {
        "undirected": lambda: couple.pair(seen, b, weight=0.1),
        "wrong way": lambda: couple.pair(b, seen, weight=0.1, directed=True),
        "both": lambda: couple.pair(seen, b.through(maps.bridge(autoencoder(), autoencoder())), weight=0.1),
    }[ends]
    message = (
        "no gradient passes a bridge, so 'cat through bridge(AutoencoderKL, AutoencoderKL)' would never move. Let the "
        "other end follow it: couple.pair(a.through(maps.bridge(a.pipeline.vae, b.pipeline.vae)), b, weight=..., "
        "directed=True); for a pull both ways give a second edge back: couple.pair("
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: maps.bridge(None, autoencoder()), TypeError, "`vae_a` must be a diffusers autoencoder, e.g. pipe.vae"),
        (lambda: maps.bridge(autoencoder(), FAMILIES["ltx"].pipeline().vae), NotImplementedError, "`vae_b`: AutoencoderKLLTXVideo makes videos"),
        (lambda: maps.bridge(autoencoder(), autoencoder(), size=(32,)), ValueError, "`size` must be height and width in pixels, e.g. (512, 512); got (32,)"),
        (lambda: maps.bridge(autoencoder(), autoencoder(), size=(0, 8)), ValueError, "`size` must be height and width"),
        (lambda: maps.bridge(autoencoder(), autoencoder())(noise(1, 16, 16)), ValueError, "got (1, 16, 16). Give it tokens unpacked with couple.backends.flux.unpack"),
        (lambda: maps.bridge(autoencoder(), autoencoder())(noise(1, 4, 3, 8, 8)), ValueError, "got (1, 4, 3, 8, 8). Give it a frame, e.g. a.frames(0)"),
        (lambda: couple.Trajectory(print).through(maps.bridge), TypeError, "Did you mean bridge(a.pipeline.vae, b.pipeline.vae)?"),
    ],
)  # fmt: skip
def test_bad_bridges_are_refused(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()
