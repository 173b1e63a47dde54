"""The world of the bundled editing models: blocks on a patterned ground under one sun, ray-traced, known exactly.

Every scene has up to two boxes, a ball and a drum (an upright cylinder) standing on the plane z = 0, a sky, and a sun
whose direction and colour can be chosen anew: geometry, colours and light are three separate things, so that each of
the three edits (relight, restyle, move) changes one of them and has an exact answer. Depth and masks come with the
pictures. Everything is drawn in torch, a batch of scenes at once, from numbers that a generator draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from couple.bundled.tracing import FAR, rays, shade, trace
from couple.scenes.cameras import Cameras, intrinsics, poses_around_origin

SIZE = 48
"""Pixels along one side of a picture."""

OBJECTS = ("box", "second box", "ball", "drum")
"""What can stand in a scene, in the order of the slots of `Blocks`."""

PATTERNS = ("plain", "checker", "stripes")

PALETTES = {
    "winter": (
        (0.55, 0.62, 0.02, 0.14, 0.86, 0.98),
        (0.50, 0.72, 0.25, 0.75, 0.55, 0.95),
        (0.55, 0.60, 0.15, 0.30, 0.85, 0.95),
    ),
    "desert": (
        (0.08, 0.12, 0.35, 0.55, 0.75, 0.90),
        (-0.03, 0.10, 0.55, 0.85, 0.50, 0.90),
        (0.06, 0.12, 0.20, 0.40, 0.90, 1.0),
    ),
    "forest": (
        (0.24, 0.36, 0.35, 0.60, 0.40, 0.62),
        (0.02, 0.40, 0.40, 0.75, 0.40, 0.80),
        (0.48, 0.56, 0.20, 0.40, 0.75, 0.90),
    ),
    "candy": (
        (0.86, 0.98, 0.20, 0.38, 0.88, 0.98),
        (0.0, 1.0, 0.35, 0.55, 0.85, 0.98),
        (0.70, 0.80, 0.15, 0.30, 0.90, 1.0),
    ),
    "night": (
        (0.62, 0.75, 0.30, 0.50, 0.30, 0.45),
        (0.0, 1.0, 0.50, 0.85, 0.45, 0.80),
        (0.62, 0.70, 0.45, 0.70, 0.12, 0.25),
    ),
    "toy": (
        (0.08, 0.14, 0.05, 0.15, 0.70, 0.85),
        (0.0, 1.0, 0.70, 0.95, 0.70, 0.95),
        (0.52, 0.60, 0.25, 0.45, 0.85, 0.98),
    ),
}
"""Of each style the ranges of ground, objects and sky: hue in turns from, to; saturation from, to; value from, to."""

DARKER = (0.55, 0.75)
"""Range of the ground's second colour, as a share of the first."""

STYLES = tuple(PALETTES)
"""The styles the bundled restyling editor knows by name."""

_FOV = math.radians(40)
_DISTANCE = 3.1
_GAZE = 0.22
"""Height of the point that all cameras look at."""


