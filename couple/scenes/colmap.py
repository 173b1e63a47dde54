"""COLMAP reconstructions: `sparse/0/cameras` and `images`, as text or binary, beside a folder `images/`.

Only cameras and poses are read. The formats are those of COLMAP's documentation ("Output format"); they are read here
rather than by its library because a reconstruction may come from anywhere: the counts in a binary file are believed
by COLMAP, and eight bytes are enough to keep it busy for ever.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import torch
from torch import Tensor

from couple.scenes.cameras import Cameras
from couple.scenes.pictures import common_size
from couple.scenes.scene import Scene
from couple.scenes.untrusted import check_count, inside, number

#: COLMAP's models by their number in binary files: name and parameters.
_MODELS = {
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8),
    6: ("FULL_OPENCV", 12),
    7: ("FOV", 5),
    8: ("SIMPLE_RADIAL_FISHEYE", 4),
    9: ("RADIAL_FISHEYE", 5),
    10: ("THIN_PRISM_FISHEYE", 12),
}
#: Parameters before the distortion, for the models that are pinholes without it.
_PINHOLE = {"SIMPLE_PINHOLE": 3, "PINHOLE": 4, "SIMPLE_RADIAL": 3, "RADIAL": 3, "OPENCV": 4, "FULL_OPENCV": 4}
_MAX_TEXT = 2**30
_MAX_NAME = 4096


@dataclass(frozen=True)
class _Camera:
    model: str
    width: int
    height: int
    params: tuple[float, ...]


@dataclass(frozen=True)
class _Image:
    name: str
    camera: int
    qvec: tuple[float, ...]
    tvec: tuple[float, ...]


def read_colmap(folder: Path) -> Scene:
    """Read a scene of `folder`, with pictures in order of their names; see `couple.scenes.load`."""
    sparse = next((folder / name for name in ("sparse/0", "sparse") if _has_model(folder / name)), None)
    if sparse is None:
        raise FileNotFoundError(
            f"{folder} has no sparse/0 with cameras and images, .bin or .txt; run COLMAP's mapper or give another kind."
        )
    ending, cameras_of, images_of = (
        (".bin", _binary_cameras, _binary_images)
        if (sparse / "images.bin").is_file()
        else (".txt", _text_cameras, _text_images)
    )
    paths = [inside(folder, f"{sparse.relative_to(folder)}/{name}{ending}", name, str(folder)) for name in _PARTS]
    cameras, images = cameras_of(paths[0]), sorted(images_of(paths[1]), key=lambda image: image.name)
    check_count(len(images), paths[1])
    places = [f"image {image.name!r:.80} of {paths[1]}" for image in images]
    poses, K, pictures = [], [], []
    for image, where in zip(images, places, strict=True):
        camera = cameras.get(image.camera)
        if camera is None:
            raise ValueError(f"{where} names camera {image.camera}, which {paths[0]} does not have; export it again.")
        pictures.append(inside(folder, str(PurePosixPath("images", image.name)), "name", where))
        poses.append(from_colmap(image.qvec, image.tvec, where))
        K.append(_calibration(camera, f"camera {image.camera} of {paths[0]}"))
    height, width = common_size(zip(places, pictures, strict=True))
    for image, where in zip(images, places, strict=True):
        camera = cameras[image.camera]
        if (camera.height, camera.width) != (height, width):
            raise ValueError(
                f"{where} was taken by a camera of {camera.height} x {camera.width} pixels and its picture has "
                f"{height} x {width}; resize the pictures or scale the cameras, so that they agree."
            )
    return Scene(
        paths=tuple(pictures),
        cameras=Cameras(torch.stack(poses), torch.stack(K), height, width),
        names=tuple(image.name for image in images),
    )


def from_colmap(qvec: tuple[float, ...], tvec: tuple[float, ...], where: str = "the image") -> Tensor:
    """Turn COLMAP's world-to-camera quaternion (w, x, y, z) and translation into a camera-to-world matrix.

    Returns:
        Shape (4, 4), float64, OpenCV axes (which are COLMAP's).

    Raises:
        ValueError: the quaternion is not of length 1 or a number is not finite; the message begins with `where`.

    Example:
        >>> from_colmap((1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 3.0))[:3, 3].tolist()
        [0.0, 0.0, -3.0]
    """
    q = torch.tensor([number(value, "qvec", where) for value in qvec], dtype=torch.float64)
    t = torch.tensor([number(value, "tvec", where) for value in tvec], dtype=torch.float64)
    if not 0.99 < q.norm() < 1.01:
        raise ValueError(f"{where}: `qvec` is {q.tolist()}, which is not of length 1; export the reconstruction again.")
    w, (x, y, z) = (q / q.norm())[0], (q / q.norm())[1:]
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    # Rodrigues' formula in a unit quaternion.
    rotation = torch.eye(3, dtype=torch.float64) + 2 * w * cross + 2 * cross @ cross
    c2w = torch.eye(4, dtype=torch.float64)
    c2w[:3, :3] = rotation.T
    c2w[:3, 3] = -rotation.T @ t
    return c2w


_PARTS = ("cameras", "images")


def _has_model(folder: Path) -> bool:
    return any(all((folder / f"{part}{ending}").is_file() for part in _PARTS) for ending in (".bin", ".txt"))


def _calibration(camera: _Camera, where: str) -> Tensor:
    fix = "undistort the pictures first, e.g. with `colmap image_undistorter`"
    if (first := _PINHOLE.get(camera.model)) is None:
        raise ValueError(f"{where} is of model {camera.model:.40}; couple's cameras are pinholes, so {fix}.")
    params = [number(value, "parameter", where) for value in camera.params]
    if len(params) < first:
        raise ValueError(
            f"{where} has {len(params)} parameters; {camera.model} has at least {first}, so export it again."
        )
    if any(params[first:]):
        raise ValueError(f"{where} has distortion {params[first:]}; {fix}.")
    fx, fy, cx, cy = params[:4] if first == 4 else (params[0], *params[:3])
    if min(fx, fy) < 1e-3:
        raise ValueError(f"{where} has focal lengths {fx:g} and {fy:g}; expected positive numbers.")
    return torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)


def _text_cameras(file: Path) -> dict[int, _Camera]:
    cameras = {}
    for i, line in _lines(file):
        if line and not line.startswith("#"):
            try:
                key, model, width, height, *params = line.split()
                cameras[int(key)] = _Camera(model, int(width), int(height), tuple(map(float, params)))
            except ValueError as error:
                raise ValueError(
                    f"line {i} of {file} is {line!r:.80}; expected ID MODEL WIDTH HEIGHT PARAMS."
                ) from error
            check_count(len(cameras), file)
    return cameras


def _text_images(file: Path) -> list[_Image]:
    images, points_follow = [], False
    for i, line in _lines(file):
        if points_follow:
            points_follow = False
        elif line and not line.startswith("#"):
            try:
                _, qw, qx, qy, qz, tx, ty, tz, camera, name = line.split(maxsplit=9)
                qvec, tvec = (float(qw), float(qx), float(qy), float(qz)), (float(tx), float(ty), float(tz))
                images.append(_Image(name, int(camera), qvec, tvec))
            except ValueError as error:
                expected = "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME"
                raise ValueError(f"line {i} of {file} is {line!r:.80}; expected {expected}.") from error
            points_follow = True
            check_count(len(images), file)
    return images


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    if (size := file.stat().st_size) > _MAX_TEXT:
        raise ValueError(f"{file} has {size} bytes; export the reconstruction as binary.")
    with file.open("rb") as lines:
        for i, line in enumerate(lines, 1):
            yield i, line[:_MAX_NAME].decode("utf-8", "replace").strip()


def _binary_cameras(file: Path) -> dict[int, _Camera]:
    cameras = {}
    with file.open("rb") as data:
        (count,) = _take(data, "<Q", file)
        check_count(count, file)
        for _ in range(count):
            key, model, width, height = _take(data, "<IiQQ", file)
            if model not in _MODELS:
                raise ValueError(f"camera {key} of {file} is of model number {model}; undistort to a PINHOLE first.")
            name, params = _MODELS[model]
            cameras[key] = _Camera(name, width, height, _take(data, f"<{params}d", file))
    return cameras


def _binary_images(file: Path) -> list[_Image]:
    images = []
    size = file.stat().st_size
    with file.open("rb") as data:
        (count,) = _take(data, "<Q", file)
        check_count(count, file)
        for _ in range(count):
            _, *pose, camera = _take(data, "<I7dI", file)
            name = _name(data, file)
            (points,) = _take(data, "<Q", file)
            # A point is two coordinates and the number of its 3D point, 24 bytes.
            if data.tell() + 24 * points > size:
                raise _truncated(file, size)
            data.seek(24 * points, 1)
            images.append(_Image(name, camera, tuple(pose[:4]), tuple(pose[4:])))
    return images


def _take(data: BinaryIO, format: str, file: Path) -> tuple:
    buffer = data.read(struct.calcsize(format))
    if len(buffer) < struct.calcsize(format):
        raise _truncated(file, data.tell())
    return struct.unpack(format, buffer)


def _name(data: BinaryIO, file: Path) -> str:
    start = data.tell()
    name, end, _ = data.read(_MAX_NAME).partition(b"\0")
    if not end:
        raise _truncated(file, data.tell())
    data.seek(start + len(name) + 1)
    return name.decode("utf-8", "replace")


def _truncated(file: Path, at: int) -> ValueError:
    return ValueError(f"{file} ends too early, at byte {at}; copy or export it again.")
