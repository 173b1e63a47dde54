"""Cameras: the one convention inside `couple`, and the arithmetic that keeps intrinsics and pixels together.

Poses are camera-to-world matrices in OpenCV axes (x right, y down, z forward). Intrinsics are in pixels, with the
centre of the top left pixel at (0.5, 0.5), so that a picture of width W spans 0 to W. Everything else (OpenGL,
Blender, COLMAP, intrinsics divided by the picture's size) is converted where it is read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

#: Turns OpenGL camera axes (x right, y up, z backward) into OpenCV ones and back, as `c2w @ GL`.
GL = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))


@dataclass(frozen=True, eq=False)
class Cameras:
    """V pinhole cameras that take pictures of one size.

    Args:
        c2w: camera-to-world matrices, shape (V, 4, 4), OpenCV axes, in units of the scene.
        K: intrinsics, shape (V, 3, 3) or (3, 3) for all, in pixels.
        height: rows of a picture, in pixels.
        width: columns of a picture.

    Both matrices are kept as float64 on the CPU.

    Raises:
        ValueError: a shape is wrong, a number is not finite, a rotation is not one (mirrored axes included), or
            intrinsics are singular; the message names the camera.

    Example:
        >>> cameras = Cameras(torch.eye(4)[None], intrinsics(math.radians(90), 64, 96), 64, 96)
        >>> cameras.K[0].round(decimals=6).tolist()
        [[32.0, 0.0, 48.0], [0.0, 32.0, 32.0], [0.0, 0.0, 1.0]]
        >>> cameras.resized(32, 48).K[0, 0].round(decimals=6).tolist()
        [16.0, 0.0, 24.0]
    """

    c2w: Tensor
    K: Tensor
    height: int
    width: int

    def __post_init__(self):
        """Check and convert."""
        c2w, K = (torch.as_tensor(matrix, dtype=torch.float64, device="cpu") for matrix in (self.c2w, self.K))
        if c2w.ndim != 3 or c2w.shape[1:] != (4, 4) or not len(c2w):
            raise ValueError(f"`c2w` has shape {tuple(c2w.shape)}; give camera-to-world matrices of shape (V, 4, 4).")
        if K.shape not in ((3, 3), (len(c2w), 3, 3)):
            raise ValueError(f"`K` has shape {tuple(K.shape)}; give intrinsics of shape (3, 3) or ({len(c2w)}, 3, 3).")
        if min(self.height, self.width) < 1:
            raise ValueError(f"pictures of {self.height} x {self.width} pixels are empty.")
        K = K.expand(len(c2w), 3, 3)
        for i, (pose, matrix) in enumerate(zip(c2w, K, strict=True)):
            check_pose(pose, f"camera {i}")
            _check_intrinsics(i, matrix)
        object.__setattr__(self, "c2w", c2w)
        object.__setattr__(self, "K", K)

    def __len__(self) -> int:
        """Return the number of cameras."""
        return len(self.c2w)

    def __getitem__(self, index: int | slice | Sequence[int]) -> Cameras:
        """Choose cameras; one of them is still a set, of one."""
        chosen = [index] if isinstance(index, int) else index
        return Cameras(self.c2w[chosen], self.K[chosen], self.height, self.width)

    @property
    def w2c(self) -> Tensor:
        """World-to-camera matrices, shape (V, 4, 4)."""
        rotation = self.c2w[:, :3, :3].mT
        w2c = torch.eye(4, dtype=torch.float64).repeat(len(self), 1, 1)
        w2c[:, :3, :3] = rotation
        w2c[:, :3, 3:] = -rotation @ self.c2w[:, :3, 3:]
        return w2c

    @property
    def relative_K(self) -> Tensor:
        """Intrinsics divided by the picture's width and height, shape (V, 3, 3)."""
        return self.K / torch.tensor([[self.width], [self.height], [1.0]], dtype=torch.float64)

    def resized(self, height: int, width: int) -> Cameras:
        """The cameras of the same pictures scaled to `height` x `width` pixels."""
        scale = torch.tensor([[width / self.width], [height / self.height], [1.0]], dtype=torch.float64)
        return Cameras(self.c2w, self.K * scale, height, width)

    def cropped(self, top: float, left: float, height: int, width: int) -> Cameras:
        """The cameras of the rectangle of `height` x `width` pixels at (`top`, `left`), which may reach outside."""
        K = self.K.clone()
        K[:, 0, 2] -= left
        K[:, 1, 2] -= top
        return Cameras(self.c2w, K, height, width)

    def fitted(self, height: int, width: int) -> Cameras:
        """The cameras of the largest centred rectangle of that shape, scaled to `height` x `width` pixels."""
        top, left, rows, _ = centred(self.height, self.width, height, width)
        K = self.cropped(top, left, height, width).K.clone()
        K[:, :2] *= height / rows
        return Cameras(self.c2w, K, height, width)