@dataclass(frozen=True, eq=False)
class Blocks:
    """A batch of B scenes in numbers, four slots for objects each: box, box, ball, drum.

    Attributes:
        present: which slots are filled, shape (B, 4), bool.
        place: x and y of the centres, shape (B, 4, 2); everything stands on z = 0.
        half: half the extents along x, y, z; a ball is as wide as its x, a drum as its x, shape (B, 4, 3).
        turn: radians about the vertical axis, shape (B, 4).
        colour: RGB of each object in [0, 1], shape (B, 4, 3).
        ground: RGB of the two colours of the pattern, shape (B, 2, 3).
        pattern: index into `PATTERNS`, shape (B,), int64.
        pitch: length of one element of the pattern, shape (B,).
        bearing: radians by which the pattern is turned, shape (B,).
        sky: RGB overhead under white light, shape (B, 3).
    """

    present: Tensor
    place: Tensor
    half: Tensor
    turn: Tensor
    colour: Tensor
    ground: Tensor
    pattern: Tensor
    pitch: Tensor
    bearing: Tensor
    sky: Tensor

    def __len__(self) -> int:
        """Return the number of scenes."""
        return len(self.present)

    def __getitem__(self, rows: Tensor | slice) -> Blocks:
        """Choose scenes."""
        return Blocks(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def restyled(self, style: Tensor, generator: torch.Generator) -> Blocks:
        """The same geometry in other colours.

        Args:
            style: index into `STYLES` for each scene, shape (B,), int64.
            generator: draws the colours from the style's ranges.
        """
        ranges = torch.tensor([PALETTES[name] for name in STYLES])[style]
        draws = torch.rand(len(self), 7, 3, generator=generator)
        kinds = torch.tensor([0, 0, 1, 1, 1, 1, 2])
        low, high = ranges[:, kinds].unflatten(-1, (3, 2)).unbind(-1)
        hsv = low + (high - low) * draws
        paint = rgb(hsv)
        # The two colours of the ground are one hue, light and dark.
        light = paint[:, 0]
        dark = light * (DARKER[0] + (DARKER[1] - DARKER[0]) * draws[:, 1, :1])
        return replace(self, ground=torch.stack([light, dark], 1), colour=paint[:, 2:6], sky=paint[:, 6])

    def moved(self, slot: Tensor, offset: Tensor) -> Blocks:
        """The scenes with one object elsewhere: `slot` of each, shape (B,), by `offset` in x and y, shape (B, 2)."""
        place = self.place.clone()
        place[torch.arange(len(self)), slot] += offset
        return replace(self, place=place)


@dataclass(frozen=True, eq=False)
class Light:
    """The sun over each of B scenes.

    Attributes:
        direction: unit vectors towards the sun, shape (B, 3).
        colour: RGB, shape (B, 3); about 1 on average.
    """

    direction: Tensor
    colour: Tensor

    def __getitem__(self, rows: Tensor | slice) -> Light:
        """Choose suns."""
        return Light(self.direction[rows], self.colour[rows])


@dataclass(frozen=True, eq=False)
class Renders:
    """Pictures of B scenes from V cameras each.

    Attributes:
        pictures: shape (B, V, 3, H, W), float32, in [0, 1].
        depth: distance along the viewing axis at pixel centres, inf in the sky, shape (B, V, H, W).
        slot: which object is seen at pixel centres, 4 for the ground and 5 for the sky, shape (B, V, H, W), int64.
    """

    pictures: Tensor
    depth: Tensor
    slot: Tensor


def random_blocks(count: int, generator: torch.Generator) -> Blocks:
    """Draw scenes of two to four objects that do not touch, in the colours of a style drawn for each."""

    def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    present = torch.ones(count, 4, dtype=torch.bool)
    # One object in two scenes of three is missing, a second one in one of three.
    for chance in (2 / 3, 1 / 3):
        gone = torch.randint(4, (count,), generator=generator)
        present[torch.arange(count), gone] &= uniform() > chance
    # Objects stand in four sectors around the middle, whose order is drawn too.
    sector = uniform(4).argsort(1)
    angle = (sector + 0.5 + uniform(4, low=-0.22, high=0.22)) * (math.pi / 2) + uniform(1, high=2 * math.pi)
    away = uniform(4, low=0.50, high=0.86)
    place = torch.stack([angle.cos() * away, angle.sin() * away], -1)
    half = torch.tensor([0.17, 0.17, 0.15]) + torch.tensor([0.13, 0.13, 0.33]) * uniform(4, 3)
    half[:, 2] = (half[:, 2, :1] + 0.02).expand(-1, 3)
    scenes = Blocks(
        present=present,
        place=place,
        half=half,
        turn=uniform(4, high=math.pi / 2),
        colour=torch.zeros(count, 4, 3),
        ground=torch.zeros(count, 2, 3),
        pattern=torch.randint(len(PATTERNS), (count,), generator=generator),
        pitch=uniform(low=0.45, high=0.8),
        bearing=uniform(high=math.pi),
        sky=torch.zeros(count, 3),
    )
    return scenes.restyled(torch.randint(len(STYLES), (count,), generator=generator), generator)


def new_place(scenes: Blocks, slot: Tensor, generator: torch.Generator) -> Tensor:
    """An offset for one object of each scene, shape (B, 2), to where it touches nothing."""
    rows = torch.arange(len(scenes))
    angle = 2 * math.pi * torch.rand(len(scenes), 40, generator=generator)
    length = 0.30 + 0.35 * torch.rand(len(scenes), 40, generator=generator)
    offsets = torch.stack([angle.cos() * length, angle.sin() * length], -1)
    target = scenes.place[rows, slot][:, None] + offsets
    reach = scenes.half[..., :2].norm(dim=-1)
    gap = (target[:, :, None] - scenes.place[:, None]).norm(dim=-1) - reach[:, None] - reach[rows, slot][:, None, None]
    other = scenes.present & (torch.arange(4) != slot[:, None])
    clear = torch.where(other[:, None], gap, torch.inf).amin(-1).clamp(max=0.05)
    clear -= (target.norm(dim=-1) - 0.95).clamp(min=0)
    return offsets[rows, clear.argmax(1)]


def random_light(count: int, generator: torch.Generator, *, tint: float = 0.45) -> Light:
    """Draw suns from all around, 28 to 60 degrees up; `tint` is the saturation of their colours at most."""
    azimuth = 2 * math.pi * torch.rand(count, generator=generator)
    height = torch.deg2rad(28 + 32 * torch.rand(count, generator=generator))
    direction = torch.stack([height.cos() * azimuth.cos(), height.cos() * azimuth.sin(), height.sin()], -1)
    hsv = torch.rand(count, 3, generator=generator) * torch.tensor([1.0, tint, 0.0]) + torch.tensor([0, 0, 1.0])
    colour = rgb(hsv)
    return Light(direction, colour / colour.mean(1, keepdim=True))


def ring(azimuth: Tensor, elevation: float | Tensor, size: int = SIZE) -> Cameras:
    """Cameras around the middle of a scene, V of them.

    Args:
        azimuth: radians anticlockwise from above, shape (V,).
        elevation: radians above the horizon, one for all or shape (V,).
        size: pixels along each side of the square pictures.
    """
    azimuth = azimuth.double()
    c2w = poses_around_origin(azimuth, torch.as_tensor(elevation, dtype=torch.float64).expand_as(azimuth), _DISTANCE)
    c2w[:, 2, 3] += _GAZE
    return Cameras(c2w, intrinsics(_FOV, size, size), size, size)


def render(scenes: Blocks, lights: list[Light], cameras: list[Cameras], *, samples: int = 2) -> list[Renders]:
    """Draw B scenes from V cameras each, under each of some suns; geometry is traced once for all suns.

    Args:
        scenes: B scenes.
        lights: suns for all scenes, as many times as wanted.
        cameras: B sets of V cameras for pictures of one size.
        samples: rays along each side of a pixel.

    Returns:
        One `Renders` for each entry of `lights`.
    """
    height, width = cameras[0].height, cameras[0].width
    origin, direction, _ = rays(cameras, samples)
    hit = trace(scenes, origin, direction)
    colours = [shade(scenes, light, origin, direction, hit) for light in lights]
    origin, direction, forward = rays(cameras, 1)
    hit = trace(scenes, origin, direction)
    depth = torch.where(hit.distance < FAR, hit.distance * (direction * forward).sum(-1), torch.inf)
    shape = (len(scenes), -1, height, width)
    renders = []
    for colour in colours:
        pictures = colour.reshape(len(scenes), -1, height, samples, width, samples, 3).mean((3, 5))
        renders.append(Renders(pictures.movedim(-1, 2), depth.reshape(shape), hit.slot.reshape(shape)))
    return renders


def rgb(hsv: Tensor) -> Tensor:
    """RGB in [0, 1] of hue (in turns, any number), saturation and value, shape (..., 3)."""
    hue, saturation, value = hsv.unbind(-1)
    offset = torch.tensor([5.0, 3.0, 1.0])
    k = (offset + 6 * hue[..., None]).remainder(6)
    return value[..., None] * (1 - saturation[..., None] * torch.minimum(k, 4 - k).clamp(0, 1))
