"""The cameras of MV-Adapter: a ring of orthographic views, and what the network is told about them.

The world has its z axis up and the object at the origin; azimuth 0 looks at it from -y and azimuth 90 from +x. An
orthographic view is a direction and a place, the same for all of its pixels: six numbers a view.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from couple.scenes.cameras import Cameras, poses_around_origin

#: The views the published adapters were trained on, in degrees.
AZIMUTHS = (0.0, 45.0, 90.0, 180.0, 270.0, 315.0)
#: Side of the square of the world that an orthographic view shows.
EXTENT = 1.1


def rig(
    azimuths: Sequence[float] = AZIMUTHS,
    *,
    height: int,
    width: int,
    elevation: float | Sequence[float] = 0.0,
    distance: float | Sequence[float] = 1.8,
) -> Cameras:
    """Cameras on a ring, all looking at the origin.

    The views are orthographic and show a square of side `EXTENT`. `Cameras` are pinholes: their intrinsics are those
    that see the same square through the origin. The network reads the poses only.

    Args:
        azimuths: in degrees, one a view; a larger one is further counter-clockwise seen from above.
        height: rows of a picture, in pixels.
        width: columns of a picture.
        elevation: in degrees above the horizon, one for all views or one a view.
        distance: from the origin, one for all views or one a view.

    Raises:
        ValueError: no azimuth is given, or elevations or distances are not as many as the azimuths.
    """
    views = len(azimuths)
    if not views:
        raise ValueError("`azimuths` is empty; give one angle in degrees for each view.")
    azimuth = torch.as_tensor(azimuths, dtype=torch.float64).deg2rad() - torch.pi / 2
    elevations = _each("elevation", elevation, views).deg2rad()
    distances = _each("distance", distance, views)
    K = torch.eye(3, dtype=torch.float64).repeat(views, 1, 1)
    K[:, 0, 0], K[:, 0, 2] = width * distances / EXTENT, width / 2
    K[:, 1, 1], K[:, 1, 2] = height * distances / EXTENT, height / 2
    return Cameras(poses_around_origin(azimuth, elevations, distances), K, height, width)


def camera_map(cameras: Cameras) -> Tensor:
    """What the camera encoder reads: viewing direction and unit camera position, from [-1, 1] to [0, 1].

    Returns:
        Shape (V, 6, height, width), float32; one value a view and channel, repeated over the pixels without copies.
    """
    direction, position = cameras.c2w[:, :3, 2], cameras.c2w[:, :3, 3]
    channels = torch.cat([direction, F.normalize(position, dim=-1)], -1)
    channels = ((channels + 1) / 2).clamp(0, 1).float()
    return channels[:, :, None, None].expand(-1, -1, cameras.height, cameras.width)


def _each(name: str, value: float | Sequence[float], views: int) -> Tensor:
    values = torch.as_tensor(value, dtype=torch.float64)
    if values.ndim and values.shape != (views,):
        raise ValueError(
            f"`{name}` has {values.numel()} values for {views} azimuths; give one number or {views} of them."
        )
    return values.expand(views)
