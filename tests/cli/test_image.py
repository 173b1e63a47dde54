"""`couple image` from end to end, on a tiny Flux with random weights."""

import contextlib
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
import torch
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
    ran = record["models"]["model"]
    assert ran["seeds"] == [7, 8] and ran["name"] == model
    assert ran["call"] == {"num_inference_steps": 2, "guidance_scale": 2.0, "width": 32, "height": 32}
    assert ran["scheduler"]["kind"] == "FlowMatchEulerDiscreteScheduler"
    assert ran["attention"] == ["native", "AttnProcessor2_0", "FluxAttnProcessor"]
    weights = Path(model) / "transformer" / "diffusion_pytorch_model.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert ran["components"]["transformer"]["files"] == {weights.name: digest}
    assert set(ran["components"]) == {"vae", "text_encoder", "text_encoder_2", "transformer"}
    assert record["batch"] == {
        "max_batch": None,
        "forwards": record["batch"]["forwards"],
        "steps": [2] * 4,
        "processes": 1,
    }
    assert record["batch"]["forwards"] > 0 and record["memory"] is None
    assert set(record["seconds"]) == {"load", "encode", "denoise", "decode", "measure", "write"}
    assert set(record["results"]["alignment"]) == {"uncoupled", "coupled"}
    assert "window(relax(" in record["edges"][0] and len(record["edges"]) == 1
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
        (["--device", "abacus"], r"--device abacus is no device; write cpu, cuda"),
        (["--model", "/nowhere/model"], r"is no folder here and no hub id"),
    ],
)
def test_a_run_that_cannot_work_leaves_nothing(model, tmp_path, capsys, options, message):
    assert image(model, tmp_path / "new" / "run", *options) == 1
    told = capsys.readouterr().err
    with pytest.raises(ValueError, match=message):
        raise ValueError(told.replace("\n", " "))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_run_that_is_stopped_leaves_a_checkpoint_from_which_it_goes_on_bit_for_bit(
    model, tmp_path, capsys, number, code, word
):
    command = [Path(sys.executable).parent / "couple", "image", "a", "b", "--model", model, "--steps", "150"]
    # Steps are shown on a terminal only.
    screen, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    # Sums depend on the number of threads, and threads that wait for each other take turns with the signal.
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen([*command, "--size", "32", "--out", tmp_path / "run"], stderr=terminal, env=environment)
    os.close(terminal)
    told = ""
    while "denoise" not in told:
        told += os.read(screen, 4096).decode()
    process.send_signal(number)
    with contextlib.suppress(OSError):  # at the end of a terminal
        while more := os.read(screen, 4096):
            told += more.decode()
    assert process.wait(timeout=120) == code
    assert "stopped after" in told and "Add --resume" in told and f"{word}; this run left no results" in told
    assert "Traceback" not in told
    assert [path.name for path in tmp_path.iterdir()] == [".run-1.checkpoint"]
    if number == signal.SIGTERM:
        return  # the checkpoint is the same
    assert image(model, tmp_path / "run", "--steps", "150", "--resume", prompts=("a", "b")) == 0
    assert f"couple: goes on from {tmp_path / '.run-1.checkpoint'}" in capsys.readouterr().err
    assert image(model, tmp_path / "whole", "--steps", "150", prompts=("a", "b")) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "whole"]
    for path in sorted((tmp_path / "whole").glob("*.png")):
        with Image.open(path) as whole, Image.open(tmp_path / "run" / path.name) as resumed:
            assert whole.tobytes() == resumed.tobytes()


def test_a_run_that_is_terminated_before_it_samples_leaves_nothing(model, tmp_path):
    command = [Path(sys.executable).parent / "couple", "image", "a", "b", "--model", model, "--steps", "150"]
    process = subprocess.Popen([*command, "--out", tmp_path / "run"], stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.iterdir()):
        time.sleep(0.01)
    process.terminate()
    told = process.communicate(timeout=120)[1]
    assert process.returncode == 143 and "terminated; this run left no results" in told and "Traceback" not in told
    assert list(tmp_path.iterdir()) == []


def test_resume_says_when_there_is_nothing_to_go_on_with(model, tmp_path, capsys):
    assert image(model, tmp_path / "run", "--steps", "1", "--resume") == 0
    told = capsys.readouterr().err
    assert "starts from the beginning: there is no" in told and "nothing is coupled in one step" in told
    assert image(model, tmp_path / "run", "--steps", "1", "--resume") == 2
    assert "run is finished: there is nothing to go on with; leave out --resume" in capsys.readouterr().err


def test_a_full_disk_is_told_with_what_to_do(model, tmp_path):
    command = [Path(sys.executable).parent / "couple", "image", "a", "b", "--model", model, "--steps", "2"]

    def fill():
        # No file may grow beyond this: the nearest thing to a full disk that a test can have.
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))

    run = subprocess.run(
        [*command, "--size", "32", "--out", tmp_path / "run"], capture_output=True, text=True, preexec_fn=fill
    )
    assert run.returncode == 1 and "Make room and give the same command again, with --resume" in run.stderr
    assert "Traceback" not in run.stderr and list(tmp_path.iterdir()) == []


def test_what_does_not_run_away_is_saved_and_the_exit_code_says_so(model, tmp_path, capsys):
    strong = ["--law", "constant", "--weight", "1e30", "--until", "1", "--steps", "4"]
    assert image(model, tmp_path / "run", *strong) == 3
    told = capsys.readouterr().err
    assert "is not finite after step" in told and str(tmp_path / "run-finished") in told
    kept = tmp_path / "run-finished"
    assert [path.name for path in tmp_path.iterdir()] == [kept.name]
    assert sorted(path.name for path in kept.iterdir()) == [
        "1-a-pink-star-uncoupled.png",
        "2-a-blue-moon-uncoupled.png",
    ]
    assert image(model, tmp_path / "weak", "--weight", "0", "--steps", "4") == 0
    for name, same in (("1-a-pink-star", "uncoupled-1-a-pink-star"), ("2-a-blue-moon", "uncoupled-2-a-blue-moon")):
        with (
            Image.open(kept / f"{name}-uncoupled.png") as saved,
            Image.open(tmp_path / "weak" / f"{same}.png") as whole,
        ):
            assert saved.tobytes() == whole.tobytes()
