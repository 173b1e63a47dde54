"""`couple image` from end to end, on a tiny Flux with random weights."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from couple.cli import run
from tests.tiny import FAMILIES


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    FAMILIES["flux"].pipeline().save_pretrained(folder)
    return str(folder)


def image(model, out, *options, prompts=("a pink star", "a blue moon")):
    size = [] if "--size" in options else ["--size", "32"]
    return run(["image", *prompts, "--model", model, "--steps", "2", *size, "--out", str(out), *options])


def test_a_run_leaves_pictures_a_sheet_and_a_record(model, tmp_path, capsys):
    out = tmp_path / "run"
    assert image(model, out, "--seed", "7", "--guidance", "2") == 0
    assert {path.name for path in out.iterdir()} == {
        "uncoupled-1-a-pink-star.png",
        "uncoupled-2-a-blue-moon.png",
        "coupled-1-a-pink-star.png",
        "coupled-2-a-blue-moon.png",
        "sheet.png",
        "run.json",
    }
    assert Image.open(out / "coupled-1-a-pink-star.png").size == (32, 32)
    assert min(Image.open(out / "sheet.png").size) > 500
    record = json.loads((out / "run.json").read_text())
    assert record["seeds"] == [7, 8]
    assert record["call"] == {"num_inference_steps": 2, "guidance_scale": 2.0, "width": 32, "height": 32}
    assert record["scheduler"]["class"] == "FlowMatchEulerDiscreteScheduler"
    assert record["forwards"] > 0 and record["seconds"] > 0
    assert set(record["alignment"]) == {"uncoupled", "coupled"}
    assert {"couple", "torch", "diffusers", "transformers"} <= set(record["versions"])
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("uncoupled: centres") and told[1].strip().startswith("coupled: centres")
    assert told[2] == str(out / "sheet.png")


def test_at_weight_0_both_rows_are_the_same_pictures(model, tmp_path):
    assert image(model, tmp_path / "run", "--weight", "0", "--max-batch", "1") == 0
    for i, name in enumerate(("a-pink-star", "a-blue-moon"), 1):
        coupled = (tmp_path / "run" / f"coupled-{i}-{name}.png").read_bytes()
        assert coupled == (tmp_path / "run" / f"uncoupled-{i}-{name}.png").read_bytes()


@pytest.mark.parametrize("graph", ["chain", "complete", "star"])
@pytest.mark.parametrize("law", ["constant", "rate", "implicit", "relax"])
def test_every_graph_takes_every_law(model, tmp_path, graph, law):
    prompts = ("one", "two", "three")
    assert image(model, tmp_path / "run", "--graph", graph, "--law", law, "--weight", "0.1", prompts=prompts) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "33"], r"--size 33x33: .* multiples of 4; try --size 32x32"),
        (["--size", "32x30"], r"--size 32x30: .* multiples of 4; try --size 32x32"),
        (["--device", "abacus"], r"--device abacus cannot be used here .*; try --device cpu"),
        (["--model", "/nowhere/model"], r"is no folder here and no hub id"),
    ],
)
def test_a_run_that_cannot_work_leaves_nothing(model, tmp_path, capsys, options, message):
    assert image(model, tmp_path / "new" / "run", *options) == 1
    told = capsys.readouterr().err
    with pytest.raises(ValueError, match=message):
        raise ValueError(told.replace("\n", " "))
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_leaves_nothing(model, tmp_path):
    command = [Path(sys.executable).parent / "couple", "image", "a", "b", "--model", model, "--steps", "100000"]
    process = subprocess.Popen([*command, "--size", "32", "--out", tmp_path / "run"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while "step" not in process.stderr.read(16):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=120)[1]
    assert process.returncode == 130
    assert "interrupted; nothing was written" in told and "Traceback" not in told
    assert list(tmp_path.iterdir()) == []
