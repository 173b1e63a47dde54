"""Picture files of a scene: their sizes, pixels, depths and masks, with broken and oversized files refused.

Only PNG and JPEG are opened, the decoders whose header gives the size before anything is allocated, and for depth
arrays of NumPy, which are mapped before they are read.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

#: Pixels of a picture; 8192 x 8192.
MAX_PIXELS = 2**26
#: Endings of the files that count as pictures of a folder.
SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
#: Metres of one unit of a depth file (nerfstudio's convention: millimetres).
DEPTH_UNIT = 1e-3

_COLOUR = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})
_DEPTH = frozenset({"I;16", "I;16B", "I"})


def picture_size(path: Path) -> tuple[int, int]:
    """Return (height, width) from the header, after checking that a PNG is whole; of a .npy array of depths too.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a picture, is broken or has too many pixels.
    """
    if path.suffix == ".npy":
        height, width = _mapped(path).shape
        return height, width
    with _opened(path) as image:
        image.verify()
        return image.height, image.width


def common_size(pictures: Iterable[tuple[str, Path]]) -> tuple[int, int]:
    """Return the (height, width) that all pictures, given as (where, path), have.

    Raises:
        FileNotFoundError: a picture is missing.
        ValueError: a picture cannot be used, or their sizes differ.
    """
    size, first = None, None
    for where, path in pictures:
        try:
            found = picture_size(path)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{where}: {error}") from None
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        size, first = size or found, first or path
        if found != size:
            raise ValueError(
                f"{where}: {path} has {found[0]} x {found[1]} pixels and {first} has {size[0]} x {size[1]}; "
                "resize the pictures, and their intrinsics, to one size."
            )
    assert size is not None
    return size


def read_picture(path: Path) -> Image.Image:
    """Read a picture as RGB, or as RGBA where it has transparency.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a picture of 8 bits a channel, is broken or has too many pixels.
    """
    with _opened(path) as image:
        if image.mode not in _COLOUR:
            raise ValueError(f"its pixels are of mode {image.mode}; expected 8 bits a channel")
        transparent = "A" in image.getbands() or "transparency" in image.info
        return image.convert("RGBA" if transparent else "RGB")


def read_depth(path: Path, unit: float = DEPTH_UNIT) -> Tensor:
    """Read depths: a greyscale PNG of 16 bits, or a .npy array.

    Args:
        path: the file.
        unit: metres of one unit of it.

    Returns:
        Metres along the viewing axis, shape (H, W), float32, 0 where unknown.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is neither, is broken, has too many pixels or negative depths.
    """
    if path.suffix == ".npy":
        depth = torch.from_numpy(_mapped(path).astype(np.float32)).nan_to_num(nan=0.0, posinf=torch.inf)
        if (depth < 0).any():
            raise ValueError(f"{path} has negative depths; write 0 where the depth is unknown.")
        return depth * unit
    with _opened(path) as image:
        if image.mode not in _DEPTH:
            raise ValueError(f"its pixels are of mode {image.mode}; expected a greyscale PNG of 16 bits")
        return torch.from_numpy(np.asarray(image).astype(np.float32)) * unit


def read_mask(path: Path) -> Tensor:
    """Read a mask, shape (H, W), bool: True where the picture is brighter than middle grey.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a picture of 8 bits a channel, is broken or has too many pixels.
    """
    with _opened(path) as image:
        if image.mode not in _COLOUR:
            raise ValueError(f"its pixels are of mode {image.mode}; expected 8 bits a channel")
        return torch.from_numpy(np.asarray(image.convert("L")) > 127)


def _mapped(path: Path) -> np.ndarray:
    """A .npy array of two dimensions, mapped, not read."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no depth {path}; put it there or take it out of its frame.")
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError, OverflowError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"{path} cannot be read as an array ({reason:.200}); save it with numpy.save.") from error
    if array.ndim != 2 or not 0 < array.size <= MAX_PIXELS or array.dtype.kind not in "fu":
        raise ValueError(
            f"{path} holds {array.dtype} of shape {array.shape}; expected depths of shape (H, W), at most {MAX_PIXELS} "
            "of them, floating-point or unsigned."
        )
    return array


def to_tensor(pictures: Sequence[Image.Image]) -> Tensor:
    """RGB pictures of one size as pixels in [0, 1], shape (V, 3, H, W), float32."""
    stack = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
    return stack.permute(0, 3, 1, 2).float() / 255


def to_pictures(pixels: Tensor) -> list[Image.Image]:
    """Pixels in [0, 1], shape (V, 3, H, W), as RGB pictures."""
    rounded = (pixels.float() * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(view) for view in rounded]


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no picture {path}; put it there or take its frame out.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=("PNG", "JPEG"))
        with image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels are more than {MAX_PIXELS}; make it smaller")
            yield image
    except Exception as error:
        # Broken files fail in as many ways as there are chunks in them.
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ValueError(f"{path} cannot be used as a picture ({reason:.200}); save it again as PNG.") from error
