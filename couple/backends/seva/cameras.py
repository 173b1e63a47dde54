"""What Stable Virtual Camera is told about cameras: a normalised scene, and a map of rays for every view.

The scene is moved so that the cameras are centred and scaled so that the first one stands at a fixed distance; rays
are expressed in the frame of that first camera (Stability-AI/stable-virtual-camera@fe19948).
"""

from __future__ import annotations

import torch
from torch import Tensor

from couple.scenes.cameras import Cameras

_QUANTILE, _OUTLIER = 0.97, 10.0
_AT_CENTRE = 1e-5


def normalised(cameras: Cameras, camera_scale: float = 2.0) -> Cameras:
    """Move and scale the scene as the network is used to.

    The centre is the mean position of the cameras, without those that are more than ten times as far from the median
    as 97% of them. The first camera then stands at distance `camera_scale` from it; where it stands at the centre
    itself, all distances are multiplied by `camera_scale`.

    Args:
        cameras: all views of the scene, an input view first.
        camera_scale: how large the scene appears; 2 in training, up to 10 for wide pans.

    Returns:
        New cameras with the same rotations and intrinsics.
    """
    c2w = cameras.c2w.clone()
    position = c2w[:, :3, 3]
    distance = (position - position.median(dim=0).values).norm(dim=1)
    near = distance <= _OUTLIER * distance.quantile(_QUANTILE)
    position -= position[near].mean(dim=0)
    first = float(position[0].norm())
    position *= camera_scale if first <= _AT_CENTRE else camera_scale / first
    return Cameras(c2w, cameras.K, cameras.height, cameras.width)


def pluecker(cameras: Cameras) -> Tensor:
    """Pluecker coordinates of the ray through the centre of every pixel, in the frame of the first camera.

    Args:
        cameras: V cameras whose picture size is that of the map; `cameras.resized(H // 8, W // 8)` for latents.

    Returns:
        Unit direction d and moment o x d (o is the camera's position), shape (V, 6, height, width), float64.
    """
    pose = cameras[0].w2c @ cameras.c2w
    rows = torch.arange(cameras.height, dtype=torch.float64) + 0.5
    columns = torch.arange(cameras.width, dtype=torch.float64) + 0.5
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)]).flatten(1)
    direction = pose[:, :3, :3] @ torch.linalg.inv(cameras.K) @ pixels
    direction = direction / direction.norm(dim=1, keepdim=True)
    moment = torch.linalg.cross(pose[:, :3, 3:].expand_as(direction), direction, dim=1)
    return torch.cat([direction, moment], dim=1).unflatten(2, (cameras.height, cameras.width))
