"""Where in space the pixels of two views are: from exact depth, or guessed by MASt3R.

Anything with the `__call__` of `PointMaps` serves `couple.metrics.met3r`.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from couple.metrics.pretrained import from_hub
from couple.scenes.cameras import Cameras, unproject

MAST3R = "naver/MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric"


class PointMaps(Protocol):
    """Points of two views in the axes of the first one's camera."""

    def __call__(self, pictures: Tensor, first: int, second: int) -> tuple[Tensor, Tensor]:
        """Find the points.

        Args:
            pictures: all views, shape (V, 3, H, W), in [0, 1].
            first: index of the view into which features will be rendered.
            second: index of the other one.

        Returns:
            Places of the pixels of both views in the axes of the first camera (x right, y down, z forward), shape
            (2, H, W, 3), and the intrinsics of the first camera in pixels, shape (3, 3).
        """
        ...


class ExactDepth:
    """Points of known depths and cameras; no weights, and nothing in the pictures moves them.

    Args:
        depths: distance along the viewing axis, shape (V, H, W), in units of the scene; inf where there is nothing.
        cameras: V cameras for pictures of H x W pixels.

    Raises:
        ValueError: the shapes do not fit.
    """

    def __init__(self, depths: Tensor, cameras: Cameras):
        check_depths(depths, cameras)
        self.depths, self.cameras = depths.double(), cameras

    def __call__(self, pictures: Tensor, first: int, second: int) -> tuple[Tensor, Tensor]:
        """Points of two views, as in `PointMaps`; not finite where depth is not."""
        depths = self.depths[[first, second]].to(pictures.device)
        w2c = self.cameras.w2c[first].to(depths)
        points = unproject(depths, self.cameras[[first, second]]) @ w2c[:3, :3].mT + w2c[:3, 3]
        return points.to(pictures), self.cameras.K[first]


class Mast3r:
    """Points that the network MASt3R sees, with MEt3R's guess of the focal length (mohammadasim98/met3r @ 3259e41b).

    The focal length is the median over pixels of `u z / x` (and of `v z / y`), voted by the mean of both point maps
    weighed by confidence. MEt3R then renders with `(size + focal) / 2` pixels in its place, which is the same where the
    focal length equals the picture's size, and so it is done here.

    `Mast3r.load()` has the published weights, for non-commercial use only.

    Args:
        model: a `mast3r.model.AsymmetricMASt3R`, or anything that is called and answers like it.
    """

    def __init__(self, model: Any):
        self.model = model

    @classmethod
    def load(cls, repo: str = MAST3R) -> Mast3r:
        """Load published weights, in evaluation mode.

        Raises:
            ModuleNotFoundError: the package mast3r is not installed.
            FileNotFoundError: the weights are not on this machine and cannot be fetched.
        """
        try:
            from mast3r.model import AsymmetricMASt3R  # pyright: ignore[reportMissingImports]
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"Mast3r needs {error.name}, which is not installed and is on no package index (licence: CC BY-NC-SA "
                "4.0); run: git clone --recursive https://github.com/naver/mast3r && export PYTHONPATH=$PWD/mast3r, or "
                "give ExactDepth where depths are known."
            ) from error
        return cls(from_hub(AsymmetricMASt3R, repo, licence="CC BY-NC-SA 4.0").eval())

    @torch.no_grad()
    def __call__(self, pictures: Tensor, first: int, second: int) -> tuple[Tensor, Tensor]:
        """Points of two views, as in `PointMaps`.

        Raises:
            ValueError: the pictures are not square with sides that are a multiple of 16; MEt3R's are 256.
        """
        height, width = pictures.shape[2:]
        if height != width or height % 16:
            raise ValueError(
                f"pictures of {height} x {width} pixels do not suit MEt3R with MASt3R; resize them to 256 x 256."
            )
        views = ({"img": pictures[[i]] * 2 - 1, "instance": [""]} for i in (first, second))
        one, other = self.model(*views)
        points = torch.cat([one["pts3d"], other["pts3d_in_other_view"]])
        focal = _focal(points, torch.cat([one["conf"], other["conf"]]))
        K = torch.eye(3)
        K[:2, 2] = width / 2
        K[[0, 1], [0, 1]] = (width + focal.cpu()) / 2
        return points, K


def check_depths(depths: Tensor, cameras: Cameras) -> None:
    """Raise ValueError unless there is a depth for every pixel of `cameras`, and no negative or missing one."""
    expected = (len(cameras), cameras.height, cameras.width)
    if tuple(depths.shape) != expected:
        raise ValueError(f"`depths` has shape {tuple(depths.shape)}; expected {expected} for these cameras.")
    if not (depths > 0).all():
        raise ValueError("`depths` has values that are NaN or not positive; where nothing is seen write inf.")


def _focal(points: Tensor, confidence: Tensor) -> Tensor:
    """Focal lengths fx, fy in pixels, shape (2,), of point maps (2, S, S, 3) with confidences (2, S, S) above 1."""
    weight = confidence[..., None] - 0.999
    x, y, z = ((weight * points).sum(0) / weight.sum(0)).unbind(-1)
    centred = torch.arange(points.shape[1], device=points.device) - points.shape[1] / 2
    return torch.stack([(centred * z / x).nanmedian(), (centred[:, None] * z / y).nanmedian()])