def intrinsics(fov: float, height: int, width: int) -> Tensor:
    """Intrinsics, shape (3, 3), of square pixels with `fov` radians across the shorter side, centred."""
    focal = min(height, width) / 2 / math.tan(fov / 2)
    return torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float64)


def orbit(
    num_views: int,
    *,
    radius: float,
    elevation: float | Sequence[float],
    azimuth: Sequence[float] | None = None,
    fov: float = math.radians(54),
    height: int,
    width: int,
) -> Cameras:
    """Cameras on a sphere about the origin that look at it, upright in a world whose z axis points up.

    Args:
        num_views: number of cameras V.
        radius: distance from the origin, in units of the scene.
        elevation: radians above the horizon, one for all or one for each camera.
        azimuth: radians anticlockwise seen from above, 0 on the x axis, one for each camera; one full turn in equal
            steps if left out.
        fov: radians across the shorter side; the default is that of Stable Virtual Camera, 54 degrees.
        height: rows of a picture, in pixels.
        width: columns of a picture.

    Raises:
        ValueError: a number is out of range (degrees given as radians, usually) or their count is not `num_views`.

    Example:
        >>> orbit(4, radius=2.0, elevation=0.0, height=64, width=64).c2w[1, :3, 3].round(decimals=6).tolist()
        [0.0, 2.0, 0.0]
    """
    if num_views < 1:
        raise ValueError(f"`num_views` is {num_views}; an orbit has at least one camera.")
    if not 0 < radius < math.inf:
        raise ValueError(f"`radius` is {radius}; give a positive distance.")
    if not 0 < fov < math.pi:
        raise ValueError(f"`fov` is {fov}; give radians between 0 and pi, e.g. math.radians(54).")
    if azimuth is None:
        azimuth = [2 * math.pi * i / num_views for i in range(num_views)]
    if isinstance(elevation, int | float):
        elevation = [elevation] * num_views
    az = _angles("azimuth", azimuth, num_views, 2 * math.pi)
    el = _angles("elevation", elevation, num_views, math.pi / 2)
    return Cameras(poses_around_origin(az, el, radius), intrinsics(fov, height, width), height, width)


def poses_around_origin(azimuth: Tensor, elevation: Tensor, distance: float | Tensor) -> Tensor:
    """Poses that look at the origin, upright in a world whose z axis points up, shape (V, 4, 4), float64.

    Args:
        azimuth: radians anticlockwise seen from above, 0 on the x axis, shape (V,), float64.
        elevation: radians above the horizon, shape (V,).
        distance: from the origin, one for all or shape (V,).
    """
    outward = torch.stack([elevation.cos() * azimuth.cos(), elevation.cos() * azimuth.sin(), elevation.sin()], dim=-1)
    right = torch.stack([-azimuth.sin(), azimuth.cos(), torch.zeros_like(azimuth)], dim=-1)
    down = torch.stack([elevation.sin() * azimuth.cos(), elevation.sin() * azimuth.sin(), -elevation.cos()], dim=-1)
    c2w = torch.eye(4, dtype=torch.float64).repeat(len(azimuth), 1, 1)
    position = torch.as_tensor(distance, dtype=torch.float64)[..., None] * outward
    c2w[:, :3] = torch.stack([right, down, -outward, position], dim=-1)
    return c2w


