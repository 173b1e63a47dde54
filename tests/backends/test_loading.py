"""A model folder that lacks something is refused by the name of what it lacks."""

import json
import shutil

import pytest
import torch
from diffusers import FluxPipeline

from couple.backends.flux import guidance_kwargs, size_multiple
from couple.backends.loading import check_folder, load_text_to_image
from tests.tiny import FAMILIES

CPU = {"dtype": torch.float32, "device": torch.device("cpu")}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flux")
    FAMILIES["flux"].pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "flux")


def test_a_saved_pipeline_loads_as_what_it_was(saved):
    pipeline = load_text_to_image(saved, **CPU)
    assert type(pipeline) is FluxPipeline
    assert pipeline.dtype == torch.float32


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("model_index.json", r"has no model_index.json; give a folder written by pipeline.save_pretrained"),
        ("vae", r"lacks vae/ for its AutoencoderKL; save or download the model again"),
        ("tokenizer_2", r"lacks tokenizer_2/ for its T5Tokenizer"),
        ("transformer/config.json", r"lacks transformer/config.json; save or download"),
        ("scheduler/scheduler_config.json", r"lacks scheduler/scheduler_config.json; save or download"),
        ("vae/diffusion_pytorch_model.safetensors", r"lacks the weights of vae \(\*.safetensors\); save or"),
        ("text_encoder/model.safetensors", r"lacks the weights of text_encoder \(\*.safetensors\); save or"),
    ],
)
def test_a_missing_file_is_named(folder, missing, message):
    path = folder / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ValueError, match=message):
        load_text_to_image(folder, **CPU)


def test_a_missing_shard_is_named(folder):
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    index = {"weight_map": {"a": "part-1.safetensors", "b": "part-2.safetensors"}}
    (folder / "vae" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    weights.rename(folder / "vae" / "part-1.safetensors")
    with pytest.raises(ValueError, match="lacks vae/part-2.safetensors"):
        check_folder(folder)


def test_pickled_weights_are_refused(folder):
    (folder / "vae" / "diffusion_pytorch_model.safetensors").rename(folder / "vae" / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pickled weights \(.bin\) only.*safe_serialization=True"):
        load_text_to_image(folder, **CPU)


def test_broken_files_are_one_sentence(folder):
    (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ValueError, match=r"^model '.*flux' could not be loaded \(") as caught:
        load_text_to_image(folder, **CPU)
    assert "\n" not in str(caught.value)
    (folder / "model_index.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON .*; save or download the model again"):
        check_folder(folder)


def test_a_name_that_is_neither_a_folder_nor_a_hub_id_is_refused(tmp_path):
    for name in (str(tmp_path / "nowhere"), "./nowhere", "flux", "a/b/c"):
        with pytest.raises(ValueError, match=r"is no folder here and no hub id such as owner/name; check the path"):
            load_text_to_image(name, **CPU)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match="is a file; give the folder that holds model_index.json"):
        load_text_to_image(tmp_path / "model.safetensors", **CPU)


def test_a_hub_model_that_cannot_be_had_is_one_sentence():
    with pytest.raises(ValueError, match=r"^model 'no-one/nothing' could not be loaded \(") as caught:
        load_text_to_image("no-one/nothing", **CPU)
    assert "\n" not in str(caught.value)


def test_guidance_is_given_in_the_way_the_model_takes_it():
    distilled, not_distilled, stable = (FAMILIES[name].pipeline() for name in ("flux", "flux2_klein", "sd21"))
    assert guidance_kwargs(distilled, 3.0) == {"guidance_scale": 3.0}
    assert guidance_kwargs(not_distilled, 3.0) == {"guidance_scale": 3.0}
    assert guidance_kwargs(stable, 3.0) == {"guidance_scale": 3.0}
    assert guidance_kwargs(FAMILIES["qwen_image"].pipeline(), 3.0) == {
        "true_cfg_scale": 3.0,
        "negative_prompt": "",
    }


def test_sizes_are_multiples_of_what_one_token_covers():
    flux, stable = (FAMILIES[name].pipeline() for name in ("flux", "sd21"))
    assert size_multiple(flux) == 2 * flux.vae_scale_factor
    assert size_multiple(stable) == stable.vae_scale_factor
