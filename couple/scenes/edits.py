"""Edits in space: an object is moved rigidly, and every picture of the scene shows the move, coarsely.

The pixels of the object are lifted by their depth, moved, and splatted into every view against the depth of what stays.
Where the object stood nothing is known: the picture is transparent there. The result is made of cut-out pixels under
the old light, without shadows, which is what an editor such as Magic Fixup takes and makes plausible.

A view prefers its own pixels of the object; other views supply the sides it did not see, except where it saw that there
is nothing. Hence an object that is moved nowhere leaves every picture as it was, whatever the depths.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from couple.scenes.cameras import Cameras, project, unproject

#: Points whose depths differ by less than this share of them are of one surface.
_SURFACE = 0.01
#: How far a splat reaches to each side at most, in pixels; where the object grows by more, gaps are left.
_REACH = 2.0
#: Rounding of places, in pixels.
_ROUNDING = 1e-3
#: Added to the squared distance, in pixels, of points that another view saw: they lose to those of the view itself.
_FOREIGN = 100.0


@dataclass(frozen=True, eq=False)
class CoarseEdit:
    """Pictures of a scene after an edit.

    Attributes:
        rgba: shape (V, 4, H, W), in [0, 1]; alpha is 1, and 0 in holes, where the colour is 0 too.
        holes: where nothing is known, shape (V, H, W), bool.
        moved: where the moved object is seen, shape (V, H, W), bool.
    """

    rgba: Tensor
    holes: Tensor
    moved: Tensor

    def over(self, grey: float) -> Tensor:
        """The pictures with holes of one grey, in [0, 1]; shape (V, 3, H, W)."""
        return self.rgba[:, :3] + grey * self.holes[:, None]


def move_object(pictures: Tensor, depths: Tensor, masks: Tensor, cameras: Cameras, transform: Tensor) -> CoarseEdit:
    """Move an object in every picture of a scene.

    Args:
        pictures: shape (V, 3, H, W), floating point, in [0, 1].
        depths: distance along the viewing axis, shape (V, H, W), in units of the scene; inf where there is nothing.
        masks: where the object is seen, shape (V, H, W), bool; `spread_mask` makes them from the mask of one view.
        cameras: V cameras for pictures of H x W pixels.
        transform: from old to new places of the object in world axes, shape (4, 4): a rotation and a translation.

    Returns:
        The edited pictures, on the device of `pictures`; equal inputs give equal bits.

    Raises:
        ValueError: a shape is wrong, a depth is not positive (or not finite under a mask), or `transform` is not rigid.

    Example:
        >>> cameras = Cameras(torch.eye(4)[None], torch.tensor([[4.0, 0, 2], [0, 4, 2], [0, 0, 1]]), 4, 4)
        >>> mask = torch.zeros(1, 4, 4, dtype=torch.bool)
        >>> mask[0, 1, 1] = True
        >>> right = torch.eye(4)
        >>> right[0, 3] = 0.5  # focal length 4, depth 2: one pixel
        >>> depths = torch.where(mask, 2.0, 3.0)
        >>> edit = move_object(torch.rand(1, 3, 4, 4), depths, mask, cameras, right)
        >>> edit.holes[0].nonzero().tolist(), edit.moved[0].nonzero().tolist()
        ([[1, 1]], [[1, 2]])
    """
    _check_views(depths, masks, cameras)
    _check_pictures(pictures, depths)
    transform = _rigid(transform).to(pictures.device)
    depths, masks = depths.to(pictures.device, torch.float64), masks.to(pictures.device)
    points = unproject(depths, cameras)
    colours = pictures.permute(0, 2, 3, 1).contiguous()
    edited = [_moved_view(view, colours, depths, masks, points, cameras, transform) for view in range(len(cameras))]
    rgba, holes, moved = (torch.stack(parts) for parts in zip(*edited, strict=True))
    return CoarseEdit(rgba.permute(0, 3, 1, 2), holes, moved)


def spread_mask(mask: Tensor, view: int, depths: Tensor, cameras: Cameras, *, tolerance: float = 0.02) -> Tensor:
    """Find in every view the pixels that `view` sees under its mask.

    A pixel belongs to the object if it lies under the mask when projected into `view`, at the depth seen there. Sides
    of the object that are turned away from `view` are not found.

    Args:
        mask: where the object is seen in `view`, shape (H, W), bool.
        view: whose mask it is.
        depths: as in `move_object`.
        cameras: as in `move_object`.
        tolerance: by which share of it depths may differ and be the same.

    Returns:
        Masks, shape (V, H, W), bool; that of `view` is `mask`.

    Raises:
        ValueError: a shape is wrong, or a depth is not positive (or not finite under the mask).
    """
    if not 0 <= view < len(cameras):
        raise ValueError(f"`view` is {view}; there are views 0 to {len(cameras) - 1}.")
    masks = torch.zeros(depths.shape, dtype=torch.bool, device=depths.device)
    if mask.shape != depths.shape[1:] or mask.dtype != torch.bool:
        raise ValueError(
            f"`mask` has shape {tuple(mask.shape)} and type {mask.dtype}; expected {tuple(depths.shape[1:])} bool."
        )
    masks[view] = mask
    _check_views(depths, masks, cameras)
    seen = depths.double()
    places, distances = project(unproject(seen, cameras), cameras, view)
    index, inside = _pixel(places, cameras)
    expected = seen[view].flatten()[index]
    same = inside & mask.flatten()[index] & ((distances - expected).abs() <= tolerance * expected)
    same[view] = mask
    return same


def _moved_view(
    view: int, colours: Tensor, depths: Tensor, masks: Tensor, points: Tensor, cameras: Cameras, transform: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The picture (H, W, 4), the holes (H, W) and the places of the moved object (H, W) of one view."""
    places, distances = project(points @ transform[:3, :3].mT + transform[:3, 3], cameras, view)
    point, pixel, offset = _splats(places, masks & (distances > 0), cameras)
    distance, foreign = distances.flatten()[point], point // depths[view].numel() != view
    behind = depths[view].masked_fill(masks[view], torch.inf).flatten()[pixel]
    kept = distance * (1 + foreign * _SURFACE) < behind
    kept &= ~(foreign & _seen_empty(view, pixel, distance, depths, cameras, transform))
    front, moved = _front(point[kept], pixel[kept], distance[kept], (offset + foreign * _FOREIGN)[kept], depths[view])
    holes = masks[view] & ~moved
    rgb = torch.where(moved[..., None], colours.reshape(-1, 3)[front], colours[view])
    alpha = (~holes)[..., None].to(rgb)
    return torch.cat([rgb * alpha, alpha], -1), holes, moved


