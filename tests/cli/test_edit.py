"""`couple edit` from end to end, on tiny models with random weights and a scene of four views with depths and masks."""

import json

import imageio.v3
import numpy as np
import pytest
import torch
from PIL import Image

from couple.cli import run
from couple.scenes import load
from tests.scenes import geometry
from tests.tiny import FAMILIES

MODELS = {
    "controlnet": "controlnet",
    "instruct": "instruct_pix2pix",
    "img2img": "img2img",
    "ic-light": "ic_light fc",
    "neural-gaffer": "neural_gaffer",
    "magic-fixup": "magic_fixup",
    "seva": "seva",
    "mvdream": "mvdream",
    "mv-adapter": "mv_adapter i2mv sd21",
}
STAGES = {"load", "encode", "denoise", "decode", "measure", "write"}
WAYS = ["input", "per-image", "image-to-multi-view", "coupled"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the models and a scene."""
    home = tmp_path_factory.mktemp("edit")
    for name, family in MODELS.items():
        FAMILIES[family].pipeline().save_pretrained(home / name)
    (home / "scene").mkdir()
    geometry.nerfstudio(home / "scene")
    return home


def edit(home, out, editor, *options, multiview="seva", size="16", prompt=True):
    return run(
        [
            *("edit", str(home / "scene"), "--editor", editor, "--editor-model", str(home / editor)),
            *("--multiview", multiview, "--multiview-model", str(home / multiview)),
            *("--steps", "2", "--size", size, "--out", str(out), *options),
            *(("--prompt", "make it gold") if prompt else ()),
        ]
    )


def pictures(out, way):
    return [np.asarray(picture) for picture in load(out / way).pictures()]


@pytest.fixture(scope="module")
def plain(home, tmp_path_factory):
    """A run of the instruction editor and Stable Virtual Camera, the third picture being the reference."""
    out = tmp_path_factory.mktemp("plain") / "run"
    assert edit(home, out, "instruct", "--reference", "2", "--seed", "7", "--guidance", "3", "--max-batch", "1") == 0
    return out


def test_a_run_leaves_a_scene_for_each_way_a_sheet_a_video_and_a_record(plain, home):
    assert {path.name for path in plain.iterdir()} == {*WAYS, "sheet.png", "orbit.mp4", "run.json"}
    given = load(home / "scene").fitted(16, 16)
    for way in WAYS:
        scene = load(plain / way)
        assert scene.names == ("images/0.png", "images/1.png", "images/2.png", "images/3.png")
        assert torch.allclose(scene.cameras.c2w, given.cameras.c2w)
        assert torch.allclose(scene.cameras.K, given.cameras.K)
    assert [np.array_equal(a, b) for a, b in zip(pictures(plain, "input"), given.pictures(), strict=True)] == [True] * 4
    assert min(Image.open(plain / "sheet.png").size) > 500
    frames = imageio.v3.imread(plain / "orbit.mp4", plugin="FFMPEG")
    # There and back without the ends twice: 0 1 2 3 2 1, but for what compression loses.
    apart = np.abs(frames[:, None].astype(float) - frames[None]).mean(axis=(2, 3, 4))
    assert len(frames) == 6 and apart[1, 5] < apart[1, [0, 2, 3]].min() / 4


def test_the_record_says_what_ran(plain):
    record = json.loads((plain / "run.json").read_text())
    results, (editor, multiview) = record["results"], (record["models"][role] for role in ("editor", "multiview"))
    assert results["views"] == [0, 1, 2, 3] and results["reference"] == 2 and results["size"] == [16, 16]
    assert editor["seeds"] == [7] and multiview["seeds"] == [8]
    assert editor["pipeline"] == "StableDiffusionInstructPix2PixPipeline"
    assert editor["call"] == {"num_inference_steps": 2, "guidance_scale": 3.0}
    assert multiview["call"] == {"height": 16, "width": 16, "num_inference_steps": 2}
    for model in (editor, multiview):
        assert model["scheduler"]["kind"] == "DDPMScheduler"
    assert set(results["reprojection_error"]) == set(WAYS)
    assert all(0 <= error <= 255 for error in results["reprojection_error"].values())
    assert record["request"]["prompt"] == "make it gold" and set(record["seconds"]) == STAGES
    # Every picture and depth of the scene; the masks decide nothing here.
    assert len(record["inputs"]) == 8 and len(record["edges"]) == 4 and record["batch"]["steps"] == [2, 2, 2, 2]


def test_the_pictures_are_what_the_pipelines_make_alone(plain, home):
    """Per image: the stock call. From one view: the stock call on its third picture, whose row comes first."""
    from couple.backends import editors, views

    scene = load(home / "scene").fitted(16, 16)
    editor = editors.load("instruct", home / "instruct")
    edits = editor(
        ["make it gold"] * 4,
        scene.pictures(),
        num_inference_steps=2,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(7),
    ).images
    for mine, expected in zip(pictures(plain, "per-image"), edits, strict=True):
        assert np.array_equal(mine, expected)
    model = views.load("seva", home / "seva")
    made = model(
        [edits[2]],
        scene.cameras[[2]],
        scene.cameras[[0, 1, 3]],
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(8),
    ).images
    for row, mine in zip([1, 2, 0, 3], pictures(plain, "image-to-multi-view"), strict=True):
        assert np.array_equal(mine, made[row])


def test_coupling_changes_what_the_multi_view_model_makes(plain):
    for k in (0, 1, 3):
        assert not np.array_equal(pictures(plain, "coupled")[k], pictures(plain, "image-to-multi-view")[k])


def test_at_weight_0_coupled_is_image_to_multi_view(home, tmp_path):
    assert edit(home, tmp_path / "run", "instruct", "--weight", "0", "--max-batch", "1") == 0
    for coupled, alone in zip(
        pictures(tmp_path / "run", "coupled"), pictures(tmp_path / "run", "image-to-multi-view"), strict=True
    ):
        assert np.array_equal(coupled, alone)


def test_views_are_taken_in_the_order_given(home, tmp_path):
    assert edit(home, tmp_path / "run", "img2img", "--views", "3,1", "--reference", "1", "--strength", "0.5") == 0
    scene = load(tmp_path / "run/input")
    assert scene.names == ("images/3.png", "images/1.png")
    assert scene.picture(0).getpixel((8, 8)) == (255, 255, 0)


@pytest.mark.parametrize(
    ("editor", "options"),
    [
        ("controlnet", ["--condition", "canny"]),
        ("controlnet", ["--condition", "depth"]),
        ("ic-light", []),
        ("neural-gaffer", ["--environment", "scene/images/1.png"]),
        ("magic-fixup", ["--move", "0.1,0,0", "--turn", "20"]),
        ("instruct", ["--move", "0,0,0.2"]),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value)[:20],
)
def test_every_editor_runs(home, tmp_path, monkeypatch, editor, options):
    monkeypatch.chdir(home)
    assert edit(home, tmp_path / "run", editor, *options, size="32" if editor == "magic-fixup" else "16") == 0
    ways = {path.name for path in (tmp_path / "run").iterdir() if path.is_dir()}
    record = json.loads((tmp_path / "run/run.json").read_text())
    if "--move" in options:
        # Depths of before the move say nothing about the pictures after it.
        assert ways == {*WAYS, "coarse"} and record["results"]["reprojection_error"] == {}
        assert not np.array_equal(pictures(tmp_path / "run", "coarse")[0], pictures(tmp_path / "run", "input")[0])
    else:
        assert ways == set(WAYS) and set(record["results"]["reprojection_error"]) == set(WAYS)


@pytest.mark.parametrize(("multiview", "words"), [("mvdream", ["--multiview-prompt", "a cup"]), ("mv-adapter", [])])
def test_every_multi_view_model_runs(home, tmp_path, multiview, words):
    size = "32" if multiview == "mv-adapter" else "16"
    assert edit(home, tmp_path / "run", "ic-light", *words, multiview=multiview, size=size) == 0
    call = json.loads((tmp_path / "run/run.json").read_text())["models"]["multiview"]["call"]
    assert call["prompt"] == (words[1] if words else "high quality")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "33"], r"--size 33x33: .* multiples of 16; try --size 32x32"),
        (["--views", "0-7"], r"view 4 is not in the scene, which has views 0 to 3"),
        (["--reference", "9"], r"view 9 is not in the scene"),
        (["--device", "abacus"], r"--device abacus is no device; write cpu, cuda"),
    ],
    ids=["size", "views", "reference", "device"],
)
def test_a_run_that_cannot_work_leaves_nothing(home, tmp_path, capsys, options, message):
    assert edit(home, tmp_path / "new" / "run", "instruct", *options) == 1
    told = capsys.readouterr().err
    with pytest.raises(ValueError, match=message):
        raise ValueError(told.replace("\n", " "))
    assert list(tmp_path.iterdir()) == []


def test_missing_weights_are_told_in_one_sentence(home, tmp_path, capsys):
    scene, out = str(home / "scene"), str(tmp_path / "run")
    assert run(["edit", scene, "--editor", "magic-fixup", "--turn", "20", "--size", "32", "--out", out]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and told.startswith("couple: the weights magicfu_weights of HadiZayer/MagicFixup")
    assert "licence" in told and "hf download" in told and list(tmp_path.iterdir()) == []
