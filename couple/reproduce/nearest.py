"""The true edit that is nearest to an edited scene: what fidelity is measured against where an edit is ambiguous.

"Change the light" may bring any sun and "a winter scene" any winter's colours, so a sample is right if *some* true edit
explains all its views at once. Here that edit is looked for and then rendered: under which sun, in which colours.
Both searches fit in least squares, over all views and pixels together, and rest on the pictures being linear in what is
sought as long as nothing is clipped: in the sun's colour once its direction is fixed, and in the paints once the light
is. What is returned is always an exact render, clipping included.
"""

from __future__ import annotations

import colorsys
import itertools
import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from couple.bundled.blocks import DARKER, PALETTES, Blocks, Light, render, rgb
from couple.scenes.cameras import Cameras

APART = math.radians(20)
"""A new sun is at least so far from the old one: keeping the light is no edit."""

_TINTS = 0.55, 1.5
"""Range of a channel of a sun's colour."""
_HEIGHTS = math.radians(28), math.radians(60)
_GRID = 24, (32, 44, 56)
"""Azimuths, and heights in degrees, at which suns are tried first."""
_HALVINGS = 4
_CLIPPED = 0.99
"""From here on a pixel says only that what is sought is large enough, and is left out."""
_HAZE = 4.0
"""Depth from which the ground begins to fade into the haze."""
#: Faint enough that no channel of a basis picture is clipped.
_FAINT = 0.25