def _splats(places: Tensor, shown: Tensor, cameras: Cameras) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of a point and a pixel it covers: index of the point, index of the pixel, squared distance in pixels.

    A point covers the pixels whose centres lie in its box. `places` has shape (V, H, W, 2), `shown` (V, H, W).
    """
    point = shown.flatten().nonzero()[:, 0]
    place, extent = places.reshape(-1, 2)[point], _extents(places, shown).reshape(-1, 2)[point]
    # In front of a camera at a grazing angle places grow beyond what an integer holds.
    inside = (place > -_REACH - 1).all(-1) & (place < place.new_tensor([cameras.width, cameras.height]) + _REACH).all(
        -1
    )
    point, place, extent = point[inside], place[inside], extent[inside]
    reach = math.ceil(_REACH)
    pairs = []
    for y in range(-reach, reach + 1):
        for x in range(-reach, reach + 1):
            centre = place.floor() + place.new_tensor([x, y]) + 0.5
            index, within = _pixel(centre, cameras)
            covered = within & ((centre - place).abs() <= extent).all(-1)
            pairs.append((point[covered], index[covered], (centre - place)[covered].square().sum(-1)))
    points, pixels, offsets = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    return points, pixels, offsets


def _extents(places: Tensor, shown: Tensor) -> Tensor:
    """Half the box around each projected pixel, shape (V, H, W, 2): steps to the next pixels of a row and a column.

    Of the steps to either side the shorter counts, so that a pixel beside an edge in depth is not drawn out.
    """
    total = torch.zeros_like(places)
    for axis, alone in ((1, (0.0, 1.0)), (2, (1.0, 0.0))):
        count = places.shape[axis] - 1
        joined = shown.narrow(axis, 0, count) & shown.narrow(axis, 1, count)
        step = places.diff(dim=axis).abs().masked_fill(~joined[..., None], torch.inf)
        end = torch.full_like(places.narrow(axis, 0, 1), torch.inf)
        shorter = torch.minimum(torch.cat([step, end], axis), torch.cat([end, step], axis))
        total += torch.where(shorter.isinf(), places.new_tensor(alone), shorter)
    return (total / 2 + _ROUNDING).clamp(max=_REACH)


def _seen_empty(
    view: int, pixel: Tensor, distance: Tensor, depths: Tensor, cameras: Cameras, transform: Tensor
) -> Tensor:
    """Whether `view` saw before the move that the object is not where a pixel now shows it, shape (N,).

    The place that the pixel shows is moved back; if the view looked past it, in all the pixels around, it was empty.
    """
    rays = unproject(torch.ones_like(depths[:1]), cameras[view])[0].reshape(-1, 3)
    eye = cameras.c2w[view, :3, 3].to(rays)
    shown = eye + (rays[pixel] - eye) * distance[:, None]
    places, before = project((shown - transform[:3, 3]) @ transform[:3, :3], cameras, view)
    low, high = (places - 0.5 + _ROUNDING).floor(), (places - 0.5 - _ROUNDING).ceil()
    empty = before > 0
    for x in (low[:, 0], high[:, 0]):
        for y in (low[:, 1], high[:, 1]):
            index, within = _pixel(torch.stack([x, y], -1) + 0.5, cameras)
            empty &= within & (depths[view].flatten()[index] > before * (1 + _SURFACE))
    return empty


def _front(point: Tensor, pixel: Tensor, distance: Tensor, offset: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """For every pixel the point that it shows, and whether it shows one, both (H, W).

    Of the points on the front surface it is the one with the least `offset`, and of equals the first.
    """

    def least(pixel: Tensor, values: Tensor, start: Any) -> Tensor:
        return torch.full_like(like, start, dtype=values.dtype).flatten().scatter_reduce(0, pixel, values, "amin")

    nearest = least(pixel, distance, torch.inf)
    front = distance <= nearest[pixel] * (1 + _SURFACE)
    point, pixel, offset = point[front], pixel[front], offset[front]
    best = offset == least(pixel, offset, torch.inf)[pixel]
    shown = least(pixel[best], point[best], torch.iinfo(point.dtype).max)
    found = nearest.isfinite()
    return shown.where(found, 0).reshape(like.shape), found.reshape(like.shape)


def _pixel(places: Tensor, cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Index of the pixel at each place (0 for places outside), and whether it is in the picture."""
    x, y = places.unbind(-1)
    inside = (x >= 0) & (x < cameras.width) & (y >= 0) & (y < cameras.height)
    index = y.where(inside, 0).floor() * cameras.width + x.where(inside, 0).floor()
    return index.long(), inside


