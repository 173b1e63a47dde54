"""How the block world is drawn: where a ray ends, and what colour it brings back. Everything is float32, on the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from couple.scenes.cameras import Cameras

if TYPE_CHECKING:
    from couple.bundled.blocks import Blocks, Light

FAR = 1e6
"""Distance of what is not hit."""
_EPSILON = 1e-4


@dataclass(frozen=True, eq=False)
class Hit:
    """Where rays end: distance, slot, unit normal; shapes (B, N), (B, N), (B, N, 3)."""

    distance: Tensor
    slot: Tensor
    normal: Tensor


def rays(cameras: list[Cameras], samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """Origins, unit directions and viewing axes of all rays of each scene, shape (B, N, 3), float32."""
    origins, directions, forwards = [], [], []
    for views in cameras:
        y, x = torch.meshgrid(
            (torch.arange(views.height * samples, dtype=torch.float64) + 0.5) / samples,
            (torch.arange(views.width * samples, dtype=torch.float64) + 0.5) / samples,
            indexing="ij",
        )
        pixels = torch.stack([x, y, torch.ones_like(x)]).flatten(1)
        direction = (views.c2w[:, :3, :3] @ torch.linalg.inv(views.K) @ pixels).mT
        directions.append((direction / direction.norm(dim=-1, keepdim=True)).flatten(0, 1))
        origins.append(views.c2w[:, None, :3, 3].expand_as(direction).flatten(0, 1))
        forwards.append(views.c2w[:, None, :3, 2].expand_as(direction).flatten(0, 1))
    origin, direction, forward = (torch.stack(parts).float() for parts in (origins, directions, forwards))
    return origin, direction, forward


def trace(scenes: Blocks, origin: Tensor, direction: Tensor) -> Hit:
    """Follow rays to what they see first."""
    distances, normals = _objects(scenes, origin, direction)
    down = torch.where(direction[..., 2] < -1e-6, -origin[..., 2] / direction[..., 2], FAR)
    down = torch.where(down > _EPSILON, down, FAR)
    distances = torch.stack([*distances, down, torch.full_like(down, FAR)], -1)
    distance, slot = distances.min(-1)
    slot = torch.where(distance < FAR, slot, 5)
    up = torch.tensor([0.0, 0, 1]).expand_as(direction)
    normal = torch.stack([*normals, up, up], -2)
    normal = normal.gather(-2, slot[..., None, None].expand(*slot.shape, 1, 3))[..., 0, :]
    return Hit(distance, slot, normal)


def _objects(scenes: Blocks, origin: Tensor, direction: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Distances to the four slots, `FAR` where missed, and normals there; shapes (B, N) and (B, N, 3)."""
    distances, normals = [], []
    for slot, kind in enumerate((_box, _box, _ball, _drum)):
        half = scenes.half[:, slot, None]
        centre = torch.cat([scenes.place[:, slot], scenes.half[:, slot, 2:]], -1)[:, None]
        turn = scenes.turn[:, slot, None]
        o, d = _turned(origin - centre, -turn), _turned(direction, -turn)
        distance, normal = kind(o, d, half)
        distances.append(torch.where(scenes.present[:, slot, None], distance, FAR))
        normals.append(_turned(normal, turn))
    return distances, normals


def _turned(vector: Tensor, turn: Tensor) -> Tensor:
    """Vectors (B, N, 3) turned about the vertical axis by radians (B, 1)."""
    x, y, z = vector.unbind(-1)
    c, s = turn.cos(), turn.sin()
    return torch.stack([c * x - s * y, s * x + c * y, z], -1)


