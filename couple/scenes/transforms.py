"""`transforms.json` and its relatives: the files of nerfstudio, Stable Virtual Camera, instant-ngp and NeRF-synthetic.

A file lists frames, each with a picture and an OpenGL camera-to-world matrix. Intrinsics stand once for all or in
each frame; where both are given the one for all counts, as in nerfstudio's and Stable Virtual Camera's readers.
`applied_transform` records how the world was turned before the file was written; poses stay in the file's world.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from couple.scenes.cameras import GL, Cameras, check_pose
from couple.scenes.pictures import DEPTH_UNIT, common_size
from couple.scenes.scene import Scene, Split
from couple.scenes.untrusted import MAX_FRAMES, check_count, inside, matrix, number, read_json, shown

_MODELS = frozenset({"PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV"})
_DISTORTION = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")
_SMALLEST_FOCAL = 1e-3


def read_transforms(file: Path) -> Scene:
    """Read a scene of `file` and of the pictures in its folder; see `couple.scenes.load`."""
    data = read_json(file)
    frames = data.get("frames")
    if not isinstance(frames, list):
        raise ValueError(f"{file}: `frames` is {shown(frames)}; expected a list of frames.")
    check_count(len(frames), file)
    _check_applied(data, file)
    places, names, paths, depths, masks, poses = [], [], [], [], [], []
    for i, frame in enumerate(frames):
        where = f"frame {i} of {file}"
        if not isinstance(frame, dict):
            raise ValueError(f"{where} is {shown(frame)}; expected an object with `file_path` and `transform_matrix`.")
        path = _picture_path(file.parent, frame, where)
        where = f"frame {i} ({frame['file_path']:.80}) of {file}"
        pose = matrix(frame.get("transform_matrix"), "transform_matrix", where) @ GL
        check_pose(pose, where)
        _check_undistorted(data, frame, where)
        places.append(where)
        names.append(frame["file_path"])
        paths.append(path)
        poses.append(pose)
        depths.append(_beside_picture(file.parent, frame, "depth_file_path", where))
        masks.append(_beside_picture(file.parent, frame, "mask_path", where))
    files = [(w, path) for w, *of in zip(places, paths, depths, masks, strict=True) for path in of if path is not None]
    height, width = common_size(files)
    K = [_intrinsics(data, frame, height, width, where) for frame, where in zip(frames, places, strict=True)]
    return Scene(
        paths=tuple(paths),
        cameras=Cameras(torch.stack(poses), torch.stack(K), height, width),
        names=tuple(names),
        depths=tuple(depths) if any(depths) else (),
        masks=tuple(masks) if any(masks) else (),
        depth_unit=_depth_unit(data, file),
        splits=_splits(file.parent, len(frames)) if file.name == "transforms.json" else {},
    )


def save(
    folder: str | Path, cameras: Cameras, pictures: Sequence[Image.Image], *, names: Sequence[str] | None = None
) -> Path:
    """Write pictures and their cameras as a scene that `load`, nerfstudio and Stable Virtual Camera read.

    Args:
        folder: a new or empty folder; it gets `images/0000.png` and so on, and `transforms.json`.
        cameras: V cameras.
        pictures: V pictures of the cameras' size, RGB, RGBA or L.
        names: V different names of files in place of the numbers, without folder and ending.

    Returns:
        The path of `transforms.json`.

    Raises:
        ValueError: counts or sizes differ, a picture is of another mode, a camera has skewed pixels, names are the
            same or no names of files, or the folder holds something; nothing is written then.

    Example:
        save("edited", scene.cameras, result[views].images)
    """
    folder = Path(folder).expanduser()
    if len(pictures) != len(cameras):
        raise ValueError(f"{len(pictures)} pictures and {len(cameras)} cameras; give one camera for each picture.")
    for i, picture in enumerate(pictures):
        if picture.size != (cameras.width, cameras.height):
            raise ValueError(
                f"picture {i} has {picture.height} x {picture.width} pixels, its camera {cameras.height} x "
                f"{cameras.width}; give cameras.resized({picture.height}, {picture.width})."
            )
        if picture.mode not in ("RGB", "RGBA", "L"):
            raise ValueError(f"picture {i} is of mode {picture.mode}; give picture.convert('RGB').")
    if cameras.K[:, 0, 1].any():
        raise ValueError("transforms.json has no place for the skew of these cameras; set K[:, 0, 1] to 0.")
    if names is None:
        names = [f"{i:04d}" for i in range(len(cameras))]
    if len(set(names)) != len(cameras) or not all(name.strip(".") and Path(name).name == name for name in names):
        raise ValueError(f"`names` are {list(names)}; give {len(cameras)} different names of files without a folder.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not an empty folder; name a new one.")
    (folder / "images").mkdir(parents=True)
    frames = []
    for name, pose, K, picture in zip(names, cameras.c2w @ GL, cameras.K, pictures, strict=True):
        file = f"images/{name}.png"
        picture.save(folder / file)
        frames.append(
            {
                "file_path": file,
                "fl_x": K[0, 0].item(),
                "fl_y": K[1, 1].item(),
                "cx": K[0, 2].item(),
                "cy": K[1, 2].item(),
                "w": cameras.width,
                "h": cameras.height,
                "transform_matrix": pose.tolist(),
            }
        )
    file = folder / "transforms.json"
    file.write_text(json.dumps({"camera_model": "PINHOLE", "frames": frames}, indent=1))
    return file


def _field(data: dict[str, Any], frame: dict[str, Any], key: str) -> Any:
    value = data.get(key)
    return frame.get(key) if value is None else value


def _check_applied(data: dict[str, Any], file: Path) -> None:
    if (value := data.get("applied_transform")) is not None:
        applied = matrix(value, "applied_transform", str(file))
        if not torch.linalg.det(applied[:3, :3]) > 0:
            raise ValueError(
                f"{file}: `applied_transform` is mirrored or singular; leave it out and write right-handed poses."
            )


def _picture_path(folder: Path, frame: dict[str, Any], where: str) -> Path:
    text = frame.get("file_path")
    path = inside(folder, text, "file_path", where)
    if not path.suffix or not _is_file(path):
        # NeRF-synthetic leaves the ending out.
        with_ending = inside(folder, f"{text}.png", "file_path", where)
        path = with_ending if _is_file(with_ending) else path
    return path


def _beside_picture(folder: Path, frame: dict[str, Any], key: str, where: str) -> Path | None:
    text = frame.get(key)
    return None if text is None else inside(folder, text, key, where)


def _depth_unit(data: dict[str, Any], file: Path) -> float:
    if (value := data.get("depth_unit_scale_factor")) is None:
        return DEPTH_UNIT
    unit = number(value, "depth_unit_scale_factor", str(file))
    if unit <= 0:
        raise ValueError(f"{file}: `depth_unit_scale_factor` is {unit:g}; expected metres of one unit, more than 0.")
    return unit


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _check_undistorted(data: dict[str, Any], frame: dict[str, Any], where: str) -> None:
    fix = "undistort the pictures first, e.g. with `colmap image_undistorter`"
    model = _field(data, frame, "camera_model")
    if model is not None and (not isinstance(model, str) or model not in _MODELS):
        raise ValueError(f"{where}: `camera_model` is {shown(model)}; couple's cameras are pinholes, so {fix}.")
    if (fisheye := _field(data, frame, "is_fisheye")) not in (None, False, 0):
        raise ValueError(f"{where}: `is_fisheye` is {shown(fisheye)}; couple's cameras are pinholes, so {fix}.")
    coefficients = {key: _field(data, frame, key) for key in _DISTORTION}
    listed = _field(data, frame, "distortion_params")
    if listed is not None:
        if not isinstance(listed, list) or len(listed) > 32:
            raise ValueError(f"{where}: `distortion_params` is {shown(listed)}; expected a list of numbers.")
        coefficients |= {f"distortion_params[{i}]": value for i, value in enumerate(listed)}
    for key, value in coefficients.items():
        if value is not None and number(value, key, where) != 0:
            raise ValueError(f"{where}: `{key}` is {value}, so its picture is distorted; {fix}.")


def _intrinsics(data: dict[str, Any], frame: dict[str, Any], height: int, width: int, where: str) -> Tensor:
    def get(key: str) -> float | None:
        value = _field(data, frame, key)
        return None if value is None else number(value, key, where)

    for key, pixels in (("w", width), ("h", height)):
        if (said := get(key)) not in (None, pixels):
            raise ValueError(
                f"{where}: `{key}` is {said:g} and its picture has {pixels}; resize the pictures or scale the "
                "intrinsics, so that they agree."
            )
    fx, fy = get("fl_x"), get("fl_y")
    fx = _focal(get("camera_angle_x"), width, "camera_angle_x", where) if fx is None else fx
    fy = _focal(get("camera_angle_y"), height, "camera_angle_y", where) if fy is None else fy
    fx, fy = fy if fx is None else fx, fx if fy is None else fy
    if fx is None or fy is None:
        raise ValueError(f"{where} has neither `fl_x` nor `camera_angle_x`; give the focal length in pixels.")
    for key, focal in (("fl_x", fx), ("fl_y", fy)):
        if focal < _SMALLEST_FOCAL:
            raise ValueError(f"{where}: the focal length `{key}` is {focal:g} pixels; expected a positive number.")
    cx, cy = get("cx"), get("cy")
    cx, cy = width / 2 if cx is None else cx, height / 2 if cy is None else cy
    return torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)


def _focal(angle: float | None, pixels: int, key: str, where: str) -> float | None:
    if angle is None:
        return None
    if not 0 < angle < math.pi:
        raise ValueError(f"{where}: `{key}` is {angle:g}; expected radians between 0 and pi.")
    return pixels / 2 / math.tan(angle / 2)


def _splits(folder: Path, count: int) -> dict[str, Split]:
    splits = {}
    for found in sorted(folder.glob("train_test_split_*.json"))[:MAX_FRAMES]:
        file = inside(folder, found.name, "split", str(folder))
        data = read_json(file)
        ids = [_indices(data.get(key), key, count, file) for key in ("train_ids", "test_ids")]
        splits[found.stem.removeprefix("train_test_split_")] = Split(*ids)
    return splits


def _indices(value: Any, key: str, count: int, file: Path) -> tuple[int, ...]:
    valid = isinstance(value, list) and all(type(i) is int and 0 <= i < count for i in value)
    if not valid:
        raise ValueError(f"{file}: `{key}` is {shown(value)}; expected a list of frames, each 0 to {count - 1}.")
    return tuple(value)
