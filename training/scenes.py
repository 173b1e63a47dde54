"""Renders of the block world for training: shards of scenes, made once, shared by the three editing models.

A shard is a safetensors file of `SHARD` scenes, six views each, in 8 bits: the scene under one sun, under another,
in another style, with one object moved, and the coarse picture of that move with its holes. Shard k depends on the
seed and k alone; a script that asks for a shard that is not there makes it.
"""

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from couple.bundled import HOLE_GREY
from couple.bundled.blocks import STYLES, new_place, random_blocks, random_light, render, ring
from couple.scenes.cameras import Cameras
from couple.scenes.edits import move_object

SHARD = 100
SHARDS = 30
VIEWS = 6

PICTURES = ("sunny", "relit", "restyled", "moved", "coarse")


@dataclass(frozen=True, eq=False)
class Shard:
    """Scenes with everything the trainings need.

    Attributes:
        pictures: `PICTURES` by name, each of shape (SHARD, VIEWS, 3, 48, 48), uint8.
        azimuth: radians, shape (SHARD, VIEWS).
        elevation: radians, shape (SHARD,).
        style: of the restyled pictures, index into `STYLES`, shape (SHARD,), int64.
    """

    pictures: dict[str, Tensor]
    azimuth: Tensor
    elevation: Tensor
    style: Tensor

    def cameras(self, scene: int) -> Cameras:
        """The cameras of one scene."""
        return ring(self.azimuth[scene], float(self.elevation[scene]))


@cache
def shard(seed: int, index: int, folder: Path) -> Shard:
    """Read shard `index`, or make it."""
    path = folder / f"scenes-{seed}-{index}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{torch.randint(1 << 30, ()).item()}")
        save_file(_make(torch.Generator().manual_seed(seed * 1_000_003 + index)), temporary)
        temporary.replace(path)
    data = load_file(path)
    return Shard({name: data[name] for name in PICTURES}, data["azimuth"], data["elevation"], data["style"])


def drawn(seed: int, step: int, folder: Path) -> Shard:
    """The shard that a step draws its scenes from: all of them come by in turn, the first ones alone at first."""
    first = min(SHARDS, 1 + step // 25)
    order = torch.randperm(first, generator=torch.Generator().manual_seed(seed * 7 + step // first))
    return shard(seed, int(order[step % first]), folder)


def _make(generator: torch.Generator) -> dict[str, Tensor]:
    azimuth = 2 * math.pi * torch.rand(SHARD, 1, generator=generator)
    azimuth = azimuth + torch.deg2rad(10 + 16 * torch.rand(SHARD, 1, generator=generator)) * torch.arange(VIEWS)
    azimuth = azimuth.remainder(2 * math.pi)
    elevation = torch.deg2rad(18 + 20 * torch.rand(SHARD, generator=generator))
    style = torch.randint(len(STYLES), (SHARD,), generator=generator)
    parts = []
    for rows in torch.arange(SHARD).split(10):
        cameras = [ring(azimuth[i], float(elevation[i])) for i in rows]
        parts.append(_pictures(cameras, style[rows], generator))
    data = {name: torch.cat([part[name] for part in parts]) for name in PICTURES}
    return {**data, "azimuth": azimuth, "elevation": elevation, "style": style}


def _pictures(cameras: list[Cameras], style: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    count = len(cameras)
    scenes = random_blocks(count, generator)
    lights = [random_light(count, generator), random_light(count, generator)]
    sunny, relit = render(scenes, lights, cameras)
    restyled = render(scenes.restyled(style, generator), lights[:1], cameras)[0]
    slot = (scenes.present * torch.rand(count, 4, generator=generator)).argmax(1)
    offset = new_place(scenes, slot, generator)
    moved = render(scenes.moved(slot, offset), lights[:1], cameras)[0]
    coarse = []
    for i, views in enumerate(cameras):
        transform = torch.eye(4)
        transform[:2, 3] = offset[i]
        edit = move_object(sunny.pictures[i], sunny.depth[i], sunny.slot[i] == slot[i], views, transform)
        coarse.append(edit.over(HOLE_GREY))
    pictures = (sunny.pictures, relit.pictures, restyled.pictures, moved.pictures, torch.stack(coarse))
    return {name: (part * 255).round().byte() for name, part in zip(PICTURES, pictures, strict=True)}
