"""Whole experiments with random models: they run, go on where they were cut off, and say the same in any order."""

import json

import pytest
import torch

from couple import bundled
from couple.cli import run as command_line
from couple.cli.options import Misuse
from couple.reproduce import command, pairs, plan, running
from couple.reproduce.ledger import Ledger, Unit, settled
from couple.reproduce.models import load
from couple.reproduce.scenes import TEST, case
from couple.reproduce.ways import Edit
from tests.reproduce import tiny

SMALL = plan.Size(scenes=1, seeds=1, strength_scenes=1, every=12, image_pairs=1, video_pairs=1, sets=1, steps=2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tiny.write(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def models(folders):
    return load(2, folders)


@pytest.fixture(scope="module")
def edits(models):
    return {task: Edit(models, case(task, TEST), 3) for task in ("relight", "restyle")}


def test_no_weight_is_the_multi_view_model_alone(edits):
    alone = edits["relight"].pictures("image-to-multi-view", {})
    assert torch.allclose(edits["relight"].pictures("constant", {"weight": 0.0}), alone, atol=1e-5)
    assert not torch.allclose(edits["relight"].pictures("constant", {"weight": 0.4}), alone, atol=1e-2)


def test_a_share_of_one_is_one_model(edits):
    edit = edits["restyle"]
    alone = edit.pictures("image-to-multi-view", {})
    assert torch.allclose(edit.pictures("SyncTweedies", {"share": 1.0}), alone, atol=1e-4)
    averaged = edit.pictures("Liu et al.", {"share": 0.5})
    corrected = edit.pictures("Du et al.", {"share": 0.5, "moves": 1, "size": 0.0})
    assert torch.allclose(averaged, corrected, atol=1e-4)
    assert not torch.allclose(averaged, edit.pictures("Liu et al.", {"share": 0.9}), atol=1e-2)


@torch.no_grad()
def test_sdedit_from_no_noise_is_the_edit_itself(edits, models):
    vae, edit = models.views.pipeline.vae, edits["restyle"]
    latents = vae.encode(edit.per_image * 2 - 1).latent_dist.mode()
    straight = (vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)
    little, much = (
        float((edit.pictures("SDEdit", {"start": start}) - straight)[1:].abs().mean()) for start in (0.001, 0.9)
    )
    assert little < 0.05 < 0.1 < much


def test_quick_run_goes_on_where_it_was_cut_off(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "QUICK", SMALL)
    only = ["three editing models", "strength", "move"]
    options = {"quick": True, "only": only, "workers": 1, "tune": False, "folders": folders}
    first, second = tmp_path / "a", tmp_path / "b"
    command.run(out=first, **options)
    names = {path.name for path in first.iterdir()}
    assert {"move.csv", "strength.png", "pareto.png", "methods.png", "tables.md", "move-1.png"} <= names
    assert "three-editing-models-1.png" in names
    lines = (first / "ledger.jsonl").read_text().split("\n")
    whole = _measures(lines)
    assert f"{len(whole)} of {len(whole)} units" in capsys.readouterr().out

    # In the middle of a group, and of a line.
    second.mkdir()
    (second / "ledger.jsonl").write_text("\n".join([*lines[:-4], lines[-4][:20]]))
    command.run(out=second, **options)
    assert f"3 of {len(whole)} units" in capsys.readouterr().out
    assert _measures((second / "ledger.jsonl").read_text().split("\n")) == whole


def test_workers_say_the_same(folders, tmp_path):
    units = [Unit("move", way, settled({}), seed, TEST) for way in ("input", "per-image") for seed in (0, 1)]
    found = []
    for workers, order in ((1, units), (2, units[::-1])):
        ledger = Ledger(tmp_path / str(workers) / "ledger.jsonl", {})
        running.measure(order, ledger, running.Setup(2, tmp_path / "kept", tuple(folders.items())), workers)
        found.append({unit: {**ledger[unit], "seconds": 0} for unit in units})
    assert found[0] == found[1]


def test_prompts_do_not_depend_on_their_number():
    assert pairs.image_prompts(20, 1)[:10] == pairs.image_prompts(10, 1)
    assert pairs.video_prompts(12, 1)[6:] == pairs.video_prompts(20, 1)[6:12]
    assert all(len(set(words)) == 8 for words in pairs.image_prompts(5, 1, size=8))


def test_pairs_of_pictures_and_a_video(tmp_path, monkeypatch):
    monkeypatch.setattr(bundled, "TEXT_TO_IMAGE_DEFAULTS", {**bundled.TEXT_TO_IMAGE_DEFAULTS, "num_inference_steps": 3})
    monkeypatch.setattr(bundled, "TEXT_TO_VIDEO_DEFAULTS", {**bundled.TEXT_TO_VIDEO_DEFAULTS, "num_inference_steps": 3})
    monkeypatch.setitem(plan.PER_UNIT, "image pairs", 1)
    setup = running.Setup(2, tmp_path)
    for experiment, row in (("image pairs", "relax 1, early"), ("graphs", "3, star"), ("picture and video", "coupled")):
        unit = Unit(experiment, row, (), 0, 0)
        measures = running.run_group([unit], setup)[unit]
        assert {"distance", "accuracy", "seconds"} <= set(measures)
        assert running.strip(tmp_path, unit).exists()


def test_unknown_experiments_are_refused(capsys):
    with pytest.raises(Misuse, match="--only hay is unknown"):
        command.run(quick=True, only=["hay"], out=None, workers=1, tune=False)
    assert command_line(["reproduce", "--tune", "--quick"]) == 2
    assert "--tune has one size" in capsys.readouterr().err


def _measures(lines):
    entries = [json.loads(line) for line in lines[1:] if line]
    return {
        (e["experiment"], e["row"], str(e["setting"]), e["seed"], e["scene"]): {**e["measures"], "seconds": 0}
        for e in entries
    }
