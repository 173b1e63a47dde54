"""The pipeline: what each view is told, padding and windows, any scheduler, loading, and refusals."""

import math

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from PIL import Image
from safetensors.torch import save_file

from couple.backends.seva import SevaOutput, SevaPipeline, native_scheduler, native_sigmas, shared_scheduler
from couple.backends.seva.images import encode, token
from couple.scenes.cameras import Cameras
from tests.golden import relative_error
from tests.tiny import seva as tiny

SHARED = shared_scheduler().config


@pytest.fixture
def heard():
    """What the network was given: a list of (x, t, y, dense), one entry per forward."""
    calls = []
    handle = tiny.network().register_forward_pre_hook(lambda _, args: calls.append([arg.clone() for arg in args]))
    yield calls
    handle.remove()


def run(pipeline, seed=0, **arguments):
    return pipeline(**arguments, generator=torch.Generator().manual_seed(seed)).images


def test_what_the_network_is_told(heard):
    """Uncond rows first: no token, no mask, no known frame, but rays; known frames enter clean."""
    pipeline = tiny.pipeline(native_scheduler())
    call = tiny.call(0, inputs=2, targets=2, num_inference_steps=2)
    run(pipeline, **call)
    pixels = pipeline.image_processor.preprocess(call["images"], tiny.SIDE, tiny.SIDE)
    clean, seen = encode(pipeline.vae, pixels), token(pipeline.image_encoder, pixels)
    for (x, t, y, dense), sigma in zip(heard, pipeline.scheduler.sigmas.tolist(), strict=False):
        uncond, cond = x.chunk(2)
        torch.testing.assert_close(cond[:2, :4], clean / math.sqrt(sigma**2 + 1))
        assert not torch.equal(uncond[:2, :4], cond[:2, :4])
        assert torch.equal(uncond[2:, :4], cond[2:, :4])
        assert cond[:, 4].mean(dim=(1, 2)).tolist() == [1, 1, 0, 0]
        assert not uncond[:, 4].any()
        assert torch.equal(uncond[:, 5:], cond[:, 5:]) and torch.equal(dense, x[:, 5:])
        assert (y[4:] == seen).all() and not y[:4].any()
        assert t.unique().numel() == 1
    assert [int(t[0]) for _, t, _, _ in heard] == [999, 499]


def test_the_answer_has_all_views_inputs_first():
    call = {**tiny.call(0, inputs=2, targets=1), "output_type": "pil"}
    output = tiny.seva()(**call, generator=torch.Generator().manual_seed(0))
    assert type(output) is SevaOutput
    assert output.num_inputs == 2
    assert [type(image) for image in output.images] == [Image.Image] * 3
    (images,) = tiny.seva()(**call, generator=torch.Generator().manual_seed(0), return_dict=False)
    assert images == output.images


@pytest.mark.parametrize(("kind", "shape"), [("np", (3, 16, 16, 3)), ("pt", (3, 3, 16, 16)), ("latent", (3, 4, 8, 8))])
def test_output_types(kind, shape):
    images = run(tiny.seva(), **{**tiny.call(0, 1, 2), "output_type": kind})
    assert tuple(images.shape) == shape


def test_pictures_and_cameras_are_scaled_to_the_size_asked_for(heard):
    pipeline = tiny.pipeline(native_scheduler())
    call = tiny.call(0, 1, 2, num_inference_steps=1)
    size = {"height": 16, "width": 32}
    assert run(pipeline, **call, **size).shape == (3, 4, 8, 16)
    dense = heard[0][3]
    # The horizontal field of view is unchanged: the outermost rays are as steep as in the square picture.
    run(pipeline, **call)
    narrow = heard[1][3]
    assert torch.allclose(dense[0, :3, :, [0, 15]].mean(-1), narrow[0, :3, :, [0, 7]].mean(-1), atol=0.05)


def test_pictures_may_be_tensors():
    call = tiny.call(0, 2, 1)
    pixels = torch.stack([torch.as_tensor(np.array(image)) / 255 for image in call["images"]])
    tensors = {**call, "images": pixels.permute(0, 3, 1, 2)}
    torch.testing.assert_close(run(tiny.seva(), **tensors), run(tiny.seva(), **call))


def test_padding_repeats_the_last_view_and_is_no_part_of_the_state(heard):
    call = tiny.call(0, 1, 1, num_inference_steps=1)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    assert run(tiny.seva_native(), **call, latents=noise).shape == noise.shape
    x, _, _, dense = heard[0]
    assert all(torch.equal(x[1], x[slot]) and torch.equal(dense[1], dense[slot]) for slot in (2, 3))
    assert x.shape[0] == 2 * tiny.FRAMES