def unproject(depths: Tensor, cameras: Cameras) -> Tensor:
    """Places of pixels in the world, shape (V, H, W, 3), float64.

    Args:
        depths: distance along the viewing axis at the centres of pixels, shape (V, H, W), in units of the scene.
        cameras: V cameras for pictures of H x W pixels.
    """
    y = torch.arange(cameras.height, dtype=torch.float64, device=depths.device) + 0.5
    x = torch.arange(cameras.width, dtype=torch.float64, device=depths.device) + 0.5
    pixels = torch.stack([*torch.meshgrid(x, y, indexing="xy"), torch.ones(len(y), len(x)).to(y)], -1)
    to_world = (cameras.c2w[:, :3, :3] @ torch.linalg.inv(cameras.K)).to(depths.device)
    rays = torch.einsum("vij,hwj->vhwi", to_world, pixels)
    return rays * depths[..., None] + cameras.c2w[:, None, None, :3, 3].to(depths.device)


def project(points: Tensor, cameras: Cameras, view: int) -> tuple[Tensor, Tensor]:
    """Places in the picture of `view`, shape (..., 2) as x and y, and distances along its axis, negative behind it.

    Args:
        points: places in the world, shape (..., 3).
        cameras: as in `unproject`.
        view: whose picture it is.
    """
    w2c, K = cameras.w2c[view].to(points), cameras.K[view].to(points)
    local = points @ w2c[:3, :3].mT + w2c[:3, 3]
    distance = local[..., 2]
    return (local @ K.mT)[..., :2] / distance[..., None], distance


def centred(height: int, width: int, new_height: int, new_width: int) -> tuple[float, float, float, float]:
    """The largest rectangle shaped as `new_height` x `new_width`, centred: (top, left, height, width) in pixels."""
    scale = max(new_height / height, new_width / width)
    rows, columns = new_height / scale, new_width / scale
    return (height - rows) / 2, (width - columns) / 2, rows, columns


def check_pose(pose: Tensor, camera: str) -> None:
    """Raise ValueError, naming the `camera`, unless `pose`, shape (4, 4), is finite, rigid and right-handed."""
    if not pose.isfinite().all():
        raise ValueError(f"the pose of {camera} is not finite.")
    if not torch.allclose(pose[3], torch.tensor([0.0, 0, 0, 1], dtype=torch.float64)):
        raise ValueError(f"the last row of the pose of {camera} is {pose[3].tolist()}; it must be [0, 0, 0, 1].")
    rotation = pose[:3, :3]
    if not torch.allclose(rotation @ rotation.mT, torch.eye(3, dtype=torch.float64), atol=1e-3):
        raise ValueError(f"the rotation of {camera} is not one: its columns are not orthogonal unit vectors.")
    if torch.linalg.det(rotation) < 0:
        raise ValueError(f"the pose of {camera} is mirrored (left-handed axes); negate one of its columns.")


def _angles(name: str, values: Sequence[float], count: int, largest: float) -> Tensor:
    angles = torch.as_tensor(values, dtype=torch.float64)
    if angles.shape != (count,):
        raise ValueError(f"`{name}` has shape {tuple(angles.shape)}; give one angle for each of the {count} cameras.")
    if not (angles.abs() <= largest + 1e-9).all():
        raise ValueError(
            f"`{name}` is {angles.tolist()}; give radians between {-largest:.4g} and {largest:.4g}, "
            "e.g. math.radians(30)."
        )
    return angles


def _check_intrinsics(i: int, K: Tensor) -> None:
    if not K.isfinite().all():
        raise ValueError(f"the intrinsics of camera {i} are not finite.")
    if K[0, 0] <= 0 or K[1, 1] <= 0 or K[1, 0] != 0 or K[2].tolist() != [0, 0, 1]:
        raise ValueError(
            f"the intrinsics of camera {i} are singular or not those of a pinhole: {K.tolist()}; "
            "expected [[fx, s, cx], [0, fy, cy], [0, 0, 1]] with positive fx and fy."
        )
