"""Guidance scales of Stable Virtual Camera: one number per frame, lower where a frame is as good as given.

Both rules are those of Stability-AI/stable-virtual-camera@fe19948 (its guiders 1 and 2). Input frames, and frames that
look through the same camera, get the lowest scale: their content is known and strong guidance only burns it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from couple.scenes.cameras import Cameras

_SAME_ANGLE = math.radians(10)
_SAME_PLACE = 1e-5


def multiview_scales(cameras: Cameras, inputs: Tensor, scale: float, min_scale: float) -> Tensor:
    """`scale` for every frame, `min_scale` for those whose camera is that of an input frame.

    Cameras count as the same with a rotation of less than 10 degrees between them, places closer than 1e-5 and equal
    intrinsics.

    Args:
        cameras: T cameras of a window, normalised.
        inputs: shape (T,), bool, True for the input frames.
        scale: guidance scale.
        min_scale: the lowest one.

    Returns:
        Shape (T,), float64.
    """
    return torch.full((len(cameras),), scale, dtype=torch.float64).where(~_given(cameras, inputs), min_scale)


def temporal_scales(cameras: Cameras, inputs: Tensor, scale: float, min_scale: float) -> Tensor:
    """Scales that grow with the distance, in frames, to the nearest input frame; else as `multiview_scales`.

    The frame furthest from all inputs gets `scale`, the inputs `min_scale`.
    """
    index = torch.arange(len(cameras))
    distance = (index[:, None] - index[inputs]).abs().amin(dim=1).double()
    nearness = distance / distance.max().clamp_min(1)
    return (min_scale + nearness * (scale - min_scale)).where(~_given(cameras, inputs), min_scale)


def guided(uncond: Tensor, cond: Tensor, scales: Tensor) -> Tensor:
    """Classifier-free guidance with a scale per frame: uncond + scale (cond - uncond), shapes (T, ...) and (T,)."""
    return torch.lerp(uncond, cond, scales.to(cond).view(-1, *[1] * (cond.ndim - 1)))


def _given(cameras: Cameras, inputs: Tensor) -> Tensor:
    """Which frames look through the camera of an input frame, shape (T,), bool."""
    rotation, position = cameras.c2w[:, :3, :3], cameras.c2w[:, :3, 3]
    trace = torch.einsum("tij,nij->tn", rotation, rotation[inputs])
    angle = ((trace - 1) / 2).clamp(-1, 1).acos()
    apart = (position[:, None] - position[inputs]).norm(dim=2)
    same_lens = torch.isclose(cameras.K[:, None], cameras.K[inputs]).all(dim=(2, 3))
    return ((angle < _SAME_ANGLE) & (apart < _SAME_PLACE) & same_lens).any(dim=1)
