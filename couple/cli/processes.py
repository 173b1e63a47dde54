"""`--parallel trajectories`: one command line, carried out by all processes that torchrun started.

Every process does what the command says. Where it samples, each makes the calls of its share of the trajectories and is
told the pictures of all others, so that what comes after has everything everywhere; the first process leaves the
results behind, and what the others say and write is thrown away.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor

import couple
from couple import Edge, Result, Trajectory
from couple.cli.options import Misuse
from couple.parallel import Ranks
from couple.parallel.shares import divide


@contextmanager
def joined(command: str, size: int = 2) -> Iterator[Path | None]:
    """Join the other processes for the length of the block; each has a GPU of its own where there are GPUs.

    Args:
        command: the command line, for messages.
        size: a fitting number of processes, for messages.

    Yields:
        Where to write what is thrown away; None on the first process, which leaves the results behind.

    Raises:
        Misuse: this process was not started by torchrun.
    """
    if not dist.is_torchelastic_launched():
        raise Misuse(
            "the trajectories are to be shared among processes; start them with torchrun: "
            f"torchrun --nproc-per-node {size} -m {command}."
        )
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    if dist.get_rank() == 0:
        yield None
    else:
        with (
            tempfile.TemporaryDirectory() as folder,
            Path(os.devnull).open("w") as nowhere,
            redirect_stdout(nowhere),
            redirect_stderr(nowhere),
        ):
            yield Path(folder) / "run"
    # Not after an error: the others may be waiting for each other still.
    dist.destroy_process_group()


def sample(trajectories: Sequence[Trajectory], edges: Sequence[Edge], **how: Any) -> Result:
    """`couple.sample`, shared by all processes, for pipelines that return pictures or videos of pictures.

    Returns:
        On every process the results of all: those of others as objects with `images` or `frames`.

    Raises:
        Diverged: on every process, if a trajectory of any did.
    """
    # More processes than trajectories is one thing for the whole command and another for a part of it.
    owners = divide(trajectories, edges, min(dist.get_world_size(), len(trajectories)))
    try:
        own, lost = couple.sample(trajectories, edges, parallel=Ranks(owners=owners), **how), {}
    except couple.Diverged as error:
        own, lost = error.result, error.lost
    said = [json.loads(told) for told in _exchanged(_described(own, lost, trajectories))]
    pictures = [safetensors.torch.load(told) for told in _exchanged(_packed(own, trajectories))]
    outputs, steps, gone = {}, {}, {}
    for mine, theirs in zip(said, pictures, strict=True):
        outputs |= {int(k): _output(kind, int(k), theirs) for k, kind in mine["kinds"].items()}
        steps |= {int(k): number for k, number in mine["steps"].items()}
        gone |= {int(k): text for k, text in mine["lost"].items()}
    result = Result(
        {t: own[t] if t in own else outputs[k] for k, t in enumerate(trajectories) if k in outputs and k not in gone},
        sum(mine["forwards"] for mine in said),
        {t: steps[k] for k, t in enumerate(trajectories) if k in steps},
        own.placement,
    )
    if gone:
        raise couple.Diverged(result, {t: gone[k] for k, t in enumerate(trajectories) if k in gone})
    return result


def _described(own: Result, lost: Mapping[Trajectory, str], trajectories: Sequence[Trajectory]) -> bytes:
    """All that a process has to tell but its pictures, by number of the trajectory."""
    number = {trajectory: k for k, trajectory in enumerate(trajectories)}
    said = {
        "kinds": {number[t]: "frames" if hasattr(output, "frames") else "images" for t, output in own.items()},
        "steps": {number[t]: steps for t, steps in own.steps.items()},
        "lost": {number[t]: text for t, text in lost.items()},
        "forwards": own.forwards,
    }
    return json.dumps(said).encode()


def _packed(own: Result, trajectories: Sequence[Trajectory]) -> bytes:
    """Pictures as a safetensors file, named by the numbers of the trajectory, the clip and the frame."""
    named = {
        f"{trajectories.index(trajectory)}.{j}.{i}": torch.from_numpy(np.array(picture))
        for trajectory, output in own.items()
        for j, clip in enumerate(output.frames if hasattr(output, "frames") else [output.images])
        for i, picture in enumerate(clip)
    }
    return safetensors.torch.save(named)


def _output(kind: str, number: int, pictures: Mapping[str, Tensor]) -> Any:
    """An output with the pictures of one trajectory."""
    clips: dict[int, dict[int, Image.Image]] = {}
    for name, pixels in pictures.items():
        k, j, i = map(int, name.split("."))
        if k == number:
            clips.setdefault(j, {})[i] = Image.fromarray(pixels.numpy())
    rows = [[picture for _, picture in sorted(clip.items())] for _, clip in sorted(clips.items())]
    return SimpleNamespace(frames=rows) if kind == "frames" else SimpleNamespace(images=rows[0])


def _exchanged(mine: bytes) -> list[bytes]:
    """What each process told, by rank."""
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, torch.tensor([len(mine)]))
    told = [bytearray(int(length)) for length in lengths]
    told[dist.get_rank()][:] = mine
    for rank, content in enumerate(told):
        dist.broadcast(torch.frombuffer(content, dtype=torch.uint8), src=rank)
    return [bytes(content) for content in told]
