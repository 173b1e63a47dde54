"""The scenes that edits are measured on, with the true answer: three tasks, each a change of one thing.

A scene is told by its number alone. The scenes of the tables, those on which settings are chosen and those of the
strength analysis have numbers of their own, far from the seeds that the bundled models were trained with.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from couple.backends.editor_calls import edges
from couple.bundled import CANNY_THRESHOLDS, HOLE_GREY, INSTRUCTIONS
from couple.bundled.blocks import STYLES, Blocks, Light, new_place, random_blocks, random_light, render, ring
from couple.reproduce.nearest import APART, Paints, Suns
from couple.scenes.cameras import Cameras
from couple.scenes.edits import move_object
from couple.scenes.pictures import to_pictures, to_tensor

TASKS = ("relight", "restyle", "move")
VIEWS = 6
TEST, HELD_OUT, ANALYSED = 10_000_000, 30_000_000, 40_000_000
"""Seeds of the first scene of the tables, of those on which settings are chosen, and of the strength analysis."""

_BETWEEN = math.radians(12)
_ELEVATION = math.radians(28)


@dataclass(frozen=True, eq=False)
class Case:
    """One scene to edit.

    Attributes:
        editor: name of the editor, a key of `Models.editors`.
        shown: what the editor is called with: V prompts and V pictures.
        pictures: the scene before the edit, shape (V, 3, H, W), in [0, 1].
        cameras: V of them.
        depth: of the edited scene, shape (V, H, W).
        truth: one true edit, shape (V, 3, H, W).
        nearest: gives the true edit that is nearest to given pictures; the same as `truth` where there is only one.
    """

    editor: str
    shown: dict[str, Any]
    pictures: Tensor
    cameras: Cameras
    depth: Tensor
    truth: Tensor
    nearest: Callable[[Tensor], Tensor]


def case(task: str, seed: int) -> Case:
    """Make scene number `seed` of one of `TASKS`."""
    generator = torch.Generator().manual_seed(seed)
    scene, light = random_blocks(1, generator), random_light(1, generator)
    first = 2 * math.pi * torch.rand(1, generator=generator)
    cameras = ring(first + _BETWEEN * torch.arange(VIEWS), _ELEVATION)
    make = {"relight": _relight, "restyle": _restyle, "move": _move}[task]
    return make(scene, light, cameras, generator)


def _relight(scene: Blocks, light: Light, cameras: Cameras, generator: torch.Generator) -> Case:
    new = random_light(1, generator)
    while float((new.direction * light.direction).sum()) > math.cos(APART):
        new = random_light(1, generator)
    before, after = render(scene, [light, new], [cameras])
    pictures = _rounded(before.pictures[0])
    shown = {"prompt": [INSTRUCTIONS[0]] * VIEWS, "image": pictures}
    truth, depth = _rounded(after.pictures[0]), after.depth[0]
    return Case("instruct", shown, pictures, cameras, depth, truth, Suns(scene, cameras, light).render)


def _restyle(scene: Blocks, light: Light, cameras: Cameras, generator: torch.Generator) -> Case:
    old, new = torch.randperm(len(STYLES), generator=generator)[:2].split(1)
    scene = scene.restyled(old, generator)
    restyled = scene.restyled(new, generator)
    before, after = (render(one, [light], [cameras])[0] for one in (scene, restyled))
    pictures, name = _rounded(before.pictures[0]), STYLES[int(new)]
    shown = {"prompt": [f"a {name} scene"] * VIEWS, "image": outlines(pictures)}
    truth, depth = _rounded(after.pictures[0]), after.depth[0]
    return Case("restyle", shown, pictures, cameras, depth, truth, Paints(scene, cameras, light, name).render)


def _move(scene: Blocks, light: Light, cameras: Cameras, generator: torch.Generator) -> Case:
    slot = (scene.present * torch.rand(1, 4, generator=generator)).argmax(1)
    offset = new_place(scene, slot, generator)
    before, after = (render(one, [light], [cameras])[0] for one in (scene, scene.moved(slot, offset)))
    pictures, truth = _rounded(before.pictures[0]), _rounded(after.pictures[0])
    transform = torch.eye(4)
    transform[:2, 3] = offset[0]
    coarse = move_object(pictures, before.depth[0], before.slot[0] == slot, cameras, transform)
    seen = _rounded(coarse.over(HOLE_GREY))
    shown = {"prompt": [INSTRUCTIONS[1]] * VIEWS, "image": seen}
    return Case("instruct", shown, pictures, cameras, after.depth[0], truth, lambda _: truth)


def outlines(pictures: Tensor) -> Tensor:
    """Canny edges of pictures (V, 3, H, W) in [0, 1], as the restyling editor was trained on: 0 or 1, same shape."""
    return to_tensor(edges(to_pictures(pictures), CANNY_THRESHOLDS))


def _rounded(pictures: Tensor) -> Tensor:
    """Pictures as they are in files of 8 bits."""
    return (pictures * 255).round() / 255
