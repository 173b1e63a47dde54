"""The bundled editing models: one latent space, pictures that survive it, and a coupling that makes views agree."""

import json

import pytest
import torch
from diffusers import AutoencoderKL

from couple import bundled, scenes
from couple.cli import run
from couple.metrics import psnr
from couple.scenes.pictures import to_tensor


def test_the_autoencoder_keeps_the_bundled_scene():
    vae = AutoencoderKL.from_pretrained(bundled.views(), subfolder="vae")
    pictures = to_tensor(scenes.load(bundled.scene()).pictures())
    with torch.no_grad():
        seen = vae.decode(vae.encode(pictures * 2 - 1).latent_dist.mode()).sample / 2 + 0.5
    assert psnr(seen.clamp(0, 1), pictures).min() > 28


@pytest.mark.parametrize("editor", ["instruct", "controlnet"])
def test_coupled_views_agree_more_than_either_model_alone(editor, tmp_path):
    assert run(["edit", "--editor", editor, "--out", str(tmp_path / "run"), "--device", "cpu"]) == 0
    errors = json.loads((tmp_path / "run" / "run.json").read_text())["results"]["reprojection_error"]
    assert errors["coupled"] < 0.85 * min(errors["per-image"], errors["image-to-multi-view"])
    assert len(scenes.load(tmp_path / "run" / "coupled")) == bundled.VIEWS


def test_a_moved_object_is_blended_in_by_default(tmp_path):
    assert run(["edit", "--move", "0.3,0.2,0", "--out", str(tmp_path / "run"), "--device", "cpu"]) == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["request"]["prompt"] == bundled.INSTRUCTIONS[1]