def test_long_scenes_take_one_step_for_all_views_with_the_mean_of_the_windows(heard):
    pipeline = tiny.pipeline(native_scheduler())
    call = tiny.call(0, 1, 5, num_inference_steps=1, guidance_scale=1.0, min_guidance_scale=1.0)
    noise = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    result = run(pipeline, **call, latents=noise)
    sigma = pipeline.scheduler.sigmas[0]
    predictions = {view: [] for view in range(6)}
    for (x, t, y, dense), window in zip(list(heard), [[0, 1, 2, 3], [0, 2, 3, 4], [0, 3, 4, 5]], strict=True):
        assert len(x) == 4  # at scale 1 there is no unconditional branch
        noise_seen = tiny.network()(x, t, y, dense)
        clean = x[:, :4] * (sigma**2 + 1).sqrt() - sigma * noise_seen
        for view, x0 in zip(window, clean, strict=True):
            predictions[view].append(x0)
    # A single Euler step ends on the prediction itself.
    expected = torch.stack([torch.stack(x0s).mean(dim=0) for x0s in predictions.values()])
    assert [len(x0s) for x0s in predictions.values()] == [3, 1, 2, 3, 2, 1]
    assert relative_error(result, expected) < 1e-5


SCHEDULERS = {
    "ddim": lambda: DDIMScheduler.from_config(SHARED),
    "ddpm": shared_scheduler,
    "v": lambda: DDIMScheduler.from_config(SHARED, prediction_type="v_prediction"),
    "sample": lambda: DDPMScheduler.from_config(SHARED, prediction_type="sample"),
    "euler": lambda: EulerDiscreteScheduler.from_config(SHARED),
    "ancestral": lambda: EulerAncestralDiscreteScheduler.from_config(SHARED),
    "heun": lambda: HeunDiscreteScheduler.from_config(SHARED),
    "dpm": lambda: DPMSolverMultistepScheduler.from_config(SHARED),
    "unipc": lambda: UniPCMultistepScheduler.from_config(SHARED),
    "native": native_scheduler,
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_any_scheduler_drives_it_from_the_level_it_starts_at(name, heard):
    pipeline = tiny.pipeline(SCHEDULERS[name]())
    noise = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    result = run(pipeline, **tiny.call(0, 1, 2, num_inference_steps=2), latents=noise)
    assert result.isfinite().all()
    x, t, _, _ = heard[0]
    first = 999 if name == "native" else 620
    assert int(t[0]) == first
    # In the variance-preserving form every convention starts with the same unit noise.
    assert relative_error(x[2, :4], noise[2]) < 0.01


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_the_prediction_type_of_the_scheduler_does_not_change_the_result(prediction):
    call = tiny.call(0, 1, 2)
    epsilon = run(tiny.pipeline(DDIMScheduler.from_config(SHARED)), **call)
    other = run(tiny.pipeline(DDIMScheduler.from_config(SHARED, prediction_type=prediction)), **call)
    assert relative_error(other, epsilon) < 1e-4


def test_vp_and_ve_give_the_same_views():
    """DDIM on a VP state and Euler on a VE state are one method (law of matched levels)."""
    call = tiny.call(0, 1, 2, num_inference_steps=4)
    ddim = run(tiny.pipeline(DDIMScheduler.from_config(SHARED, set_alpha_to_one=True)), **call)
    levels = [DDIMScheduler.from_config(SHARED).alphas_cumprod[t] for t in (999, 749, 499, 249)]
    sigmas = [*(float(((1 - square) / square) ** 0.5) for square in levels), 0.0]
    euler = tiny.pipeline(EulerDiscreteScheduler.from_config(SHARED))
    noise = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    # Euler starts at sigma, DDIM at sigma / alpha of unit noise.
    noise = noise * math.sqrt(1 + sigmas[0] ** 2) / sigmas[0]
    assert relative_error(run(euler, **call, sigmas=sigmas, latents=noise), ddim) < 1e-4


def test_equal_seeds_give_equal_bits():
    pipeline, call = tiny.seva(), tiny.call(0, 1, 2)
    assert torch.equal(run(pipeline, **call), run(pipeline, **call))
    assert not torch.equal(run(pipeline, seed=1, **call), run(pipeline, **call))


def test_guidance_rules_and_scales_matter():
    # Input frames are 0 to 1: the temporal rule lowers the scale of the frame after them.
    call = tiny.call(0, 2, 2, num_inference_steps=1)
    plain = run(tiny.seva(), **call)
    for change in (
        {"guidance": "temporal"},
        {"guidance_scale": 4.0},
        {"min_guidance_scale": 1.0},
        {"camera_scale": 5.0},
    ):
        assert relative_error(run(tiny.seva(), **call, **change), plain) > 1e-3


def test_a_saved_pipeline_loads_and_does_the_same(tmp_path):
    pipeline, call = tiny.seva_native(), tiny.call(0, 1, 2)
    pipeline.save_pretrained(tmp_path)
    loaded = SevaPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded.unet) is type(pipeline.unet)
    assert relative_error(run(loaded, **call), run(pipeline, **call)) < 1e-5