def _box(o: Tensor, d: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    inverse = 1 / torch.where(d.abs() < 1e-9, 1e-9, d)
    one, two = (-half - o) * inverse, (half - o) * inverse
    near, axis = torch.minimum(one, two).max(-1)
    far = torch.maximum(one, two).amin(-1)
    hit = (near < far) & (near > _EPSILON)
    normal = torch.nn.functional.one_hot(axis, 3) * -d.sign()
    return torch.where(hit, near, FAR), normal


def _ball(o: Tensor, d: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    radius = half[..., 0]
    b = (o * d).sum(-1)
    under = b.square() - o.square().sum(-1) + radius.square()
    near = -b - under.clamp(min=0).sqrt()
    hit = (under > 0) & (near > _EPSILON)
    return torch.where(hit, near, FAR), (o + near[..., None] * d) / radius[..., None]


def _drum(o: Tensor, d: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    radius, high = half[..., 0], half[..., 2]
    a = d[..., :2].square().sum(-1).clamp(min=1e-9)
    b = (o[..., :2] * d[..., :2]).sum(-1)
    under = b.square() - a * (o[..., :2].square().sum(-1) - radius.square())
    side = (-b - under.clamp(min=0).sqrt()) / a
    z = o[..., 2] + side * d[..., 2]
    side = torch.where((under > 0) & (side > _EPSILON) & (z.abs() <= high), side, FAR)
    lid = (high - o[..., 2]) / torch.where(d[..., 2].abs() < 1e-9, 1e-9, d[..., 2])
    within = (o[..., :2] + lid[..., None] * d[..., :2]).square().sum(-1) <= radius.square()
    lid = torch.where(within & (lid > _EPSILON) & (d[..., 2] < 0), lid, FAR)
    out = o + side[..., None] * d
    round_ = torch.cat([out[..., :2] / radius[..., None], torch.zeros_like(out[..., :1])], -1)
    up = torch.tensor([0.0, 0, 1]).expand_as(round_)
    return torch.minimum(side, lid), torch.where((lid < side)[..., None], up, round_)


def shade(scenes: Blocks, light: Light, origin: Tensor, direction: Tensor, hit: Hit) -> Tensor:
    """Colours of rays under a sun, shape (B, N, 3), in [0, 1]."""
    point = origin + hit.distance.clamp(max=100)[..., None] * direction
    sun, tint = light.direction[:, None], light.colour[:, None]
    facing = (hit.normal * sun).sum(-1).clamp(min=0)
    start = point + 2e-3 * hit.normal
    blocked = torch.stack(_objects(scenes, start, sun.expand_as(start))[0], -1).amin(-1) < FAR
    lit = (facing * ~blocked)[..., None]
    # Sky light comes from above and takes on a little of the sun's colour.
    around = (0.30 + 0.14 * hit.normal[..., 2:]) * (0.65 + 0.35 * tint)
    paint = torch.cat([scenes.colour, torch.zeros(len(scenes), 2, 3)], 1)
    albedo = paint.gather(1, hit.slot[..., None].expand(-1, -1, 3))
    albedo = torch.where((hit.slot == 4)[..., None], _ground(scenes, point), albedo)
    body = albedo * (around + 0.85 * tint * lit)
    rise = direction[..., 2:].clamp(0, 1)
    sky = scenes.sky[:, None] * (0.55 + 0.45 * tint)
    haze = sky * 0.6 + 0.4 * (0.4 + 0.6 * tint) * sky.amax(-1, keepdim=True)
    # The ground fades into the haze, so that its pattern never grows finer than a pixel.
    fade = ((hit.distance - 4.2) / 3.5).clamp(0, 1)[..., None] * (hit.slot == 4)[..., None]
    seen = body + (haze - body) * fade
    above = haze + (sky - haze) * (2.2 * rise).clamp(max=1)
    return torch.where((hit.slot == 5)[..., None], above, seen).clamp(0, 1)


def _ground(scenes: Blocks, point: Tensor) -> Tensor:
    """Colour of the ground at points (B, N, 3)."""
    x, y, _ = (_turned(point, scenes.bearing[:, None]) / scenes.pitch[:, None, None]).unbind(-1)
    stripe = x.floor().remainder(2)
    checker = (x.floor() + y.floor()).remainder(2)
    pattern = scenes.pattern[:, None]
    dark = torch.where(pattern == 1, checker, torch.where(pattern == 2, stripe, 0.0))
    light_, dark_ = scenes.ground[:, None, 0], scenes.ground[:, None, 1]
    return light_ + (dark_ - light_) * dark[..., None]
