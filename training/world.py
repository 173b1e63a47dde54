"""The picture world of the bundled model: one pastel shape that sheds a soft glow on a dark ground, with a caption.

Everything is drawn from signed distances, anti-aliased, in torch, at random place, size and turn. Three choices serve
coupling. The colours share one luminance, because a squared distance can align only what two pictures have in common.
All shapes have the same area and their centroid at the picture's `centre`. And every object sheds the same pale glow,
whatever its shape or colour, so that pictures of different prompts agree at low frequencies, where layout is decided.
"""

from dataclasses import dataclass, replace
from math import cos, pi, sin

import torch
from torch import Tensor

from couple.bundled import COLOURS, SHAPES
from couple.metrics import alignment

SIZE = 64
"""Pixels along one side."""

RGB = torch.tensor(
    [
        [1.00, 0.66, 0.86],  # pink
        [1.00, 0.69, 0.44],  # orange
        [0.90, 0.76, 0.22],  # yellow
        [0.42, 0.87, 0.50],  # green
        [0.47, 0.80, 1.00],  # blue
        [0.80, 0.70, 1.00],  # purple
    ]
)
LUMA = torch.tensor(alignment.LUMA)

LUMINANCE = 0.745
RGB = RGB + (LUMINANCE - RGB @ LUMA)[:, None]
RGB = RGB.clamp(max=1.0)

GROUND = torch.tensor([0.06, 0.07, 0.15])
GLOW = torch.tensor([0.24, 0.24, 0.30])
ARTICLES = ("a {}", "{}", "the {}", "one {}")


@dataclass(frozen=True)
class Scene:
    """A batch of pictures described in numbers; every field has shape (B, ...).

    Attributes:
        shape: index into `SHAPES`, int64.
        colour: index into `COLOURS`, int64.
        centre: x and y of the object's centroid in pixels, shape (B, 2).
        radius: radius in pixels of the disc of the same area.
        turn: radians.
    """

    shape: Tensor
    colour: Tensor
    centre: Tensor
    radius: Tensor
    turn: Tensor

    def captions(self, generator: torch.Generator) -> list[str]:
        """One caption a picture, such as "a pink star"; the article varies."""
        articles = torch.randint(len(ARTICLES), (len(self.shape),), generator=generator).tolist()
        return [
            ARTICLES[i].format(f"{COLOURS[c]} {SHAPES[s]}")
            for i, c, s in zip(articles, self.colour.tolist(), self.shape.tolist(), strict=True)
        ]

    def repainted(self, generator: torch.Generator) -> "Scene":
        """The same places, sizes and turns with other shapes and colours."""
        shape = torch.randint(len(SHAPES), self.shape.shape, generator=generator)
        colour = torch.randint(len(COLOURS), self.colour.shape, generator=generator)
        return replace(self, shape=shape, colour=colour)


