"""`load`: a scene from whatever a folder holds, in one convention.

Which reader is used is decided by the files that are there, or by `kind`. The readers live beside the formats they
read: `transforms` and `colmap`.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Literal, get_args

from couple.scenes.cameras import Cameras
from couple.scenes.colmap import read_colmap
from couple.scenes.pictures import SUFFIXES, common_size
from couple.scenes.scene import Scene
from couple.scenes.transforms import read_transforms
from couple.scenes.untrusted import MAX_FRAMES, check_count, inside

Kind = Literal["nerfstudio", "blender", "colmap", "pictures"]

_FILES = {"nerfstudio": "transforms.json", "blender": "transforms_train.json"}


def load(path: str | Path, *, kind: Kind | None = None, cameras: Cameras | None = None) -> Scene:
    """Read a scene. Pictures are checked to be there and of one size, and read only when asked for.

    Scenes are not trusted: nothing in one is run, no path in one may leave its folder, and the number of frames
    (10,000), the bytes of JSON (32 MiB) and the pixels of a picture (8192 x 8192) are limited.

    Args:
        path: the folder, or a JSON file of it, e.g. `lego/transforms_test.json`.
        kind: "nerfstudio" (`transforms.json`, also of Stable Virtual Camera, with its `train_test_split_*.json`),
            "blender" (`transforms_train.json` of NeRF-synthetic), "colmap" (`sparse/0` and `images/`), or
            "pictures" (a plain folder of PNG and JPEG files). The first that is there if left out.
        cameras: for a plain folder only, the cameras of its pictures in order of their names.

    Returns:
        The scene. Poses are in the file's world, frames in the file's order (by name for COLMAP).

    Raises:
        FileNotFoundError: the scene, or a picture of it, is not there.
        ValueError: something in it cannot be used (distorted pictures, mirrored axes, mixed sizes, paths out of the
            folder, wrong types, ...); the message names the file and frame and what to do.

    Example:
        scene = load("lego").fitted(576, 576)[:21]
        scene = load("photos", cameras=orbit(8, radius=2.0, elevation=0.2, height=576, width=576))
    """
    path = Path(path).expanduser()
    if kind is not None and kind not in get_args(Kind):
        raise ValueError(f"`kind` is {kind!r}; expected one of {', '.join(get_args(Kind))}.")
    if path.is_file():
        if path.suffix != ".json" or kind in ("colmap", "pictures"):
            raise ValueError(f"{path} is a file; give the folder of the scene, {path.parent}, or its JSON file.")
        found = "nerfstudio"
    elif path.is_dir():
        found = kind or _found(path)
    else:
        raise FileNotFoundError(f"there is no scene {path}.")
    if found == "pictures":
        return _read_pictures(path, cameras)
    if cameras is not None:
        raise ValueError(f"{path} has its own cameras ({found}); leave `cameras` out, or give kind='pictures'.")
    if found == "colmap":
        return read_colmap(path)
    return read_transforms(path if path.is_file() else _scene_file(path, _FILES[found]))


def _found(folder: Path) -> Kind:
    if (folder / _FILES["nerfstudio"]).is_file():
        return "nerfstudio"
    if (folder / _FILES["blender"]).is_file():
        return "blender"
    if (folder / "sparse").is_dir():
        return "colmap"
    if any(file.suffix.lower() in SUFFIXES for file in islice(folder.iterdir(), MAX_FRAMES)):
        return "pictures"
    raise FileNotFoundError(
        f"{folder} holds no scene; expected transforms.json, transforms_train.json, sparse/0 or pictures."
    )


def _scene_file(folder: Path, name: str) -> Path:
    inside(folder, name, "scene", str(folder))
    return folder / name


def _read_pictures(folder: Path, cameras: Cameras | None) -> Scene:
    names = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
    check_count(len(names), folder)
    if cameras is None:
        raise ValueError(
            f"{folder} has pictures and no cameras; give them, e.g. load({str(folder)!r}, cameras=couple.scenes.orbit("
            f"{len(names)}, radius=2.0, elevation=0.0, height=576, width=576))."
        )
    if len(cameras) != len(names):
        raise ValueError(
            f"{folder} has {len(names)} pictures and {len(cameras)} cameras were given; give {len(names)}."
        )
    paths = [inside(folder, name, "picture", str(folder)) for name in names]
    size = common_size((str(folder), path) for path in paths)
    if size != (cameras.height, cameras.width):
        raise ValueError(
            f"the pictures of {folder} have {size[0]} x {size[1]} pixels and `cameras` {cameras.height} x "
            f"{cameras.width}; give cameras.resized({size[0]}, {size[1]})."
        )
    return Scene(paths=tuple(paths), cameras=cameras, names=tuple(names))
