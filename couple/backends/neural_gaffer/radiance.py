"""Radiance pictures (.hdr, RGBE): three 8-bit mantissas and one shared exponent a pixel, packed by runs.

Format: G. Ward, "Real Pixels", Graphics Gems II, and the Radiance file format notes.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np


def read_hdr(path: Path) -> np.ndarray:
    """Read a Radiance picture.

    Args:
        path: the file; rows from the top, columns from the left, packed by the "new" runs or not packed.

    Returns:
        Linear radiance, mantissa * 2^(exponent - 136), shape (H, W, 3), float32.

    Raises:
        ValueError: it is no such picture, or ends too early.
    """
    data = path.read_bytes()
    size = re.search(rb"\n\n-Y (\d+) \+X (\d+)\n", data)
    if not size or not data.startswith(b"#?") or b"FORMAT=32-bit_rle_rgbe" not in data[: size.start()]:
        raise ValueError(f"{path} is no Radiance picture of RGB rows from the top (-Y H +X W); save it as .npy.")
    height, width = int(size[1]), int(size[2])
    packed = memoryview(data)[size.end() :]
    if bytes(packed[:4]) == bytes([2, 2, width >> 8, width & 255]):
        pixels = _unpacked(packed, height, width, path)
    elif len(packed) == 4 * height * width:
        pixels = np.frombuffer(packed, np.uint8).reshape(height, width, 4)
    else:
        raise ValueError(f"{path} is cut short, or packed in the old way; save it as .npy.")
    return np.ldexp(pixels[..., :3].astype(np.float32), pixels[..., 3:].astype(np.int32) - 136)


def _unpacked(packed: memoryview, height: int, width: int, path: Path) -> np.ndarray:
    """Each row: 4 bytes of header, then its four channels one after the other, in runs and in literal stretches."""
    rows = bytearray()
    at = 0
    for row in range(height):
        at += 4
        while len(rows) < (row + 1) * 4 * width and at < len(packed):
            count = packed[at]
            if count > 128:
                rows += bytes(packed[at + 1 : at + 2]) * (count - 128)
                at += 2
            else:
                rows += packed[at + 1 : at + 1 + count]
                at += 1 + count
    if len(rows) != height * 4 * width:
        raise ValueError(f"{path} is cut short or damaged; it holds {len(rows)} of {height * 4 * width} bytes.")
    return np.frombuffer(rows, np.uint8).reshape(height, 4, width).transpose(0, 2, 1)