def random_scene(count: int, generator: torch.Generator) -> Scene:
    """Draw `count` pictures' descriptions; the object and a margin of four pixels always fit."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    radius = 10 + 5 * uniform(count)
    room = SIZE / 2 - 1.2 * radius - 4
    return Scene(
        shape=torch.randint(len(SHAPES), (count,), generator=generator),
        colour=torch.randint(len(COLOURS), (count,), generator=generator),
        centre=SIZE / 2 + (2 * uniform(count, 2) - 1) * room[:, None],
        radius=radius,
        turn=(2 * uniform(count) - 1) * pi / 8,
    )


def _polygon(points: Tensor, corners: Tensor) -> Tensor:
    """Signed distance to a polygon; points (..., 2), corners (N, 2)."""
    squared, inside = None, torch.zeros(points.shape[:-1], dtype=torch.bool)
    x, y = points.unbind(-1)
    for (ax, ay), (bx, by) in zip(corners.tolist(), corners.roll(1, 0).tolist(), strict=True):
        ex, ey, wx, wy = bx - ax, by - ay, x - ax, y - ay
        along = ((wx * ex + wy * ey) / (ex * ex + ey * ey)).clamp(0, 1)
        d = (wx - ex * along) ** 2 + (wy - ey * along) ** 2
        squared = d if squared is None else torch.minimum(squared, d)
        if ay != by:
            inside ^= ((ay > y) != (by > y)) & (x < ex * (y - ay) / ey + ax)
    return squared.sqrt() * (1 - 2 * inside.float())


def _disc(points: Tensor, x: float, y: float, radius: float) -> Tensor:
    return torch.hypot(points[..., 0] - x, points[..., 1] - y) - radius


def _corners(radii: list[float]) -> Tensor:
    """Corners at equal angles, the first one pointing up."""
    return torch.tensor(
        [(r * sin(2 * pi * i / len(radii)), -r * cos(2 * pi * i / len(radii))) for i, r in enumerate(radii)]
    )


def outline(shape: str, points: Tensor) -> Tensor:
    """Signed distance of one shape in its own units, y down, corners slightly rounded."""
    match shape:
        case "circle":
            return _disc(points, 0, 0, 1)
        case "square":
            return _polygon(points, torch.tensor([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)])) - 0.12
        case "triangle":
            return _polygon(points, _corners([1.0] * 3)) - 0.12
        case "star":
            return _polygon(points, _corners([1.0, 0.46] * 5)) - 0.06
        case "heart":
            body = _polygon(points, _corners([1.0] * 4))
            lobes = torch.minimum(_disc(points, -0.5, -0.5, 0.5**0.5), _disc(points, 0.5, -0.5, 0.5**0.5))
            return torch.minimum(body, lobes)
        case "moon":
            return torch.maximum(_disc(points, 0, 0, 1), -_disc(points, 0.70, -0.1, 0.86))
        case _:
            raise ValueError(f"`shape` is {shape!r}; the world has {', '.join(SHAPES)}.")


def _measure(shape: str) -> tuple[Tensor, float]:
    """Centroid of a shape in its own units, and the radius of the disc of its area."""
    axis = torch.linspace(-2, 2, 801)
    points = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
    inside = points[outline(shape, points) < 0]
    return inside.mean(0), (len(inside) * (4 / 800) ** 2 / pi) ** 0.5


MEASURES = [_measure(shape) for shape in SHAPES]


def coverage(scene: Scene) -> Tensor:
    """How much of each pixel the object covers, shape (B, SIZE, SIZE), in [0, 1]."""
    axis = torch.arange(SIZE) + 0.5
    pixels = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
    away = pixels[None] - scene.centre[:, None, None]
    c, s = scene.turn.cos()[:, None, None], scene.turn.sin()[:, None, None]
    x, y = away.unbind(-1)
    away = torch.stack([c * x + s * y, c * y - s * x], -1)
    covered = torch.empty(away.shape[:-1])
    for index, shape in enumerate(SHAPES):
        rows = scene.shape == index
        centroid, radius = MEASURES[index]
        scale = (scene.radius[rows] / radius)[:, None, None]
        distance = outline(shape, away[rows] / scale[..., None] + centroid) * scale
        covered[rows] = (0.5 - distance).clamp(0, 1)
    return covered


def render(scene: Scene) -> Tensor:
    """Pictures of a scene, shape (B, 3, SIZE, SIZE), float32 in [-1, 1]."""
    axis = torch.arange(SIZE) + 0.5
    x = (axis[None, None, :] - scene.centre[:, 0, None, None]) / scene.radius[:, None, None]
    y = (axis[None, :, None] - scene.centre[:, 1, None, None]) / scene.radius[:, None, None]
    glow = torch.exp(-(x * x + y * y) / 5)
    covered = coverage(scene)[:, None]
    # Lit from above by the same factor for every colour, so that luminance stays shared.
    light = 1 - 0.10 * y[:, None].clamp(-1.2, 1.2) - 0.06
    ground = GROUND[:, None, None] + glow[:, None] * GLOW[:, None, None]
    body = RGB[scene.colour][:, :, None, None] * light
    return ((1 - covered) * ground + covered * body).clamp(0, 1) * 2 - 1
