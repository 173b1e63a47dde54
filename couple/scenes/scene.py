"""A scene: pictures on disk and the cameras that took them.

Pictures are read when they are asked for. Choosing, cropping and resizing happen on the description, intrinsics and
pixels together, so a scene of a thousand pictures costs nothing until one is looked at. Files are read by
`couple.scenes.load`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from couple.scenes.cameras import Cameras, centred
from couple.scenes.pictures import DEPTH_UNIT, read_depth, read_mask, read_picture


class Split(NamedTuple):
    """Indices of the frames that are given and of those that are held back."""

    train: tuple[int, ...]
    test: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Scene:
    """V posed pictures of one size.

    Args:
        paths: the picture files, all of one size.
        cameras: V cameras, of the pictures as they are shown.
        names: what the scene's file calls each picture.
        depths: the depth files, None where a frame has none; empty if no frame has one.
        masks: the mask files, as the depths.
        depth_unit: metres of one unit of the depth files.
        splits: of the frames, by the name of their file: "3" for `train_test_split_3.json`.
        size: (height, width) of the picture files; that of the cameras if left out.
        box: the part of the files that is shown, (left, top, right, bottom) in their pixels; all of it if left out.

    Raises:
        ValueError: the counts of paths, names, depths, masks and cameras differ.

    Example:
        >>> from couple.scenes import Scene, orbit
        >>> cameras = orbit(2, radius=2.0, elevation=0.0, height=64, width=96)
        >>> scene = Scene((Path("a.png"), Path("b.png")), cameras, ("a.png", "b.png"))
        >>> scene.fitted(32, 32)[[1]]
        Scene of 1 picture of 32 x 32 pixels
    """

    paths: tuple[Path, ...]
    cameras: Cameras
    names: tuple[str, ...]
    depths: tuple[Path | None, ...] = ()
    masks: tuple[Path | None, ...] = ()
    depth_unit: float = DEPTH_UNIT
    splits: Mapping[str, Split] = field(default_factory=dict)
    size: tuple[int, int] = (0, 0)
    box: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)

    def __post_init__(self):
        """Check the counts and fill in what was left out."""
        every = len(self.cameras)
        counts = {len(self.paths), len(self.names), len(self.depths) or every, len(self.masks) or every, every}
        if len(counts) > 1:
            raise ValueError(
                f"{len(self.paths)} paths, {len(self.names)} names, {len(self.depths)} depths, {len(self.masks)} masks "
                f"and {every} cameras do not make a scene; give one of each for every picture."
            )
        if self.size == (0, 0):
            object.__setattr__(self, "size", (self.cameras.height, self.cameras.width))
        if self.box == (0, 0, 0, 0):
            object.__setattr__(self, "box", (0.0, 0.0, float(self.size[1]), float(self.size[0])))

    def __repr__(self) -> str:
        plural = "" if len(self) == 1 else "s"
        return f"Scene of {len(self)} picture{plural} of {self.cameras.height} x {self.cameras.width} pixels"

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.paths)

    def __getitem__(self, index: int | slice | Sequence[int]) -> Scene:
        """Choose frames, in the order given; one of them is still a scene. Splits count all frames, so they go."""
        frames = range(len(self))
        match index:
            case int():
                chosen = [frames[index]]
            case slice():
                chosen = list(frames[index])
            case _:
                chosen = [frames[i] for i in index]
        if not chosen:
            raise ValueError(f"no frame of the {len(self)} is chosen; a scene has at least one.")
        return replace(
            self,
            paths=tuple(self.paths[i] for i in chosen),
            cameras=self.cameras[chosen],
            names=tuple(self.names[i] for i in chosen),
            depths=tuple(self.depths[i] for i in chosen) if self.depths else (),
            masks=tuple(self.masks[i] for i in chosen) if self.masks else (),
            splits={},
        )

    def picture(self, i: int, *, background: tuple[int, int, int] | None = (255, 255, 255)) -> Image.Image:
        """Read picture `i` as it is shown.

        Args:
            i: frame index.
            background: colour laid under transparent pixels, 0 to 255 each, white as in NeRF's synthetic scenes.
                None keeps the alpha channel of files that have one.

        Returns:
            An RGB picture (or RGBA, if `background` is None and the file is transparent) of the cameras' size.

        Raises:
            FileNotFoundError: the file is gone.
            ValueError: the file is broken, or its size is not `size`.
        """
        image = read_picture(self.paths[i])
        self._check_size(self.paths[i], image.height, image.width)
        target = (self.cameras.width, self.cameras.height)
        if image.size != target or self.box != (0, 0, *target):
            image = image.resize(target, Image.Resampling.LANCZOS, box=self.box)
        if image.mode == "RGBA" and background is not None:
            under = Image.new("RGBA", image.size, (*background, 255))
            image = Image.alpha_composite(under, image).convert("RGB")
        return image

    def pictures(self, *, background: tuple[int, int, int] | None = (255, 255, 255)) -> list[Image.Image]:
        """Read all pictures, as `picture` does."""
        return [self.picture(i, background=background) for i in range(len(self))]

    def depth(self, i: int) -> Tensor:
        """Read the depth of frame `i`: metres along the viewing axis, shape (H, W), float32, 0 where unknown.

        Raises:
            FileNotFoundError: the file is gone.
            ValueError: the frame has no depth, or its file is broken or not of the pictures' size.
        """
        path = self.depths[i] if self.depths else None
        if path is None:
            raise ValueError(f"frame {i} ({self.names[i]}) has no depth; its scene file names no `depth_file_path`.")
        return self._shown(path, read_depth(path, self.depth_unit))

    def distances(self) -> Tensor:
        """Read the depths of all frames: shape (V, H, W), float32, infinite where unknown; raises as `depth` does."""
        depths = torch.stack([self.depth(i) for i in range(len(self))])
        return depths.masked_fill(depths == 0, torch.inf)

    def mask(self, i: int) -> Tensor:
        """Read the mask of frame `i`: where its object is, shape (H, W), bool.

        Raises:
            FileNotFoundError: the file is gone.
            ValueError: the frame has no mask, or its file is broken or not of the pictures' size.
        """
        path = self.masks[i] if self.masks else None
        if path is None:
            raise ValueError(f"frame {i} ({self.names[i]}) has no mask; its scene file names no `mask_path`.")
        return self._shown(path, read_mask(path))

    def _shown(self, path: Path, pixels: Tensor) -> Tensor:
        """The values of `pixels`, those of the file `path`, at the pixels shown."""
        self._check_size(path, *pixels.shape)
        left, top, right, bottom = self.box
        rows = _nearest(top, bottom, self.cameras.height)
        columns = _nearest(left, right, self.cameras.width)
        return pixels[rows][:, columns]

    def resized(self, height: int, width: int) -> Scene:
        """The scene with pictures scaled to `height` x `width` pixels."""
        now = self.cameras
        return self._part(0, 0, now.height, now.width, now.resized(height, width))

    def cropped(self, top: int, left: int, height: int, width: int) -> Scene:
        """The scene with the rectangle of `height` x `width` pixels at (`top`, `left`) of every picture.

        Raises:
            ValueError: the rectangle reaches outside the pictures.
        """
        now = self.cameras
        if min(top, left) < 0 or top + height > now.height or left + width > now.width:
            raise ValueError(
                f"the rectangle of {height} x {width} pixels at ({top}, {left}) reaches outside the pictures of "
                f"{now.height} x {now.width}; choose one inside."
            )
        return self._part(top, left, height, width, now.cropped(top, left, height, width))

    def fitted(self, height: int, width: int) -> Scene:
        """The scene with the largest centred rectangle of that shape, scaled to `height` x `width` pixels."""
        now = self.cameras
        cameras = now.fitted(height, width)
        return self._part(*centred(now.height, now.width, height, width), cameras)

    def _part(self, top: float, left: float, height: float, width: float, cameras: Cameras) -> Scene:
        x0, y0, x1, y1 = self.box
        across, down = (x1 - x0) / self.cameras.width, (y1 - y0) / self.cameras.height
        # Rounding must not push the box out of the picture.
        right = min(x0 + (left + width) * across, x1)
        bottom = min(y0 + (top + height) * down, y1)
        return replace(self, cameras=cameras, box=(x0 + left * across, y0 + top * down, right, bottom))

    def _check_size(self, path: Path, height: int, width: int) -> None:
        if (height, width) != self.size:
            raise ValueError(
                f"{path} has {height} x {width} pixels and the scene {self.size[0]} x {self.size[1]}; resize the file."
            )


def _nearest(start: float, stop: float, count: int) -> Tensor:
    """Indices of the pixels under the centres of `count` equal parts of `start` to `stop`."""
    return (start + (torch.arange(count, dtype=torch.float64) + 0.5) * ((stop - start) / count)).floor().long()
