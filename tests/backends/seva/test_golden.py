"""Every part against what the official code answers, at tiny size; all sizes are read from the golden file."""

import re

import pytest
import torch
from diffusers import EulerDiscreteScheduler

from couple.backends.seva.cameras import normalised, pluecker
from couple.backends.seva.denoiser import Conditioning, denoise, predict_x0
from couple.backends.seva.guidance import guided, multiview_scales, temporal_scales
from couple.backends.seva.model import SevaModel
from couple.backends.seva.schedule import SIGMAS, native_scheduler, nearest_index
from couple.scenes.cameras import Cameras
from tests.golden import Golden, relative_error, weights
from tests.tiny import seva as tiny

GOLDEN = Golden("seva_golden_tiny.safetensors")
FRAMES = int(GOLDEN.meta["net.num_frames"])


@pytest.fixture(scope="module")
def network():
    state = weights(GOLDEN.meta["keys_shapes"])
    model = SevaModel(
        model_channels=state["time_embed.0.weight"].shape[1],
        num_frames=FRAMES,
        num_head_channels=int(re.search(r"num_head_channels\W+(\d+)", str(GOLDEN.meta))[1]),
        context_dim=GOLDEN["net.y"].shape[2],
    )
    model.load_state_dict(state, strict=True)
    return model.eval().requires_grad_(False)


def conditioning():
    given = GOLDEN.under("denoiser.cond.")
    return Conditioning(
        context=given["crossattn"],
        clean=given["replace"][:, :4],
        inputs=given["replace"][:, 4].amax(dim=(1, 2)) > 0,
        rays=given["dense_vector"],
    )


def sampler():
    """The recorded sampling run, `samplerN.*` for N steps."""
    (prefix,) = {key.split(".")[0] for key in GOLDEN.tensors if key.startswith("sampler")}
    return GOLDEN.under(f"{prefix}."), float(GOLDEN.meta[f"{prefix}.scale"])


def guiders():
    """Cameras, input mask and the two scales of the recorded guiders."""
    cameras = Cameras(GOLDEN["guider.c2w"], GOLDEN["guider.K"], 1, 1)
    return cameras, GOLDEN["guider.mask"], float(GOLDEN.meta["guider.scale"]), float(GOLDEN.meta["guider.cfg_min"])


def test_network(network):
    out = network(GOLDEN["net.x"], GOLDEN["net.t"], GOLDEN["net.y"], GOLDEN["net.dense"], num_frames=FRAMES)
    assert relative_error(out, GOLDEN["net.out"]) < 1e-5


def test_camera_normalisation():
    raw = Cameras(GOLDEN["camera.c2w_raw"], GOLDEN["camera.K_norm"], 1, 1)
    cameras = normalised(raw, float(GOLDEN.meta["camera.camera_scale"]))
    assert relative_error(cameras.c2w, GOLDEN["camera.c2w_normed"]) < 1e-5
    assert relative_error(cameras.w2c, GOLDEN["camera.w2c_normed"]) < 1e-5


def test_pluecker():
    (expected,) = GOLDEN.under("camera.plucker_").values()
    height, width = expected.shape[2:]
    cameras = Cameras(GOLDEN["camera.c2w_normed"], GOLDEN["camera.K_norm"], 1, 1).resized(height, width)
    assert relative_error(pluecker(cameras), expected) < 1e-5


@pytest.mark.parametrize(("name", "rule"), [("multiview", multiview_scales), ("temporal", temporal_scales)])
def test_guider(name, rule):
    uncond, cond = GOLDEN["guider.x"].chunk(2)
    assert relative_error(guided(uncond, cond, rule(*guiders())), GOLDEN[f"guider.{name}"]) < 1e-5


def test_denoiser_call(network):
    # The official denoiser moves the level itself to the nearest of its table, here only the index is.
    z, sigma = GOLDEN["denoiser.z"], SIGMAS[nearest_index(float(GOLDEN["denoiser.sigma"][0]))]
    known = conditioning()
    both = predict_x0(network, z, sigma, known.withheld(), known)
    assert relative_error(both, GOLDEN["denoiser.denoised_uc_then_c"]) < 1e-5
    scales = multiview_scales(*guiders())
    assert relative_error(denoise(network, z, sigma, conditioning(), scales), GOLDEN["denoiser.guided"]) < 1e-5


def test_sampler(network):
    run, scale = sampler()
    cameras, inputs, _, min_scale = guiders()
    pipeline = tiny.pipeline(native_scheduler())
    pipeline.register_modules(unet=network)
    pipeline.scheduler.set_timesteps(sigmas=run["sigmas"].tolist())
    assert isinstance(pipeline.scheduler, EulerDiscreteScheduler)
    start = run["noise"] * (1 + run["sigmas"][0] ** 2).sqrt()
    result = pipeline._sample(
        start,
        torch.arange(FRAMES)[None],
        [multiview_scales(cameras, inputs, scale, min_scale)],
        conditioning(),
        generator=None,
    )
    assert relative_error(result, run["result"]) < 1e-4
