"""MVDream's cameras: its rig, and the 16 numbers by which the network knows a view.

A view is described by its flattened camera-to-world matrix in OpenGL camera axes (x right, y up, z backward), in
Blender's world (z up, the object at the origin), with the camera moved to distance 1. Distance and field of view are
therefore not seen. Source: bytedance/MVDream@618f8447, mvdream/camera_utils.py.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from couple.scenes.cameras import GL, Cameras, orbit

# (x, y, z) with y up becomes (x, -z, y) with z up.
_BLENDER = torch.tensor([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]], dtype=torch.float64)


def rig(num_views: int = 4, *, elevation: float = 0.0, azimuth: float = 0.0, span: float = 360.0) -> Cameras:
    """Cameras evenly around the object, at distance 1 and 256 x 256 pixels, by MVDream's own angles.

    `couple.scenes.orbit` makes the same cameras with any distance, lens and size; it counts azimuth, in radians, from
    the x axis.

    Args:
        num_views: V, how many.
        elevation: above the horizon, in degrees, -90 to 90.
        azimuth: of the first camera, in degrees, anticlockwise seen from above; 0 is on the negative y axis.
        span: how far around, in degrees; the last camera stands one gap before its end.

    Raises:
        ValueError: there is no view, or the elevation is out of range.

    Example:
        >>> rig(4, azimuth=90).c2w[:, 0, 3].round().int().tolist()  # where they stand in x
        [1, 0, -1, 0]
    """
    if not -90 <= elevation <= 90:
        raise ValueError(f"`elevation` is {elevation} degrees; it must lie between -90 and 90.")
    azimuths = [math.radians((azimuth + i * span / num_views - 90) % 360) for i in range(num_views)]
    return orbit(num_views, radius=1.0, elevation=math.radians(elevation), azimuth=azimuths, height=256, width=256)


def to_blender(c2w: Tensor) -> Tensor:
    """Camera-to-world matrices, shape (..., 4, 4), of a world with y up in one with z up."""
    return _BLENDER.to(c2w) @ c2w


def normalized(c2w: Tensor) -> Tensor:
    """Camera-to-world matrices, shape (..., 4, 4), with the cameras moved to distance 1 from the origin."""
    position = c2w[..., :3, 3:]
    unit = position / (position.norm(dim=-2, keepdim=True) + 1e-8)
    return torch.cat([torch.cat([c2w[..., :3, :3], unit], dim=-1), c2w[..., 3:, :]], dim=-2)


def camera_vectors(cameras: Cameras) -> Tensor:
    """What the network is told of the cameras of V views, shape (V, 16), float32.

    Args:
        cameras: around the object, which is at the origin of a world with z up (`to_blender` turns one with y up). The
            network was trained on cameras that look at the origin.

    Raises:
        ValueError: a camera stands at the origin.
    """
    distances = cameras.c2w[:, :3, 3].norm(dim=-1)
    if (distances < 1e-6).any():
        raise ValueError(
            f"camera {int(distances.argmin())} stands at the origin, where MVDream has its object; move the cameras so "
            "that they stand around the origin."
        )
    return normalized(cameras.c2w @ GL).flatten(1).float()
