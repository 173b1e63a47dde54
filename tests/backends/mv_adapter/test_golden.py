"""Numbers of the official code, at tiny size: cameras, schedule, camera encoder, network, sampler."""

import functools
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

from couple.backends.mv_adapter import MVAdapterPipeline, camera_map, load_adapter, rig, shifted
from couple.scenes.cameras import GL
from tests.golden import DATA, Golden, relative_error, weights

FILES = sorted(path.name for path in DATA.glob("mvadapter_golden_*.safetensors"))
assert FILES
golden_files = pytest.mark.parametrize("name", FILES, ids=[file.split(".")[0].split("_")[-1] for file in FILES])
variants = pytest.mark.parametrize("variant", ["t2mv", "i2mv"])


class RecordingDDIM(DDIMScheduler):
    """Keeps the states it steps to."""

    def step(self, *args, **kwargs):
        result = super().step(*args, **kwargs)
        self.states = [*getattr(self, "states", []), result[0]]
        return result


@functools.cache
def opened(name):
    return Golden(name)


def cameras(golden, height, width):
    ring = golden.meta["rig"]
    # The file counts azimuths from the x axis.
    azimuths = [degrees + 90 for degrees in ring["azimuth_deg"]]
    return rig(azimuths, elevation=ring["elevation_deg"], distance=ring["distance"], height=height, width=width)


@functools.cache
def networks(name, reference):
    golden = opened(name)
    keys = golden.meta["keys_shapes"]
    config = {k: v for k, v in golden.meta["config"].items() if k not in ("num_views", "t2i_adapter")}
    base = UNet2DConditionModel(**config).eval()
    base.load_state_dict(weights({k: v for k, v in keys["i2mv_unet"].items() if ".processor." not in k}))
    attending = {k: v for k, v in keys["i2mv_unet"].items() if ".processor." in k and (reference or "_ref." not in k)}
    return load_adapter(base, weights(attending) | weights(keys["cond_encoder"]))


@functools.cache
def run(name, variant):
    """The whole call of the golden file through the pipeline, with what the network and the scheduler said."""
    golden = opened(name)
    settings, of = golden.meta["sampler"], golden.under(f"{variant}.")
    unet, adapter = networks(name, variant == "i2mv")
    pipe = MVAdapterPipeline(
        vae=None,
        text_encoder=None,
        tokenizer=None,
        unet=unet,
        adapter=adapter,
        scheduler=shifted(
            RecordingDDIM(**settings["base"]),
            settings["shift_scale"],
            interpolated=settings["shift_mode"] == "interpolated",
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    calls = []
    unet.register_forward_hook(lambda _, args, kwargs, out: calls.append((kwargs, out[0])), with_kwargs=True)
    last = settings["runs"][variant]
    height, width = (8 * side for side in of["x_T"].shape[-2:])
    result = pipe(
        image=of.get("ref_latents"),
        cameras=cameras(golden, height, width),
        latents=of["x_T"],
        prompt_embeds=of["context_pos"],
        negative_prompt_embeds=of["context_neg"],
        num_inference_steps=last["steps"],
        guidance_scale=last["guidance"],
        multiview_scale=last["mv_scale"],
        reference_scale=last["ref_scale"] or 1.0,
        output_type="latent",
    ).images
    return SimpleNamespace(golden=of, pipe=pipe, calls=calls[variant == "i2mv" :], result=result)


@golden_files
def test_the_rig_is_the_official_one(name):
    golden = opened(name)
    expected = golden["camera.c2w"].double() @ GL
    assert torch.allclose(cameras(golden, 32, 32).c2w, expected, atol=1e-5)


@golden_files
def test_the_camera_map_is_the_official_one(name):
    golden = opened(name)
    got = camera_map(cameras(golden, 16, 24))
    assert got.shape == (*golden["camera.map"].shape, 16, 24)
    assert torch.allclose(got, golden["camera.map"][:, :, None, None].expand_as(got), atol=1e-5)
    assert torch.allclose(2 * got[:, :, 3, 5] - 1, golden["camera.map_raw"], atol=1e-5)


@golden_files
def test_the_shifted_schedule_is_the_official_one(name):
    golden = opened(name)
    tables = golden.under("schedule.betas_")
    assert tables
    for table, betas in tables.items():
        mode, scale = table.split("_")
        got = shifted(DDIMScheduler(**golden.meta["sampler"]["base"]), float(scale), interpolated=mode != "default")
        # The official betas are float32 quotients near 1, rounded by about 1e-6.
        assert torch.allclose(got.betas, betas, rtol=0, atol=5e-6)
        assert relative_error(got.alphas_cumprod, golden[f"schedule.alphas_cumprod_{table}"]) < 1e-5
        # The noisy end is small numbers in alphas_cumprod: compare its largest sigma / alpha too.
        sigma = [((1 - a[-1]) / a[-1]).sqrt() for a in (got.alphas_cumprod, golden[f"schedule.alphas_cumprod_{table}"])]
        assert float(sigma[0]) == pytest.approx(float(sigma[1]), rel=1e-4)


@golden_files
def test_the_camera_encoder_gives_the_official_features(name):
    golden = opened(name)
    _, adapter = networks(name, False)
    with torch.no_grad():
        features = adapter(golden["cond_encoder.in"])
    expected = golden.under("cond_encoder.out.")
    assert len(features) == len(expected)
    for i, feature in enumerate(features):
        assert relative_error(feature, expected[str(i)]) < 1e-5


@golden_files
@variants
def test_the_unet_is_given_the_official_camera_features(name, variant):
    done = run(name, variant)
    given, _ = done.calls[0]
    views = len(done.golden["x_T"])
    with torch.no_grad():
        size = [8 * side for side in done.golden["x_T"].shape[-2:]]
        features = done.pipe.adapter(camera_map(cameras(opened(name), *size)))
    for i, feature in enumerate(features):
        assert relative_error(feature[:1], done.golden[f"adapter_residual.{i}"]) < 1e-5
        assert len(feature) == views
    # The network empties the list it was handed, so a fresh one must come with every call.
    assert given["down_intrablock_additional_residuals"] == []


@golden_files
def test_the_reference_features_are_the_official_ones(name):
    done = run(name, "i2mv")
    given, _ = done.calls[0]
    reference = given["cross_attention_kwargs"]["views"].reference
    expected = {k.removeprefix("ref_feature."): v for k, v in done.golden.items() if k.startswith("ref_feature.")}
    views = len(done.golden["x_T"])
    assert expected
    for place, feature in expected.items():
        rows = reference[f"{place}.transformer_blocks.0.attn1"]
        assert not rows[:views].any()
        for row in rows[views:]:
            assert relative_error(row[None], feature) < 1e-5


@golden_files
@variants
def test_the_network_gives_the_official_noise(name, variant):
    done = run(name, variant)
    assert relative_error(done.calls[0][1], done.golden["eps_first"]) < 1e-4
    if "last_eps_row0" in done.golden:
        assert relative_error(done.calls[-1][1][:1], done.golden["last_eps_row0"]) < 1e-4


@golden_files
@variants
def test_the_sampler_takes_the_official_path(name, variant):
    done = run(name, variant)
    assert torch.equal(done.pipe.scheduler.timesteps, done.golden["timesteps"])
    for state, expected in zip(done.pipe.scheduler.states, done.golden["x_steps"], strict=True):
        assert relative_error(state, expected) < 1e-3
    assert torch.equal(done.result, done.pipe.scheduler.states[-1])
