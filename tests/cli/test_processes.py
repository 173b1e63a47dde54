"""`--parallel trajectories`: what several processes leave behind is what one does."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image
from torch import nn

import couple
from couple.cli import processes, run, stamp
from tests.ranks import together

IMAGE = ["image", "a pink star", "a blue moon", "--steps", "2", "--seed", "5", "--size", "32", "--max-batch", "1"]
PARALLEL = ["--parallel", "trajectories"]


def torchrun(*command, size=2):
    """The `couple` command, carried out by as many processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(size), "-m", "couple"]
    return subprocess.run([*launcher, *map(str, command)], capture_output=True, text=True, timeout=240)


def pixels(folder):
    return {path.relative_to(folder): np.asarray(Image.open(path)) for path in sorted(folder.rglob("*.png"))}


def test_two_processes_leave_what_one_does_and_repeat_it(tmp_path, capsys):
    done = torchrun(*IMAGE, *PARALLEL, "--out", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert run([*IMAGE, "--out", str(tmp_path / "one")]) == 0
    assert done.stdout.splitlines()[:-1] == capsys.readouterr().out.splitlines()[:-1], "told once, and the same"
    one, two = pixels(tmp_path / "one"), pixels(tmp_path / "two")
    assert len(one) == 5 and one.keys() == two.keys()
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two"}

    records = [stamp.read(tmp_path / name / "run.json") for name in ("one", "two")]
    assert [record.batch.processes for record in records] == [1, 2]
    assert [record.batch.steps for record in records] == [[2] * 4] * 2
    assert records[0].results == records[1].results

    file = tmp_path / "two" / "run.json"
    assert run(["rerun", str(file), "--out", str(tmp_path / "again")]) == 2
    assert f"torchrun --nproc-per-node 2 -m couple rerun {file}." in capsys.readouterr().err
    again = torchrun("rerun", file, "--out", tmp_path / "again")
    assert again.returncode == 0 and "5 of 5 pictures and clips are equal" in again.stdout, again.stderr
    assert "differ" not in again.stderr


@pytest.mark.parametrize(
    ("environment", "options", "told"),
    [
        ({}, PARALLEL, "torchrun --nproc-per-node 2 -m couple image ... --parallel trajectories"),
        ({"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2"}, [], "add --parallel trajectories"),
        ({"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2"}, ["--parallel", "views"], "--parallel views is unknown"),
    ],
)
def test_processes_that_cannot_work_together_are_told_the_command(
    monkeypatch, tmp_path, capsys, environment, options, told
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert run([*IMAGE, *options, "--out", str(tmp_path / "run")]) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", [["--preview", "1"], ["--checkpoint-every", "1"], ["--resume"]])
def test_what_one_process_keeps_does_not_go_with_several(monkeypatch, tmp_path, capsys, option):
    monkeypatch.setattr(processes, "joined", lambda command: pytest.fail("nobody waits for the others in vain"))
    assert run([*IMAGE, *PARALLEL, *option, "--out", str(tmp_path / "run")]) == 2
    assert f"couple: {option[0]} " in capsys.readouterr().err


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        nn.init.eye_(self.linear.weight)

    def forward(self, x, t, added):
        return self.linear(x).tanh() + added


class Painter:
    """Paints a picture, or a clip of two, with numbers that are lost at step 1 if asked to."""

    def __init__(self):
        self.unet = Net()
        self.scheduler = DDIMScheduler(clip_sample=False)

    @torch.no_grad()
    def __call__(self, generator=None, loses=False, clip=False):
        self.scheduler.set_timesteps(3)
        x = torch.randn((2, 4, 5, 3), generator=generator)
        for i, t in enumerate(self.scheduler.timesteps):
            added = torch.tensor(float("nan") if loses and i == 1 else 0.0)
            x = self.scheduler.step(self.unet(x, t, added), t, x, return_dict=False)[0]
        pictures = [Image.fromarray(((one.tanh() + 1) * 127).to(torch.uint8).numpy()) for one in x]
        return SimpleNamespace(frames=[pictures[:1], pictures[1:]]) if clip else SimpleNamespace(images=pictures)


def painted(count, losing=(), films=()):
    torch.manual_seed(0)
    pipeline = Painter()
    nodes = [
        couple.Trajectory(
            pipeline, name=f"p{k}", generator=torch.Generator().manual_seed(k), loses=k in losing, clip=k in films
        )
        for k in range(count)
    ]
    return nodes, couple.pair(nodes[0], nodes[-1], weight=0.1) if count > 1 else []


def told(result, nodes):
    """Everything in a result, as numbers by name."""
    found = {"forwards": result.forwards, "order": [nodes.index(node) for node in result]}
    for k, node in enumerate(nodes):
        found[f"steps {k}"] = result.steps.get(node, -1)
        if node in result:
            kind = "frames" if hasattr(result[node], "frames") else "images"
            clips = result[node].frames if kind == "frames" else [result[node].images]
            for j, clip in enumerate(clips):
                found[f"{k} {kind} {j}"] = torch.stack([torch.from_numpy(np.array(one)) for one in clip])
    return found


def sampled(sample, count, **kinds):
    nodes, edges = painted(count, **kinds)
    try:
        return told(sample(nodes, edges, max_batch=1, progress=False), nodes)
    except couple.Diverged as error:
        lost = {f"lost {nodes.index(node)}": text for node, text in error.lost.items()}
        return {**told(error.result, nodes), **lost}


def shared(rank, count, **kinds):
    return sampled(processes.sample, count, **kinds)


@pytest.mark.parametrize(
    ("count", "kinds"),
    [
        (3, {}),
        (5, {"films": (1, 4)}),
        (1, {}),
        (4, {"losing": (3,)}),
        (4, {"losing": (1, 2), "films": (0,)}),
        (2, {"losing": (0, 1)}),
    ],
)
def test_every_process_has_what_one_alone_would(count, kinds):
    expected = sampled(couple.sample, count, **kinds)
    for answer in together(shared, count=count, **kinds):
        assert not isinstance(answer, Exception), answer
        assert answer.keys() == expected.keys()
        for name, value in expected.items():
            assert np.array_equal(answer[name], np.asarray(value)), name
