"""Reading what others wrote: JSON, numbers and paths of a scene file, within limits and inside its folder.

A scene may come from anywhere. Nothing here runs code from it, follows a path out of its folder, or reads more than
the limits below; every refusal is one sentence that says where, what was got and what to do.
"""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from torch import Tensor

#: Frames of a scene.
MAX_FRAMES = 10_000
#: Bytes of a JSON file.
MAX_JSON = 32 * 2**20
#: Characters of a path.
MAX_PATH = 1024
#: Magnitude of a number; past it float32 geometry has nothing left to say.
MAX_NUMBER = 1e9

#: Control characters and halves of characters, which no path needs and which spoil messages.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


def shown(value: Any) -> str:
    """Name `value` in a message, shortly whatever it is."""
    match value:
        case dict():
            return f"an object of {len(value)} keys"
        case list():
            return f"a list of {len(value)}"
        case None:
            return "missing"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is too large, not JSON, nested too deeply, or not an object.
    """
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}.")
    if (size := file.stat().st_size) > MAX_JSON:
        raise ValueError(f"{file} has {size} bytes, more than the {MAX_JSON} that a scene may have; split the scene.")
    try:
        data = json.loads(file.read_bytes())
    except RecursionError:
        raise ValueError(f"{file} is nested too deeply for a scene; write it again.") from None
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({str(error).rstrip('.'):.200}); write it again.") from error
    if not isinstance(data, dict):
        raise ValueError(f"{file} holds {shown(data)}; expected a JSON object.")
    return data


def check_count(count: int, source: Path) -> None:
    """Refuse a scene without frames or with too many."""
    if not 1 <= count <= MAX_FRAMES:
        raise ValueError(f"{source} has {count} frames; expected 1 to {MAX_FRAMES}, so keep those you need.")


def number(value: Any, what: str, where: str) -> float:
    """Return a finite number of sensible size; `what` and `where` name it in the message otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -MAX_NUMBER <= value <= MAX_NUMBER:
        raise ValueError(f"{where}: `{what}` is {shown(value)}; expected a number between -1e9 and 1e9.")
    return float(value)


def matrix(value: Any, what: str, where: str) -> Tensor:
    """Return a matrix of 3 x 4 or 4 x 4 numbers as one of 4 x 4, float64."""
    if not isinstance(value, list) or len(value) not in (3, 4):
        raise ValueError(f"{where}: `{what}` is {shown(value)}; expected a list of 3 or 4 rows of 4 numbers.")
    for i, row in enumerate(value):
        if not isinstance(row, list) or len(row) != 4:
            raise ValueError(f"{where}: row {i} of `{what}` is {shown(row)}; expected a list of 4 numbers.")
    rows = [[number(x, f"{what}[{i}][{j}]", where) for j, x in enumerate(row)] for i, row in enumerate(value)]
    return torch.tensor([*rows, [0.0, 0.0, 0.0, 1.0]][:4], dtype=torch.float64)


def inside(folder: Path, text: Any, what: str, where: str) -> Path:
    """Return the path of `text`, relative to `folder`, which it must not leave, not even through a link.

    The file need not exist.

    Raises:
        ValueError: `text` is not a path, is absolute, has a drive, a backslash or "..", or leads elsewhere.
    """
    if not isinstance(text, str) or not text.strip() or len(text) > MAX_PATH or _UNPRINTABLE.search(text):
        raise ValueError(f"{where}: `{what}` is {shown(text)}; expected the path of a file in {folder}.")
    pure = PurePosixPath(text)
    if pure.is_absolute() or ".." in pure.parts or "\\" in text or PureWindowsPath(text).drive:
        raise ValueError(
            f"{where}: `{what}` is {shown(text)}; expected a path inside {folder}, written with / and without '..'."
        )
    try:
        path, home = (folder / pure).resolve(), folder.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"{where}: `{what}` is {shown(text)}, which is no path on this machine; rename it.") from error
    if not path.is_relative_to(home):
        raise ValueError(f"{where}: `{what}` is {shown(text)}, a link out of {folder}; copy the file into it.")
    return path
