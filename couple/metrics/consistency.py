"""How well views agree about one scene: by colours where geometry is known, by features where it is not.

`reprojection_error` looks each pixel up in the other views. `met3r` is the published measure for generated pictures,
which need not keep colours: it compares features, and can guess the geometry from the pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from couple.metrics.pointmaps import PointMaps, check_depths
from couple.metrics.ranges import check_range
from couple.metrics.splatting import splat
from couple.scenes.cameras import Cameras, project, unproject

#: Rounding of places, in pixels.
_ROUNDING = 1e-6


def reprojection_error(
    pictures: Tensor,
    depths: Tensor,
    cameras: Cameras,
    *,
    pairs: Sequence[tuple[int, int]] | None = None,
    tolerance: float = 0.02,
) -> Tensor:
    """Mean absolute difference in colour of what two views see of one place, in 0 to 255, lower is better.

    Pixels of the second view of a pair are lifted by their depth and projected into the first, which is sampled there
    bilinearly. A pixel counts if the first view sees that place: the depths of all the pixels that are sampled are
    its distance, within `tolerance`. Pixels are averaged in a pair, and pairs are averaged.

    Args:
        pictures: shape (V, 3, H, W), floating, in [0, 1].
        depths: distance along the viewing axis, shape (V, H, W), in units of the scene; inf where there is nothing.
        cameras: V cameras for pictures of H x W pixels.
        pairs: indices of the views to compare; all ordered pairs of different views if left out.
        tolerance: by which share of it depths may differ and be the same.

    Returns:
        A scalar. Pairs that see nothing in common are left out.

    Raises:
        ValueError: a shape is wrong, a depth is not positive, or no pair sees anything in common.

    Example:
        >>> cameras = Cameras(torch.eye(4).repeat(2, 1, 1), torch.tensor([[4.0, 0, 2], [0, 4, 2], [0, 0, 1]]), 4, 4)
        >>> pictures = torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)])
        >>> reprojection_error(pictures, torch.ones(2, 4, 4), cameras)
        tensor(255.)
    """
    check_depths(depths, cameras)
    _check_pictures(pictures, depths.shape)
    depths = depths.to(pictures.device, torch.float64)
    if pairs is None:
        pairs = [(i, j) for i in range(len(cameras)) for j in range(len(cameras)) if i != j]
    errors = []
    for first, second in _checked(pairs, len(cameras)):
        places, distances = project(unproject(depths[[second]], cameras[second])[0], cameras, first)
        seen = _seen(places, distances, depths[first], tolerance)
        if not seen.any():
            continue
        size = places.new_tensor([cameras.width, cameras.height])
        grid = (2 * places[seen] / size - 1).to(pictures)
        found = F.grid_sample(pictures[[first]], grid[None, None], padding_mode="border", align_corners=False)
        errors.append(255 * (found[0, :, 0] - pictures[second][:, seen]).abs().mean())
    return _mean(errors, pairs)


@torch.no_grad()
def met3r(
    pictures: Tensor,
    points: PointMaps,
    features: Callable[[Tensor], Tensor],
    *,
    pairs: Sequence[tuple[int, int]] | None = None,
    radius: float = 1.28,
    points_per_pixel: int = 10,
) -> Tensor:
    """MEt3R, the feature dissimilarity of views in a common frame, in [0, 2], lower is better.

    Features of both views of a pair are put on their points and rendered into the first view; the score is
    `1 - cosine`, averaged over the pixels that either covers (Asim et al., arXiv 2501.06336, after
    mohammadasim98/met3r @ 3259e41b). Occlusion is not tested: what one view alone sees of a pixel counts.

    Published numbers (about 0.3 for good pictures) are of pictures of 256 x 256 pixels,
    `points=couple.metrics.Mast3r.load()` and `features=couple.metrics.FeatUp.load()`.

    Args:
        pictures: shape (V, 3, H, W), floating, in [0, 1].
        points: where pixels are, `ExactDepth(depths, cameras)` or `Mast3r.load()`.
        features: from pictures (V, 3, H, W) to maps (V, C, H, W).
        pairs: indices of the views to compare; each and its next if left out, as the authors do for sequences.
        radius: of a rendered point, in pixels; the published 0.01 is half of a picture's size, 1.28 pixels of 256.
        points_per_pixel: how many points are blended in a pixel, as published.

    Returns:
        A scalar, the mean over pairs. Pairs that have no pixel in common are left out; the published code has them
        at 0, its best score.

    Raises:
        ValueError: a shape is wrong, or no pair has a pixel in common.
    """
    _check_pictures(pictures, (len(pictures), *pictures.shape[-2:]))
    maps = features(pictures)
    views, _, height, width = pictures.shape
    if maps.ndim != 4 or maps.shape[0] != views or maps.shape[2:] != pictures.shape[2:]:
        raise ValueError(
            f"`features` made shape {tuple(maps.shape)}; expected ({views}, C, {height}, {width}): one vector a pixel."
        )
    if pairs is None:
        pairs = [(i, i + 1) for i in range(views - 1)]
    scores = []
    for first, second in _checked(pairs, views):
        places, K = points(pictures, first, second)
        (one, here), (other, there) = (
            splat(
                place.flatten(0, 1),
                maps[view].flatten(1).T,
                K,
                height,
                width,
                radius=radius,
                points_per_pixel=points_per_pixel,
            )
            for place, view in zip(places, (first, second), strict=True)
        )
        if not (here & there).any():
            continue
        norms = torch.linalg.vector_norm(one, dim=-1) * torch.linalg.vector_norm(other, dim=-1)
        scores.append((1 - (one * other).sum(-1) / (norms + 1e-5))[here & there].mean())
    return _mean(scores, pairs)


def _seen(places: Tensor, distances: Tensor, depths: Tensor, tolerance: float) -> Tensor:
    """Whether a view with `depths` (H, W) sees what lies at `places` (..., 2) at `distances` (...)."""
    height, width = depths.shape
    low, high = (places - 0.5 + _ROUNDING).floor(), (places - 0.5 - _ROUNDING).ceil()
    size = places.new_tensor([width, height])
    seen = (distances > 0) & distances.isfinite() & (low >= 0).all(-1) & (high < size).all(-1)
    for column in (low[..., 0], high[..., 0]):
        for row in (low[..., 1], high[..., 1]):
            index = (row * width + column).where(seen, 0).long()
            seen &= (depths.flatten()[index] - distances).abs() <= tolerance * distances
    return seen


def _mean(values: list[Tensor], pairs: Sequence[tuple[int, int]]) -> Tensor:
    if not values:
        raise ValueError(f"none of the pairs {pairs} sees anything in common; give other `pairs` of views.")
    return torch.stack(values).mean()


def _checked(pairs: Sequence[tuple[int, int]], views: int) -> Sequence[tuple[int, int]]:
    if not pairs or not all(0 <= i < views for pair in pairs for i in pair):
        raise ValueError(f"`pairs` is {pairs}; give pairs of indices of the {views} views, such as [(0, 1)].")
    return pairs


def _check_pictures(pictures: Tensor, views: Sequence[int]) -> None:
    expected = (views[0], 3, *views[1:])
    if tuple(pictures.shape) != expected or not pictures.is_floating_point():
        raise ValueError(
            f"`pictures` has shape {tuple(pictures.shape)} and type {pictures.dtype}; expected {expected}, floating, "
            "in [0, 1]."
        )
    check_range("pictures", pictures)
