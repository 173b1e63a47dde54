"""Points with features, seen by a camera: discs of a fixed radius in pixels, the nearest ones laid over the others.

It is point rendering as PyTorch3D has it (`PointsRasterizer` with `AlphaCompositor`, facebookresearch/pytorch3d @
9381c401), which MEt3R is defined by, in a few lines of torch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def splat(
    points: Tensor, features: Tensor, K: Tensor, height: int, width: int, *, radius: float, points_per_pixel: int
) -> tuple[Tensor, Tensor]:
    """Render points into a picture.

    A point covers the pixels whose centres are nearer than `radius` to its place; its opacity there is
    `1 - (distance / radius)^2`. The nearest `points_per_pixel` are composited front to back, over nothing.

    Args:
        points: places in the camera's axes (x right, y down, z forward), shape (N, 3), floating; points that are behind
            the camera or not finite are not drawn.
        features: shape (N, C), of the same type.
        K: intrinsics in pixels, shape (3, 3).
        height: rows of the picture.
        width: columns of it.
        radius: of a point, in pixels.
        points_per_pixel: how many points of a pixel count.

    Returns:
        The picture, shape (height, width, C), and where there is any point, shape (height, width), bool.
    """
    point, pixel, opacity = _covered(points, K.to(points), height, width, radius)
    nearest = points[point, 2].argsort(stable=True)
    order = nearest[pixel[nearest].argsort(stable=True)]
    point, pixel, opacity = point[order], pixel[order], opacity[order]
    count = torch.bincount(pixel, minlength=height * width)
    rank = torch.arange(len(pixel), device=pixel.device) - (count.cumsum(0) - count)[pixel]
    kept = rank < points_per_pixel
    point, pixel, rank, count = point[kept], pixel[kept], rank[kept], count.clamp_max(points_per_pixel)

    layers = opacity.new_zeros(height * width, points_per_pixel)
    layers[pixel, rank] = opacity[kept]
    light = (1 - layers).cumprod(1).roll(1, 1)
    light[:, 0] = 1
    picture = F.embedding_bag(
        point,
        features.contiguous(),
        count.cumsum(0) - count,
        mode="sum",
        per_sample_weights=(light * layers)[pixel, rank].to(features),
    )
    return picture.unflatten(0, (height, width)), (count > 0).unflatten(0, (height, width))


def _covered(points: Tensor, K: Tensor, height: int, width: int, radius: float) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of a point and a pixel it covers: index of the point, index of the pixel, opacity there."""
    reach = math.floor(radius + 0.5)
    places = (points @ K.mT)[:, :2] / points[:, 2:]
    near = (places > -reach - 1).all(1) & (places < places.new_tensor([width, height]) + reach + 1).all(1)
    point = (points.isfinite().all(1) & (points[:, 2] > 0) & near).nonzero()[:, 0]
    places = places[point]
    pairs = []
    for y in range(-reach, reach + 1):
        for x in range(-reach, reach + 1):
            column, row = (places.floor() + places.new_tensor([x, y])).long().unbind(1)
            distance = (torch.stack([column, row], 1) + 0.5 - places).square().sum(1)
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (distance < radius**2)
            pairs.append((point[inside], (row * width + column)[inside], 1 - distance[inside] / radius**2))
    points_, pixels, opacities = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    return points_, pixels, opacities
