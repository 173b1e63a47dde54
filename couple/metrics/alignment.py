"""How well the objects of two pictures agree in place and outline, whatever their colours.

An object is what stands out from the ground in brightness: the mask holds the pixels brighter than half-way between
the picture's darkest and brightest ones. That fits pictures of one bright thing on a dark ground, such as the bundled
model's; for other pictures give masks of your own.
"""

import torch
from torch import Tensor

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
    x = (masks.sum(1) * torch.arange(masks.shape[2])).sum(1) / area
    y = (masks.sum(2) * torch.arange(masks.shape[1])).sum(1) / area
    return torch.stack([x, y], 1)


def centroid_distance(first: Tensor, second: Tensor) -> Tensor:
    """Distance in pixels between the objects' centroids, for masks (B, H, W): shape (B,)."""
    return torch.linalg.vector_norm(centroid(first) - centroid(second), dim=1)


def mask_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of masks (B, H, W), in [0, 1], 1 for two empty ones: shape (B,)."""
    both, either = (first & second).sum((1, 2)), (first | second).sum((1, 2))
    return torch.where(either > 0, both / either.clamp_min(1), 1.0)