def test_a_single_file_in_the_official_layout_loads(tmp_path):
    state, config = tiny.network().state_dict(), dict(tiny.network().config)
    save_file(state, tmp_path / "model.safetensors")
    sizes = {key: config[key] for key in ("model_channels", "num_frames", "num_head_channels", "context_dim")}
    parts = {"vae": tiny.seva().vae, "image_encoder": tiny.seva().image_encoder}
    pipeline = SevaPipeline.from_single_file(tmp_path / "model.safetensors", **parts, **sizes)
    pipeline.set_progress_bar_config(disable=True)
    assert type(pipeline.scheduler) is DDPMScheduler
    call = tiny.call(0, 1, 2)
    assert relative_error(run(pipeline, **call), run(tiny.seva(), **call)) < 1e-5
    half = SevaPipeline.from_single_file(
        tmp_path / "model.safetensors", **parts, **sizes, dtype=torch.bfloat16, scheduler=native_scheduler()
    )
    half.set_progress_bar_config(disable=True)
    assert half.unet.dtype == torch.bfloat16
    result = run(half, **call)
    assert result.dtype == torch.float32
    assert relative_error(result, run(tiny.seva_native(), **call)) < 0.1


def test_a_single_file_with_other_keys_is_refused(tmp_path):
    state = {key.replace("time_embed", "time"): value for key, value in tiny.network().state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    sizes = {"model_channels": 32, "num_frames": 4, "num_head_channels": 32, "context_dim": 16}
    with pytest.raises(ValueError, match=r"4 missing \(time_embed.0.weight.*4 unexpected"):
        SevaPipeline.from_single_file(
            tmp_path / "model.safetensors", vae=tiny.seva().vae, image_encoder=tiny.eyes(), **sizes
        )


def _zero_snr():
    return DDIMScheduler.from_config(SHARED, rescale_betas_zero_snr=True)


MISTAKES = {
    "matrices": ({"cameras": torch.eye(4)[None]}, TypeError, r"`cameras` is a Tensor; give cameras=.*Cameras\(c2w"),
    "one picture": ({"images": Image.new("RGB", (16, 16))}, TypeError, r"give a list, \[image\]"),
    "no picture": ({"images": []}, ValueError, "0 pictures but 1 cameras"),
    "picture size": (
        {"images": [Image.new("RGB", (8, 12))]},
        ValueError,
        r"picture 0 has 12 x 8 pixels.*16 x 16; use cameras.resized\(12, 8\)",
    ),
    "size": ({"height": 24}, ValueError, "multiples of 16; pass height=32, width=16"),
    "guidance": ({"guidance": "vanilla"}, ValueError, "use 'multiview' or 'temporal'"),
    "output type": ({"output_type": "jpg"}, ValueError, "output_type='jpg'"),
    "scale": ({"camera_scale": 0.0}, ValueError, "camera_scale=0.0 must be positive"),
    "latents": ({"latents": torch.zeros(4, 4, 8, 8)}, ValueError, r"torch.randn\(3, 4, 8, 8\)"),
    "sigmas": ({"sigmas": native_sigmas(4)}, ValueError, "does not support custom sigmas"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named_before_anything_runs(name, heard):
    change, error, message = MISTAKES[name]
    with pytest.raises(error, match=message):
        tiny.seva()(**{**tiny.call(0, 1, 2), **change})
    assert not heard


@pytest.mark.parametrize(
    "scheduler",
    [DDIMScheduler.from_config(SHARED, rescale_betas_zero_snr=True), FlowMatchEulerDiscreteScheduler()],
    ids=["zero snr", "flow"],
)
def test_a_state_noisier_than_the_network_knows_is_refused(scheduler, heard):
    with pytest.raises(ValueError, match="starts at alpha .* none above sigma / alpha = 84.9.*shared_scheduler"):
        tiny.pipeline(scheduler)(**tiny.call(0, 1, 2))
    assert not heard


def test_inputs_that_fill_a_window_are_refused():
    with pytest.raises(ValueError, match="4 input views leave no room for targets in windows of 4 frames.*at most 3"):
        tiny.seva()(**tiny.call(0, 4, 1))


def test_nothing_the_caller_passed_in_changes():
    call = tiny.call(0, 1, 2)
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    before = latents.clone(), call["cameras"].c2w.clone(), call["images"][0].tobytes()
    run(tiny.seva(), **call, latents=latents)
    assert torch.equal(latents, before[0])
    assert torch.equal(call["cameras"].c2w, before[1])
    assert call["images"][0].tobytes() == before[2]
    assert isinstance(call["cameras"], Cameras)
