"""Adapters load strictly, leave the base model alone, and survive being saved."""

import functools
import json

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file

from couple.backends.mv_adapter import (
    I2MV_SD21,
    MultiViewUNet,
    ReferenceUNet,
    load_adapter,
    load_pipeline,
)
from couple.backends.mv_adapter.loading import camera_encoder
from tests.golden import DATA
from tests.tiny import stable_diffusion
from tests.tiny.building import clip_encoder, clip_tokenizer, module
from tests.tiny.mv_adapter import FAMILIES, autoencoder, unet

TABLES = json.loads((DATA / "mvadapter_state_dicts.json").read_text())
_CROSS_DOWN, _CROSS_UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
BASES = {
    "sd21": {
        "sample_size": 64,
        "block_out_channels": (320, 640, 1280, 1280),
        "attention_head_dim": (5, 10, 20, 20),
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
    },
    "sdxl": {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", _CROSS_DOWN, _CROSS_DOWN),
        "up_block_types": (_CROSS_UP, _CROSS_UP, "UpBlock2D"),
        "attention_head_dim": (5, 10, 20),
        "transformer_layers_per_block": (1, 2, 10),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}


SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@functools.cache
def full_size(family):
    with torch.device("meta"):
        return UNet2DConditionModel(**BASES[family])


def table(name):
    shapes = TABLES[name]["unet_adapter_keys"] | TABLES[name]["cond_encoder_keys"]
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


@pytest.mark.parametrize("name", [name for name in TABLES if not name.startswith("_")])
def test_every_published_adapter_fits_its_base_model(name):
    base = full_size(name.split("_")[1])
    own, adapter = load_adapter(base, table(name))
    assert type(own) is (ReferenceUNet if name.startswith("i2mv") else MultiViewUNet)
    added = sum(p.numel() for net in (own, adapter) for p in net.parameters())
    assert added - sum(p.numel() for p in base.parameters()) == TABLES[name]["num_params"]


def test_missing_unexpected_and_unequal_keys_are_named():
    state, base = table("t2mv_sd21"), full_size("sd21")
    key = "mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q_mv.weight"
    with pytest.raises(ValueError, match=rf"^file does not fit MultiViewUNet: 1 missing \({key}\)"):
        load_adapter(base, {k: v for k, v in state.items() if k != key}, source="file")
    with pytest.raises(ValueError, match=r"1 unexpected \(extra.weight\)"):
        load_adapter(base, state | {"extra.weight": torch.empty(1)})
    with pytest.raises(ValueError, match=rf"1 of another shape \({key} \(2, 2\), expected \(1280, 1280\)\)"):
        load_adapter(base, state | {key: torch.empty(2, 2)})
    with pytest.raises(ValueError, match=r"does not fit T2IAdapter: 1 missing \(adapter.conv_in.bias\)"):
        load_adapter(base, {k: v for k, v in state.items() if k != "adapter.conv_in.bias"})


def test_an_adapter_of_the_other_base_model_is_refused():
    with pytest.raises(ValueError, match=r"does not fit MultiViewUNet: \d+ missing .* unexpected"):
        load_adapter(full_size("sd21"), table("t2mv_sdxl"))


def base_pipeline(own):
    """The stock pipeline that the tiny UNet `own` is an adapter's UNet of."""
    base = UNet2DConditionModel.from_config(own.config).eval()
    base.load_state_dict({key: value for key, value in own.state_dict().items() if ".processor." not in key})
    return StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=clip_encoder(),
        tokenizer=clip_tokenizer(),
        unet=base,
        scheduler=DDIMScheduler(**SCHEDULE, clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def test_a_base_pipeline_and_a_file_make_the_multi_view_pipeline(tmp_path):
    family = FAMILIES["mv_adapter i2mv sd21"]
    there = family.pipeline()
    attending = {key: value for key, value in there.unet.state_dict().items() if ".processor." in key}
    save_file(attending | there.adapter.state_dict(), tmp_path / "adapter.safetensors")
    base = base_pipeline(there.unet)
    processors, scheduler = dict(base.unet.attn_processors), base.scheduler

    ddpm = DDPMScheduler.from_config(scheduler.config, clip_sample=False)
    pipe = load_pipeline(base, tmp_path / "adapter.safetensors", scheduler=ddpm)
    pipe.set_progress_bar_config(disable=True)
    expected = there(**family.arguments(0)).images
    assert torch.allclose(pipe(**family.arguments(0)).images, expected, rtol=1e-4, atol=1e-4)

    assert base.unet.attn_processors == processors
    assert base.scheduler is scheduler
    assert type(base.unet) is UNet2DConditionModel
    assert pipe.unet.conv_in.weight.data_ptr() == base.unet.conv_in.weight.data_ptr()


def test_a_base_pipeline_of_sdxl_makes_the_xl_pipeline(tmp_path):
    base = stable_diffusion.sdxl()
    encoder = module(camera_encoder, base.unet)
    layers = {name: base.unet.get_submodule(name.removesuffix(".processor")) for name in base.unet.attn_processors}
    state = {}
    for name, layer in layers.items():
        if "attn1" in name:
            for part in ("to_q", "to_k", "to_v", "to_out.0"):
                projection = layer.get_submodule(part)
                key = f"{name}.{part.replace('to_out', 'to_out_mv') if 'out' in part else part + '_mv'}"
                state |= {f"{key}.{which}": value.clone() for which, value in projection.state_dict().items()}
    save_file(state | encoder.state_dict(), tmp_path / "adapter.safetensors")
    pipe = load_pipeline(base, tmp_path / "adapter.safetensors")
    assert type(pipe).__name__ == "MVAdapterXLPipeline"
    assert pipe.text_encoder_2 is base.text_encoder_2
    assert pipe.scheduler.config.trained_betas is not None
    assert pipe.scheduler.config.timestep_spacing == base.scheduler.config.timestep_spacing


def test_what_is_no_base_pipeline_is_refused(tmp_path):
    with pytest.raises(TypeError, match="`base` is a MVAdapterPipeline; give a StableDiffusionPipeline"):
        load_pipeline(FAMILIES["mv_adapter t2mv sd21"].pipeline(), tmp_path / "adapter.safetensors")
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        load_pipeline(base_pipeline(unet(False)), tmp_path / "adapter.safetensors")


def test_published_weights_that_are_not_here_are_named_with_their_licence(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"mvadapter_i2mv_sd21.safetensors of huanngzh/mv-adapter .*Apache-2.0"):
        load_pipeline(base_pipeline(unet(True)), I2MV_SD21)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_pipeline_loads_as_what_it_was(name, tmp_path):
    family = FAMILIES[name]
    pipe = family.pipeline()
    pipe.save_pretrained(tmp_path)
    again = type(pipe).from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert type(again.unet) is type(pipe.unet)
    for key, value in pipe.unet.state_dict().items():
        assert torch.equal(again.unet.state_dict()[key], value)
    settings = {"num_inference_steps": 1, "output_type": "latent"}
    expected = pipe(**family.arguments(0) | settings).images
    assert torch.allclose(again(**family.arguments(0) | settings).images, expected, rtol=1e-4, atol=1e-4)


def test_half_precision_base_models_get_half_precision_adapters():
    own = unet(False)
    base = base_pipeline(own).unet.to(torch.bfloat16)
    state = {key: value for key, value in own.state_dict().items() if ".processor." in key}
    half, adapter = load_adapter(base, state | module(camera_encoder, base).state_dict())
    assert {p.dtype for net in (half, adapter) for p in net.parameters()} == {torch.bfloat16}
