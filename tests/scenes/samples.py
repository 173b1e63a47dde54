"""Sample scenes: solid pictures with known cameras, written as each format's own documentation has it.

Nothing of `couple` is imported, so the files cannot share a bug with the readers.
"""

import json
import math
import struct
from copy import deepcopy

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 32, 48
FOCAL = 40.0
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]


def looking_at_origin(position, up=(0.0, 0.0, 1.0)):
    """Rows of right, up and backward axes and the position: an OpenGL camera-to-world matrix as nested lists."""
    position = np.array(position, dtype=float)
    backward = position / np.linalg.norm(position)
    right = np.cross(up, backward)
    right /= np.linalg.norm(right)
    c2w = np.eye(4)
    c2w[:3] = np.stack([right, np.cross(backward, right), backward, position], axis=1)
    return c2w.tolist()


POSITIONS = [(2.0, 0.0, 0.0), (0.0, 2.0, 0.5), (-1.5, 0.0, 1.0), (0.0, -3.0, -0.5)]
POSES = [looking_at_origin(position) for position in POSITIONS]


def solid(folder, name, colour, size=(WIDTH, HEIGHT)):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGBA" if len(colour) == 4 else "RGB", size, colour).save(folder / name)


def nerfstudio(folder):
    """A transforms.json with one camera for all; returns the data written, for a test to change and write again."""
    for i, colour in enumerate(COLOURS):
        solid(folder, f"images/{i}.png", colour)
    data = {
        "camera_model": "OPENCV",
        "fl_x": FOCAL,
        "fl_y": FOCAL + 1,
        "cx": 23.0,
        "cy": 17.0,
        "w": WIDTH,
        "h": HEIGHT,
        "k1": 0.0,
        "p1": 0.0,
        "applied_transform": [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, -1.0, 0.0, 0.0]],
        "frames": [
            {"file_path": f"images/{i}.png", "transform_matrix": pose} for i, pose in enumerate(deepcopy(POSES))
        ],
    }
    return write(folder, data)


def blender(folder):
    """NeRF-synthetic: half transparent pictures, names without ending, an angle instead of a focal length."""
    frames = []
    for i, (colour, pose) in enumerate(zip(COLOURS, deepcopy(POSES), strict=True)):
        solid(folder, f"train/r_{i}.png", (*colour, 128))
        frames.append({"file_path": f"./train/r_{i}", "rotation": 0.01, "transform_matrix": pose})
    return write(folder, {"camera_angle_x": math.pi / 2, "frames": frames}, "transforms_train.json")


def write(folder, data, name="transforms.json"):
    (folder / name).write_text(json.dumps(data))
    return data


CAMERA = (1, 1, WIDTH, HEIGHT, (FOCAL, FOCAL + 1, 23.0, 17.0))


def colmap(folder, images, cameras=(CAMERA,), *, binary):
    """A reconstruction and its pictures; see `sparse`."""
    for i, (name, *_) in enumerate(images):
        solid(folder, f"images/{name}", COLOURS[i % len(COLOURS)])
    sparse(folder, images, cameras, binary=binary)


def sparse(folder, images, cameras, *, binary):
    """sparse/0 of `images` (name, qvec, tvec, camera) and `cameras` (id, model number, width, height, params)."""
    model = folder / "sparse/0"
    model.mkdir(parents=True, exist_ok=True)
    if binary:
        data = struct.pack("<Q", len(cameras))
        for key, number, width, height, params in cameras:
            data += struct.pack(f"<IiQQ{len(params)}d", key, number, width, height, *params)
        (model / "cameras.bin").write_bytes(data)
        data = struct.pack("<Q", len(images))
        for i, (name, qvec, tvec, camera) in enumerate(images, 1):
            data += struct.pack("<I7dI", i, *qvec, *tvec, camera) + name.encode() + b"\0"
            # One point of the picture that belongs to no 3D point.
            data += struct.pack("<QddQ", 1, 3.0, 4.0, 2**64 - 1)
        (model / "images.bin").write_bytes(data)
        (model / "points3D.bin").write_bytes(struct.pack("<Q", 0))
    else:
        models = {0: "SIMPLE_PINHOLE", 1: "PINHOLE", 2: "SIMPLE_RADIAL", 4: "OPENCV", 5: "OPENCV_FISHEYE"}
        lines = ["# Camera list"] + [" ".join(map(str, (k, models[m], w, h, *p))) for k, m, w, h, p in cameras]
        (model / "cameras.txt").write_text("\n".join(lines) + "\n")
        lines = ["# Image list"]
        for i, (name, qvec, tvec, camera) in enumerate(images, 1):
            lines += [" ".join(map(str, (i, *qvec, *tvec, camera, name))), "3.0 4.0 -1" if i % 2 else ""]
        (model / "images.txt").write_text("\n".join(lines) + "\n")
        (model / "points3D.txt").write_text("")
