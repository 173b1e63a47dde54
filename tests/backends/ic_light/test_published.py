"""Loading IC-Light: offsets in the published layout, tiny and, without numbers, at full size."""

import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file

from couple.backends.checkpoint import add_strictly
from couple.backends.ic_light import OFFSETS, from_published, widen_conv_in
from tests.tiny.building import clip_encoder, clip_tokenizer, picture
from tests.tiny.relighting import mattes
from tests.tiny.stable_diffusion import autoencoder, unet

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    parts = (autoencoder(), clip_encoder(), clip_tokenizer(), unet(), PNDMScheduler(**BETAS, skip_prk_steps=True))
    StableDiffusionPipeline(*parts, None, None, requires_safety_checker=False).save_pretrained(folder)
    return folder


def offsets(channels):
    random = torch.Generator().manual_seed(0)
    shapes = {key: list(value.shape) for key, value in unet().state_dict().items()}
    shapes["conv_in.weight"][1] = channels
    return {key: torch.randn(shape, generator=random).mul(0.1).half() for key, shape in shapes.items()}


@pytest.mark.parametrize("variant", OFFSETS)
def test_offsets_are_added_to_the_base(base, tmp_path, variant):
    offset = offsets(12 if variant == "fbc" else 8)
    save_file(offset, tmp_path / "offset.safetensors")
    pipeline = from_published(variant, base=base, offset=tmp_path / "offset.safetensors")
    merged = pipeline.unet.state_dict()
    assert merged.keys() == offset.keys()
    for key, old in unet().state_dict().items():
        if key != "conv_in.weight":
            assert torch.equal(merged[key], old + offset[key].float())
    columns = offset["conv_in.weight"].float()
    assert torch.equal(merged["conv_in.weight"][:, :4], unet().conv_in.weight + columns[:, :4])
    assert torch.equal(merged["conv_in.weight"][:, 4:], columns[:, 4:])
    background = {"background": picture(1, 16)} if variant == "fbc" else {}
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline("dusk", picture(0, 16), alpha=mattes()[:1], num_inference_steps=1, output_type="pt", **background)
    assert made.images.isfinite().all()


def test_the_noise_levels_are_those_of_the_base(base, tmp_path):
    save_file(offsets(8), tmp_path / "offset.safetensors")
    pipeline = from_published(base=base, offset=tmp_path / "offset.safetensors", dtype=torch.bfloat16)
    assert isinstance(pipeline.scheduler, DDIMScheduler) and not pipeline.scheduler.config.clip_sample
    assert torch.equal(pipeline.scheduler.alphas_cumprod, DDIMScheduler(**BETAS).alphas_cumprod)
    assert pipeline.unet.dtype == pipeline.vae.dtype == pipeline.text_encoder.dtype == torch.bfloat16


@pytest.mark.parametrize(
    "fault, message",
    [
        (lambda state: state.pop("conv_in.bias"), r"1 missing \(conv_in.bias\)"),
        (lambda state: state.update(extra=torch.zeros(1)), r"1 unexpected \(extra\)"),
        (lambda state: state.update(offsets(12)), r"conv_in.weight \(16, 12, 3, 3\), expected \(16, 8, 3, 3\)"),
    ],
    ids=["missing", "unexpected", "shape"],
)
def test_offsets_that_do_not_fit_are_named(base, tmp_path, fault, message):
    state = offsets(8)
    fault(state)
    save_file(state, tmp_path / "offset.safetensors")
    with pytest.raises(ValueError, match=message):
        from_published("fc", base=base, offset=tmp_path / "offset.safetensors")


def test_nothing_is_added_when_something_does_not_fit():
    linear = torch.nn.Linear(2, 2)
    before = {key: value.clone() for key, value in linear.state_dict().items()}
    with pytest.raises(ValueError, match=r"a file does not fit Linear: 1 missing \(bias\)"):
        add_strictly(linear, {"weight": torch.ones(2, 2)}, source="a file")
    assert all(torch.equal(linear.state_dict()[key], value) for key, value in before.items())


def test_variants_are_named():
    with pytest.raises(ValueError, match="`variant` is 'fg'; it must be one of fc, fcon, fbc"):
        from_published("fg")


@pytest.mark.parametrize("channels", [8, 12])
def test_a_full_size_offset_fits_a_full_size_base(channels):
    with torch.device("meta"):
        full = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
        shapes = {key: value.shape for key, value in full.state_dict().items()}
        shapes["conv_in.weight"] = (320, channels, 3, 3)
        offset = {key: torch.empty(*shape, dtype=torch.float16) for key, shape in shapes.items()}
    # The published files have 1.72 GB, two bytes a number.
    assert sum(value.numel() for value in offset.values()) * 2 == pytest.approx(1.72e9, rel=1e-3)
    with pytest.raises(ValueError, match=rf"conv_in.weight \(320, {channels}, 3, 3\), expected \(320, 4, 3, 3\)"):
        add_strictly(full, offset, source="offset")
    add_strictly(widen_conv_in(full, channels), offset, source="offset")
