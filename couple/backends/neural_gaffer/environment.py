"""Environment maps as Neural Gaffer sees them: turned into the frame of a camera, then made 8-bit in two ways.

A map is a latitude-longitude picture of linear radiance, shape (H, W, 3): row 0 looks up, the world's +z, and the
columns go from azimuth +pi to -pi about it, counted from +x towards +y. World and camera axes are Blender's (camera:
x right, y up, z backward). Source of the formulas: Haian-Jin/Neural_Gaffer@e360bd99,
scripts/generate_bg_and_rotate_envir_map.py; its sampling takes the first and the last pixel for the ends of the
angles and does not join the seam, and so does this one.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import grid_sample

from couple.backends.neural_gaffer.radiance import read_hdr
from couple.scenes.cameras import GL, Cameras


def blender_w2c(cameras: Cameras | Tensor, count: int) -> Tensor:
    """World-to-camera matrices in Blender axes.

    Args:
        cameras: of a world whose z axis is up; or such matrices, shape (V, 3, 4) or (V, 4, 4).
        count: V.

    Returns:
        Shape (V, 3, 4), float64.

    Raises:
        ValueError: there are not `count` of them, or matrices have another shape or rotations that are none.
    """
    if isinstance(cameras, Cameras):
        w2c = GL @ cameras.w2c
    else:
        w2c = torch.as_tensor(cameras, dtype=torch.float64, device="cpu")
        if w2c.ndim != 3 or w2c.shape[1:] not in ((3, 4), (4, 4)):
            raise ValueError(f"`cameras` has shape {tuple(w2c.shape)}; world-to-camera matrices are (V, 3, 4).")
        turns = w2c[:, :3, :3]
        if not torch.allclose(turns @ turns.mT, torch.eye(3, dtype=torch.float64).expand_as(turns), atol=1e-3):
            raise ValueError("`cameras` has rotations that are none: their rows are not orthogonal unit vectors.")
    if len(w2c) != count:
        raise ValueError(f"there are {len(w2c)} cameras for {count} pictures; give one for each.")
    return w2c[:, :3]


def rotated(environment_map: Tensor, w2c: Tensor, turn: float = 0.0) -> Tensor:
    """Show the map in the frame of a camera: at each pixel what lies in its direction there.

    Args:
        environment_map: shape (H, W, 3), linear.
        w2c: world-to-camera matrix of the view, shape (3, 3), (3, 4) or (4, 4), Blender axes.
        turn: turns the light about the world's z axis by this many radians, clockwise seen from above.

    Returns:
        Shape (H, W, 3), float32, linear.
    """
    height, width, _ = environment_map.shape
    elevation = (0.5 - (torch.arange(height, dtype=torch.float64) + 0.5) / height) * math.pi
    azimuth = (1 - 2 * (torch.arange(width, dtype=torch.float64) + 0.5) / width) * math.pi
    elevation, azimuth = torch.meshgrid(elevation, azimuth, indexing="ij")
    directions = torch.stack(
        [azimuth.cos() * elevation.cos(), azimuth.sin() * elevation.cos(), elevation.sin()], dim=-1
    )
    # The map of a camera that looks along the world's +y with z up is the map itself.
    upright = torch.tensor([[1, 0, 0], [0, 0, -1], [0, 1, 0]], dtype=torch.float64)
    about_z = torch.tensor(
        [[math.cos(turn), math.sin(turn), 0], [-math.sin(turn), math.cos(turn), 0], [0, 0, 1]], dtype=torch.float64
    )
    x, y, z = (directions @ upright @ w2c[:3, :3].to(torch.float64) @ about_z).clamp(-1, 1).unbind(-1)
    # The authors shift every polar angle by a millionth.
    polar = torch.arccos(z) - 1e-6
    places = torch.stack([-torch.atan2(y, x) / math.pi, 2 * polar / math.pi - 1], dim=-1).clamp(-1, 1)
    channels = environment_map.permute(2, 0, 1)[None].float()
    return grid_sample(channels, places[None].float(), align_corners=True)[0].permute(1, 2, 0)


def ldr(radiance: Tensor) -> np.ndarray:
    """Tone-map to 8 bits: cut to [0, 1], power 1/2.2; shape (H, W, 3), uint8."""
    return (radiance.clamp(0, 1) ** (1 / 2.2) * 255).to(torch.uint8).numpy()


def hdr(radiance: Tensor) -> np.ndarray:
    """The whole range in 8 bits: log(1 + 10 v) over its own maximum; shape (H, W, 3), uint8."""
    logarithm = torch.log1p(10 * radiance)
    # A view of nothing but darkness stays dark.
    return (logarithm / logarithm.max().clamp(min=1e-12) * 255).to(torch.uint8).numpy()


def to_model(pixels: np.ndarray, height: int, width: int) -> Tensor:
    """8-bit pixels, shape (H, W, 3), as input of the autoencoder: bilinear, in [-1, 1], shape (3, height, width)."""
    resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1).float() / 255 * 2 - 1


def check_environment_map(given: Tensor | np.ndarray) -> Tensor:
    """Return an environment map as a float32 tensor on the CPU, shape (H, W, 3).

    Raises:
        TypeError: it is not of floating-point numbers.
        ValueError: its shape is another, or radiance is negative or not finite.
    """
    radiance = torch.as_tensor(given, device="cpu")
    if radiance.ndim != 3 or radiance.shape[-1] != 3 or min(radiance.shape[:2]) < 2:
        raise ValueError(f"`environment_map` has shape {tuple(radiance.shape)}; a map has (H, W, 3).")
    if not radiance.is_floating_point():
        raise TypeError(
            f"`environment_map` is of {radiance.dtype}; give linear radiance in floating point, e.g. "
            "read_environment_map(path)."
        )
    if not radiance.isfinite().all():
        raise ValueError("`environment_map` has values that are not finite; mend them with torch.nan_to_num(map).")
    if radiance.min() < 0:
        least = float(radiance.min())
        raise ValueError(f"`environment_map` has negative radiance ({least:.3g}); use map.clamp(min=0).")
    return radiance.float()


def read_environment_map(path: str | Path) -> Tensor:
    """Read an environment map.

    Args:
        path: a .npy array of shape (H, W, 3), or a Radiance .hdr picture. Save others, such as .exr, with
            `np.save(path, array)`.

    Returns:
        Linear radiance, shape (H, W, 3), float32.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: it holds integers.
        ValueError: it is of another format, or holds no environment map.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there is no environment map {path}.")
    if path.suffix == ".npy":
        return check_environment_map(np.load(path, allow_pickle=False))
    if path.suffix == ".hdr":
        return check_environment_map(read_hdr(path))
    raise ValueError(f"environment map {path} is neither .npy nor .hdr; save it as .npy with np.save(path, array).")
