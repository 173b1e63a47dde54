"""`couple video` from end to end: on a tiny Wan with random weights, and on the bundled one."""

import json

import imageio.v3
import numpy as np
import pytest
from PIL import Image

from couple.cli import run
from tests.tiny import FAMILIES

SLUGS = ("a-pink-star-circles", "a-blue-square-circles")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    FAMILIES["wan"].pipeline().save_pretrained(folder)
    return str(folder)


def video(model, out, *options, prompts=("a pink star circles", "a blue square circles")):
    size = [] if "--size" in options else ["--size", "16"]
    frames = [] if "--frames" in options else ["--frames", "5"]
    return run(["video", *prompts, "--model", model, "--steps", "2", *size, *frames, "--out", str(out), *options])


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A run of the bundled model as it is called by default, and what was told."""
    out = tmp_path_factory.mktemp("bundled") / "run"
    assert run(["video", *(slug.replace("-", " ") for slug in SLUGS), "--out", str(out)]) == 0
    return out


def test_a_run_leaves_clips_a_montage_a_sheet_and_a_record(model, tmp_path, capsys):
    out = tmp_path / "run"
    assert video(model, out, "--seed", "7", "--guidance", "2", "--fps", "10") == 0
    clips = {f"{row}-{i}-{slug}" for row in ("uncoupled", "coupled") for i, slug in enumerate(SLUGS, 1)}
    files = {f"{clip}.{kind}" for clip in clips for kind in ("mp4", "gif")}
    assert {path.name for path in out.iterdir()} == files | {"side-by-side.mp4", "sheet.png", "run.json"}
    for clip in clips:
        assert imageio.v3.imread(out / f"{clip}.mp4", plugin="FFMPEG").shape == (5, 256, 256, 3)
        assert Image.open(out / f"{clip}.gif").size == (256, 256)
    assert imageio.v3.immeta(out / "side-by-side.mp4", plugin="FFMPEG")["fps"] == 10
    record = json.loads((out / "run.json").read_text())
    ran = record["models"]["model"]
    assert ran["seeds"] == [7, 8] and record["request"]["fps"] == 10 and record["request"]["frames"] == 5
    assert ran["pipeline"] == "WanPipeline" and record["batch"]["forwards"] > 0
    asked = {"num_inference_steps": 2, "guidance_scale": 2.0, "width": 16, "height": 16, "num_frames": 5}
    assert ran["call"] == asked | {"output_type": "pil"}
    assert set(record["results"]["alignment"]) == {"uncoupled", "coupled"} and "classifier" not in record["results"]
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("uncoupled: paths") and told[1].strip().startswith("coupled: paths")
    assert told[2] == str(out / "side-by-side.mp4")


def test_at_weight_0_both_rows_are_the_same_videos(model, tmp_path):
    assert video(model, tmp_path / "run", "--weight", "0", "--max-batch", "1") == 0
    for i, slug in enumerate(SLUGS, 1):
        for kind in ("mp4", "gif"):
            coupled = (tmp_path / "run" / f"coupled-{i}-{slug}.{kind}").read_bytes()
            assert coupled == (tmp_path / "run" / f"uncoupled-{i}-{slug}.{kind}").read_bytes()


def test_three_prompts_are_filmed_for_as_long_as_asked(model, tmp_path):
    options = ("--graph", "star", "--frames", "9", "--weight", "0.1")
    assert video(model, tmp_path / "run", *options, prompts=("one", "two", "three")) == 0
    assert imageio.v3.imread(tmp_path / "run" / "coupled-3-three.mp4", plugin="FFMPEG").shape[0] == 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "33"], r"--size 33x33: .* multiples of 16; try --size 32x32"),
        (["--frames", "8"], r"--frames 8: .* one frame and a multiple of 4; try --frames 9"),
        (["--device", "abacus"], r"--device abacus is no device; write cpu, cuda"),
        (["--model", "/nowhere/model"], r"is no folder here and no hub id"),
    ],
)
def test_a_run_that_cannot_work_leaves_nothing(model, tmp_path, capsys, options, message):
    assert video(model, tmp_path / "new" / "run", *options) == 1
    told = capsys.readouterr().err
    with pytest.raises(ValueError, match=message):
        raise ValueError(told.replace("\n", " "))
    assert list(tmp_path.iterdir()) == []


def test_the_bundled_model_runs_on_the_scheduler_wan_ships_with(film):
    scheduler = json.loads((film / "run.json").read_text())["models"]["model"]["scheduler"]
    assert scheduler["kind"] == "UniPCMultistepScheduler"
    assert scheduler["config"]["prediction_type"] == "flow_prediction" and scheduler["config"]["use_flow_sigmas"]


def test_bundled_videos_move_together_and_show_their_prompts(film):
    record = json.loads((film / "run.json").read_text())
    ran, results = record["models"]["model"], record["results"]
    assert ran["name"] == "bundled" and ran["call"]["num_frames"] == 13 and record["request"]["fps"] == 8
    apart, near = (results["alignment"][row]["path_distance"] for row in ("uncoupled", "coupled"))
    assert near < apart / 2
    for row in ("uncoupled", "coupled"):
        read = results["classifier"][row]
        assert [one["right"] for one in read] == [True, True]
        assert [one["seen"] for one in read] == ["pink star circles", "blue square circles"]


def test_the_bright_sprite_is_where_it_was_sampled_in_mp4_and_gif(film):
    clip = film / f"coupled-1-{SLUGS[0]}"
    shown = imageio.v3.imread(clip.with_suffix(".mp4"), plugin="FFMPEG").astype(int)
    assert shown.shape == (13, 256, 256, 3)
    blocks = shown.reshape(13, 32, 8, 32, 8, 3)
    assert abs(blocks - blocks.mean((2, 4), keepdims=True)).mean() < 1
    with Image.open(clip.with_suffix(".gif")) as gif:
        assert gif.n_frames == 13
        for k in range(13):
            gif.seek(k)
            assert abs(np.asarray(gif.convert("RGB")).astype(int) - shown[k]).mean() < 4


def test_prompts_that_the_bundled_model_does_not_know_are_noted(tmp_path, capsys):
    prompts = ["A pink star, moves up!", "a pink and blue star circles", "a samurai"]
    assert run(["video", *prompts, "--steps", "1", "--out", str(tmp_path / "run")]) == 0
    told = capsys.readouterr().err
    assert "'a samurai'" in told and "'a pink and blue star circles'" in told and "moves up!" not in told
    read = json.loads((tmp_path / "run" / "run.json").read_text())["results"]["classifier"]["coupled"]
    assert [one["right"] is None for one in read] == [False, True, True]