class Suns:
    """Finds the sun, at least `APART` from the old one, under which a scene looks most like given pictures.

    Directions are tried on a grid, then around the best one at ever smaller distances; the colour is solved at each.
    The search is made at half the size, and on objects and near ground alone: sky and haze mix the sun's channels.

    Args:
        scene: one scene, B = 1.
        cameras: V of them.
        old: its sun before the edit.
    """

    def __init__(self, scene: Blocks, cameras: Cameras, old: Light):
        self._scene, self._cameras = scene, cameras
        self._small = cameras.resized(cameras.height // 2, cameras.width // 2)
        seen = render(scene, [old], [self._small], samples=1)[0]
        self._near = ((seen.slot[0] < 5) & (seen.depth[0] < _HAZE))[:, None]
        self._old = old.direction[0]
        azimuths = [2 * math.pi * k / _GRID[0] for k in range(_GRID[0])]
        grid = list(itertools.product(azimuths, map(math.radians, _GRID[1])))
        self._grid = [place for place in grid if self._is_new(place)]
        self._basis = self._pictures(self._grid)

    def nearest(self, pictures: Tensor) -> Light:
        """The sun that explains `pictures`, shape (V, 3, H, W), in [0, 1]."""
        small = avg_pool2d(pictures, 2)
        error, tint = self._best_tints(*self._basis, small)
        best = int(error.argmin())
        place, least, colour = self._grid[best], float(error[best]), tint[best]
        step = 2 * math.pi / _GRID[0], math.radians(_GRID[1][1] - _GRID[1][0])
        for _ in range(_HALVINGS):
            step = step[0] / 2, step[1] / 2
            around = [
                (place[0] + i * step[0], min(max(place[1] + j * step[1], _HEIGHTS[0]), _HEIGHTS[1]))
                for i, j in itertools.product((-1, 0, 1), repeat=2)
                if i or j
            ]
            around = [other for other in around if self._is_new(other)]
            if not around:
                continue
            error, tint = self._best_tints(*self._pictures(around), small)
            best = int(error.argmin())
            if float(error[best]) < least:
                place, least, colour = around[best], float(error[best]), tint[best]
        return Light(_direction(place)[None], colour[None])

    def render(self, pictures: Tensor) -> Tensor:
        """The scene under the sun nearest to `pictures`, of their shape."""
        return render(self._scene, [self.nearest(pictures)], [self._cameras])[0].pictures[0]

    def _is_new(self, place: tuple[float, float]) -> bool:
        return float(_direction(place) @ self._old) < math.cos(APART)

    def _pictures(self, places: list[tuple[float, float]]) -> tuple[Tensor, Tensor]:
        """Under suns at `places`: pictures without tint, and what one unit of tint adds; (places, V, 3, H, W) each."""
        directions = [_direction(place)[None] for place in places]
        lights = [Light(d, torch.full((1, 3), tint)) for d in directions for tint in (0.0, _FAINT)]
        drawn = torch.cat([one.pictures for one in render(self._scene, lights, [self._small], samples=1)])
        dark, faint = drawn[0::2], drawn[1::2]
        return dark, (faint - dark) / _FAINT

    def _best_tints(self, dark: Tensor, slope: Tensor, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """For each of G directions the squared error at the best tint, shape (G,), and that tint, shape (G, 3)."""
        there = self._near & (pictures < _CLIPPED)
        left = (pictures - dark) * there
        tint = (slope * left).sum((1, 3, 4)) / (slope.square() * there).sum((1, 3, 4)).clamp(min=1e-6)
        tint = tint.clamp(*_TINTS)
        drawn = (dark + slope * tint[:, None, :, None, None]).clamp(0, 1)
        return ((drawn - pictures) * self._near).square().sum((1, 2, 3, 4)), tint


class Paints:
    """Finds the colours of a style in which a scene looks most like given pictures.

    The colours of objects, ground and sky are solved by least squares and brought into the style's ranges of hue,
    saturation and value.

    Args:
        scene: one scene, B = 1.
        cameras: V of them.
        light: its sun.
        style: a key of `couple.bundled.blocks.PALETTES`.
    """

    def __init__(self, scene: Blocks, cameras: Cameras, light: Light, style: str):
        self._scene, self._cameras, self._light = scene, cameras, light
        self._ranges = [torch.tensor(part).unflatten(0, (3, 2)) for part in PALETTES[style]]
        # One picture for each paint, all others black: four objects, two of the ground, the sky in red and in green. A
        # sky colours its own channel, and all channels by how bright it is, which is what the other channels show.
        colour, ground, sky = torch.zeros(8, 4, 3), torch.zeros(8, 2, 3), torch.zeros(8, 3)
        colour[torch.arange(4), torch.arange(4)] = _FAINT
        ground[torch.arange(4, 6), torch.arange(2)] = _FAINT
        sky[6, 0] = sky[7, 1] = _FAINT
        rows = torch.zeros(8, dtype=torch.long)
        painted = replace(scene[rows], colour=colour, ground=ground, sky=sky)
        *paints, red, green = render(painted, [light[rows]], [cameras] * 8)[0].pictures / _FAINT
        self._tint = 0.55 + 0.45 * light.colour[0]
        self._bright = torch.stack([green[:, 0] / self._tint[1], *(red[:, c] / self._tint[0] for c in (1, 2))], 1)
        own = red[:, 0] / self._tint[0] - self._bright[:, 0]
        self._basis = torch.stack([*paints, own[:, None] * self._tint[:, None, None]])

    def nearest(self, pictures: Tensor) -> Blocks:
        """The scene in the colours that explain `pictures`, shape (V, 3, H, W), in [0, 1]."""
        brightest = float(self._ranges[2][2].mean())
        paints = torch.zeros(7, 3)
        for _ in range(3):
            paints = self._solved(pictures, brightest)
            paints[6] = into(paints[6], self._ranges[2])
            brightest = float((paints[6] * self._tint).max())
        colour = torch.stack([into(paint, self._ranges[1]) for paint in paints[:4]])
        light = into(paints[4], self._ranges[0])
        share = float((paints[5] @ light) / (light @ light))
        ground = torch.stack([light, light * min(max(share, DARKER[0]), DARKER[1])])
        return replace(self._scene, colour=colour[None], ground=ground[None], sky=paints[6][None])

    def render(self, pictures: Tensor) -> Tensor:
        """The scene in the colours nearest to `pictures`, of their shape."""
        return render(self.nearest(pictures), [self._light], [self._cameras])[0].pictures[0]

    def _solved(self, pictures: Tensor, brightest: float) -> Tensor:
        """Paints (7, 3) by least squares, given the brightest channel of the sky; paints that are not seen are 0."""
        solved = []
        for channel in range(3):
            there = pictures[:, channel].flatten() < _CLIPPED
            basis = self._basis[:, :, channel].flatten(1)[:, there].double()
            left = (pictures - brightest * self._bright)[:, channel].flatten()[there].double()
            gram = basis @ basis.T + 1e-3 * torch.eye(len(basis), dtype=torch.float64)
            solved.append(torch.linalg.solve(gram, basis @ left))
        return torch.stack(solved, 1).clamp(0, 1).float()


def into(colour: Tensor, ranges: Tensor) -> Tensor:
    """Bring an RGB colour, shape (3,), into ranges of hue in turns, saturation and value, shape (3, 2).

    Each of the three goes to the nearest end of its range, hue around the circle.

    Example:
        >>> into(torch.tensor([0.5, 0.5, 0.5]), torch.tensor([[0.0, 0.1], [0.5, 1.0], [0.2, 0.4]])).tolist()
        [0.4000000059604645, 0.20000000298023224, 0.20000000298023224]
    """
    hue, saturation, value = hsv(colour)
    (first, last), *others = ranges.tolist()
    turned = hue + math.floor(last - hue)
    if turned < first:
        turned = last if turned + 1 - last < first - turned else first
    saturation, value = (
        min(max(part, low), high) for part, (low, high) in zip((saturation, value), others, strict=True)
    )
    return rgb(torch.tensor([turned, saturation, value]))


def hsv(colour: Tensor) -> tuple[float, float, float]:
    """Hue in turns, saturation and value of an RGB colour, shape (3,)."""
    return colorsys.rgb_to_hsv(*colour.tolist())


def _direction(place: tuple[float, float]) -> Tensor:
    """The unit vector towards an azimuth and a height, in radians."""
    azimuth, height = place
    return torch.tensor([math.cos(height) * math.cos(azimuth), math.cos(height) * math.sin(azimuth), math.sin(height)])
