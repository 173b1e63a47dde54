"""The video world of the bundled model: a pastel sprite that moves over a dark ground, with a caption.

Colours, outlines, glow and light are those of `world.py`, for the same reasons. Size and turn are fixed; a sprite's
place is random, and so is the phase of its bounce or circle. Two clips of one motion can therefore always be made to
agree, whatever their shapes and colours.
"""

from dataclasses import dataclass, replace
from functools import cache
from math import pi

import torch
from torch import Tensor
from torch.nn import functional as F
from world import ARTICLES, GLOW, GROUND, MEASURES, RGB, outline

from couple.bundled import COLOURS, MOTIONS, SHAPES, SPRITES

SIZE = 32
"""Pixels along one side."""
FRAMES = 13
RADIUS = 4.8
"""Pixels; every sprite has the area of a disc of this radius."""
MARGIN = 7.0
"""Smallest distance in pixels of a sprite's centroid to the border."""

SPEED = 0.9
"""Pixels a frame of a straight move."""
PERIOD = 12
"""Frames of one bounce or one round."""
HEIGHT = 14.0
"""Pixels a bounce rises."""
ORBIT = 5.0
"""Radius in pixels of a round."""

TABLE, REACH = 128, 3.0
"""Outlines are tabulated on TABLE x TABLE points that reach from -REACH to REACH radii."""


@dataclass(frozen=True)
class Clips:
    """A batch of clips described in numbers.

    Attributes:
        shape: index into `SPRITES`, int64, shape (B,).
        colour: index into `COLOURS`, int64, shape (B,).
        motion: index into `MOTIONS`, int64, shape (B,).
        path: x and y of the sprite's centroid in pixels, shape (B, FRAMES, 2).
    """

    shape: Tensor
    colour: Tensor
    motion: Tensor
    path: Tensor

    def captions(self, generator: torch.Generator) -> list[str]:
        """One caption a clip; the article varies."""
        articles = torch.randint(len(ARTICLES), (len(self.shape),), generator=generator).tolist()
        named = zip(articles, self.colour.tolist(), self.shape.tolist(), self.motion.tolist(), strict=True)
        return [ARTICLES[i].format(f"{COLOURS[c]} {SPRITES[s]} {MOTIONS[m]}") for i, c, s, m in named]

    def repainted(self, generator: torch.Generator) -> "Clips":
        """The same paths with other shapes and colours."""
        shape = torch.randint(len(SPRITES), self.shape.shape, generator=generator)
        colour = torch.randint(len(COLOURS), self.colour.shape, generator=generator)
        return replace(self, shape=shape, colour=colour)

    def first(self, count: int) -> "Clips":
        """The first `count` clips."""
        return Clips(**{name: value[:count] for name, value in vars(self).items()})


def paths(motion: Tensor, generator: torch.Generator) -> Tensor:
    """Random centroids in pixels of clips with the given motions, shape (B, FRAMES, 2)."""
    count = len(motion)
    frame = torch.arange(FRAMES)
    phase = frame / PERIOD + torch.rand(count, 1, generator=generator)
    steps = frame - (FRAMES - 1) / 2
    offset = torch.zeros(count, FRAMES, 2)
    for index, name in enumerate(MOTIONS):
        rows = motion == index
        match name:
            case "moves left":
                offset[rows, :, 0] = -SPEED * steps
            case "moves right":
                offset[rows, :, 0] = SPEED * steps
            case "moves up":
                offset[rows, :, 1] = -SPEED * steps
            case "moves down":
                offset[rows, :, 1] = SPEED * steps
            case "bounces":
                offset[rows, :, 1] = HEIGHT * (2 * (phase[rows] % 1) - 1) ** 2
            case "circles":
                angle = 2 * pi * phase[rows]
                offset[rows] = ORBIT * torch.stack([angle.cos(), angle.sin()], -1)
    # The box that the path fills, and how much room it leaves; a bounce always ends on the floor.
    box = torch.zeros(count, 2)
    straight = SPEED * (FRAMES - 1) / 2
    box[motion < 2, 0] = straight
    box[(motion >= 2) & (motion < 4), 1] = straight
    box[motion == MOTIONS.index("circles")] = ORBIT
    room = SIZE / 2 - MARGIN - box
    centre = SIZE / 2 + (2 * torch.rand(count, 2, generator=generator) - 1) * room
    centre[motion == MOTIONS.index("bounces"), 1] = SIZE - MARGIN - HEIGHT
    return centre[:, None] + offset


def random_clips(count: int, generator: torch.Generator) -> Clips:
    """Draw `count` clips' descriptions; the sprite is always inside the picture."""
    motion = torch.randint(len(MOTIONS), (count,), generator=generator)
    return Clips(
        shape=torch.randint(len(SPRITES), (count,), generator=generator),
        colour=torch.randint(len(COLOURS), (count,), generator=generator),
        motion=motion,
        path=paths(motion, generator),
    )


@cache
def outlines() -> Tensor:
    """Signed distances of the sprites in radii around their centroids, shape (len(SPRITES), 1, TABLE, TABLE)."""
    axis = torch.linspace(-REACH, REACH, TABLE)
    points = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
    tables = []
    for name in SPRITES:
        centroid, radius = MEASURES[SHAPES.index(name)]
        tables.append(outline(name, points * radius + centroid) / radius)
    return torch.stack(tables)[:, None]


def render(clips: Clips) -> Tensor:
    """Videos, shape (B, 3, FRAMES, SIZE, SIZE), float32 in [-1, 1]."""
    axis = torch.arange(SIZE) + 0.5
    x = (axis - clips.path[..., 0, None]) / RADIUS
    y = (axis - clips.path[..., 1, None]) / RADIUS
    squares = (x * x)[..., None, :] + (y * y)[..., :, None]
    points = torch.stack([x[..., None, :].expand_as(squares), y[..., :, None].expand_as(squares)], -1)
    covered = torch.empty_like(squares)
    for index, table in enumerate(outlines()):
        rows = clips.shape == index
        grid = points[rows].reshape(1, -1, SIZE, 2) / REACH
        distance = F.grid_sample(table[None], grid, padding_mode="border", align_corners=True)
        covered[rows] = (0.5 - RADIUS * distance.reshape(-1, FRAMES, SIZE, SIZE)).clamp(0, 1)
    ground = GROUND[:, None, None, None] + torch.exp(-squares / 5)[:, None] * GLOW[:, None, None, None]
    # Lit from above by the same factor for every colour, so that luminance stays shared.
    light = 0.94 - 0.10 * y.clamp(-1.2, 1.2)
    body = RGB[clips.colour][:, :, None, None, None] * light[:, None, :, :, None]
    return torch.lerp(ground, body.expand_as(ground), covered[:, None]).clamp(0, 1) * 2 - 1
