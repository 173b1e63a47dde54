"""How well two pictures agree in layout, whatever their colours: places and outlines of objects, edges, large areas.

An object is what stands out from the ground in brightness: the mask holds the pixels brighter than half-way between
the picture's darkest and brightest ones. That fits pictures of one bright thing on a dark ground, such as the bundled
model's; for other pictures give masks of your own. Edges and low frequencies need no object.

Frames of videos are compared through `couple.metrics.clips.per_frame`.
"""

import torch
from torch import Tensor

from couple import maps
from couple.metrics.ranges import check_tensor

#: Rec. 709 luminance of linear RGB.
LUMA = (0.2126, 0.7152, 0.0722)


def luminance(pictures: Tensor) -> Tensor:
    """Brightness of pictures (B, 3, H, W), any float range: shape (B, H, W)."""
    weights = torch.tensor(LUMA, dtype=pictures.dtype, device=pictures.device)
    return torch.einsum("bchw,c->bhw", pictures, weights)


def object_mask(pictures: Tensor) -> Tensor:
    """Pixels of the bright object in pictures (B, 3, H, W): bool, shape (B, H, W)."""
    brightness = luminance(pictures)
    low, high = brightness.amin((1, 2), keepdim=True), brightness.amax((1, 2), keepdim=True)
    return brightness > (low + high) / 2


def centroid(masks: Tensor) -> Tensor:
    """Mean position of each mask (B, H, W): x and y in pixels, shape (B, 2); nan for an empty mask."""
    masks = masks.to(torch.float32)
    area = masks.sum((1, 2))
    x = (masks.sum(1) * torch.arange(masks.shape[2], device=masks.device)).sum(1) / area
    y = (masks.sum(2) * torch.arange(masks.shape[1], device=masks.device)).sum(1) / area
    return torch.stack([x, y], 1)


def centroid_distance(first: Tensor, second: Tensor) -> Tensor:
    """Distance in pixels between the objects' centroids, for masks (B, H, W): shape (B,)."""
    _check_pair(first, second, 3)
    return torch.linalg.vector_norm(centroid(first) - centroid(second), dim=1)


def mask_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of masks (B, H, W), in [0, 1], 1 for two empty ones: shape (B,)."""
    _check_pair(first, second, 3)
    both, either = (first & second).sum((1, 2)), (first | second).sum((1, 2))
    return torch.where(either > 0, both / either.clamp_min(1), 1.0)


def edge_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Correlation of edge strength between pictures, in [-1, 1], higher is better: shape (B,).

    Edge strength is the length of the Sobel gradient of luminance, away from the border by one pixel; the correlation
    is Pearson's over pixels. Invariant under brightness and contrast of either picture, also under inversion.

    Args:
        first: pictures, shape (B, 3, H, W) with H and W at least 3, floating, any range.
        second: as many of the same shape.

    Returns:
        One number a pair; nan where the edges of a picture are equally strong everywhere, as in a flat one.
    """
    _check_pair(first, second, 4)
    a, b = (_edges(pictures).flatten(1) for pictures in (first, second))
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return (a * b).sum(1) / (torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1))


def low_frequency_distance(first: Tensor, second: Tensor, size: int = 8) -> Tensor:
    """Distance between the large bright and dark areas of pictures, 0 or more, lower is better: shape (B,).

    The root mean square over pixels of the difference in luminance, averaged over blocks of `size` x `size` pixels.

    Args:
        first: pictures, shape (B, 3, H, W), floating; the result is in their units.
        second: as many of the same shape.
        size: edge of a block in pixels; blocks at the right and lower border hold what is left.
    """
    _check_pair(first, second, 4)
    return maps.low_pass(size)(luminance(first) - luminance(second)).square().mean((1, 2)).sqrt()


def _check_pair(first: Tensor, second: Tensor, ndim: int) -> None:
    check_tensor("first", first)
    check_tensor("second", second)
    if first.shape != second.shape or first.ndim != ndim:
        wanted = "masks (B, H, W), from object_mask(pictures)" if ndim == 3 else "pictures (B, 3, H, W)"
        shapes = f"`first` has shape {tuple(first.shape)} and `second` {tuple(second.shape)}"
        raise ValueError(f"{shapes}; expected {wanted}, of one shape.")


def _edges(pictures: Tensor) -> Tensor:
    """Length of the Sobel gradient of luminance, shape (B, H - 2, W - 2); 0 exactly where a picture is flat."""
    brightness = luminance(pictures)
    across, down = brightness[..., 2:] - brightness[..., :-2], brightness[:, 2:] - brightness[:, :-2]
    across = across[:, :-2] + 2 * across[:, 1:-1] + across[:, 2:]
    down = down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]
    return torch.hypot(across, down) / 8