def _rigid(transform: Tensor) -> Tensor:
    transform = torch.as_tensor(transform, dtype=torch.float64)
    if transform.shape != (4, 4) or not transform.isfinite().all():
        raise ValueError(f"`transform` must be a finite matrix of shape (4, 4); got shape {tuple(transform.shape)}.")
    rotation, last = transform[:3, :3], transform.new_tensor([0, 0, 0, 1])
    turns = torch.allclose(rotation @ rotation.mT, torch.eye(3).to(transform), atol=1e-4)
    if not turns or torch.linalg.det(rotation) < 0 or not torch.equal(transform[3], last):
        raise ValueError(
            f"`transform` is not rigid: {transform.tolist()}; expected a rotation and a translation, "
            "[[R, t], [0, 0, 0, 1]] with orthogonal unit columns in R and no mirroring."
        )
    return transform


def _check_pictures(pictures: Tensor, depths: Tensor) -> None:
    expected = (depths.shape[0], 3, *depths.shape[1:])
    if tuple(pictures.shape) != expected or not pictures.is_floating_point():
        raise ValueError(
            f"`pictures` has shape {tuple(pictures.shape)} and type {pictures.dtype}; expected {expected}, floating "
            "point, in [0, 1], for these depths."
        )


def _check_views(depths: Tensor, masks: Tensor, cameras: Cameras) -> None:
    expected = (len(cameras), cameras.height, cameras.width)
    if tuple(depths.shape) != expected:
        raise ValueError(f"`depths` has shape {tuple(depths.shape)}; expected {expected} for these cameras.")
    if tuple(masks.shape) != expected or masks.dtype != torch.bool:
        raise ValueError(f"`masks` has shape {tuple(masks.shape)} and type {masks.dtype}; expected {expected}, bool.")
    wrong = ~(depths > 0) | (masks.to(depths.device) & depths.isinf())
    if wrong.any():
        view = int(wrong.flatten(1).any(1).nonzero()[0])
        raise ValueError(
            f"view {view} has {int(wrong[view].sum())} depths that are NaN, not positive, or infinite under its mask; "
            "where nothing is seen outside of the mask write inf."
        )
