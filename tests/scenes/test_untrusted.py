"""Scenes that are broken or mean harm: one clear sentence, quickly, and nothing else happens."""

import math
import os
import struct
import time
import zlib

import pytest
from PIL import Image

from couple.scenes import load
from tests.scenes import samples

# What is done to the data of a good scene, the error, and words of its message.
DATA_FAULTS = {
    "missing": (lambda d: d["frames"][2].update(file_path="images/9.png"), FileNotFoundError, r"frame 2 \(images/9.png\) of .*there is no picture"),
    "no-path": (lambda d: d["frames"][1].pop("file_path"), ValueError, "frame 1 .*`file_path` is missing"),
    "null-path": (lambda d: d["frames"][1].update(file_path=None), ValueError, "frame 1 .*`file_path` is missing"),
    "path-type": (lambda d: d["frames"][1].update(file_path=["a"]), ValueError, "`file_path` is a list of 1"),
    "up": (lambda d: d["frames"][0].update(file_path="../outside.png"), ValueError, "frame 0 .*'../outside.png'; expected a path inside"),
    "up-inside": (lambda d: d["frames"][0].update(file_path="images/../../outside.png"), ValueError, "without '..'"),
    "absolute": (lambda d: d["frames"][0].update(file_path="/etc/passwd"), ValueError, "'/etc/passwd'; expected a path inside"),
    "drive": (lambda d: d["frames"][0].update(file_path="C:/a.png"), ValueError, "'C:/a.png'; expected a path inside"),
    "backslash": (lambda d: d["frames"][0].update(file_path="..\\a.png"), ValueError, "written with /"),
    "nul": (lambda d: d["frames"][0].update(file_path="images/0.png\0"), ValueError, "`file_path` is 'images/0.png.x00'"),
    "surrogate": (lambda d: d["frames"][0].update(file_path="\ud800"), ValueError, "`file_path` is '.ud800'"),
    "newline": (lambda d: d["frames"][0].update(file_path="a\nb"), ValueError, "`file_path` is 'a.nb'"),
    "long-path": (lambda d: d["frames"][0].update(file_path="a" * 70_000), ValueError, r"frame 0 .*\(70002 characters\)"),
    "folder": (lambda d: d["frames"][0].update(file_path="images"), FileNotFoundError, "there is no picture"),
    "link": (lambda d: d["frames"][0].update(file_path="link.png"), ValueError, "a link out of"),
    "link-folder": (lambda d: d["frames"][0].update(file_path="links/outside.png"), ValueError, "a link out of"),
    "loop": (lambda d: d["frames"][0].update(file_path="loop.png"), (ValueError, FileNotFoundError), "frame 0"),
    "fifo": (lambda d: d["frames"][0].update(file_path="fifo.png"), FileNotFoundError, "there is no picture"),
    "depth-link": (lambda d: d["frames"][0].update(depth_file_path="link.png"), ValueError, "`depth_file_path` is 'link.png', a link out of"),
    "depth-missing": (lambda d: d["frames"][0].update(depth_file_path="no.png"), FileNotFoundError, "frame 0 .*no.png"),
    "sizes": (lambda d: d["frames"][3].update(file_path="small.png"), ValueError, r"frame 3 .*small.png has 8 x 8 pixels and .*0.png has 32 x 48; resize"),
    "said-size": (lambda d: d.update(w=100), ValueError, "frame 0 .*`w` is 100 and its picture has 48"),
    "pose-string": (lambda d: d["frames"][0].update(transform_matrix="identity"), ValueError, "`transform_matrix` is 'identity'; expected a list of 3 or 4 rows"),
    "pose-missing": (lambda d: d["frames"][0].pop("transform_matrix"), ValueError, "`transform_matrix` is missing"),
    "pose-row": (lambda d: d["frames"][1]["transform_matrix"].__setitem__(2, [1, 2]), ValueError, "row 2 of `transform_matrix` is a list of 2"),
    "pose-entry": (lambda d: d["frames"][1]["transform_matrix"][0].__setitem__(3, "2"), ValueError, r"`transform_matrix\[0\]\[3\]` is '2'; expected a number"),
    "pose-bool": (lambda d: d["frames"][1]["transform_matrix"][0].__setitem__(3, True), ValueError, "is True; expected a number"),
    "pose-nan": (lambda d: d["frames"][1]["transform_matrix"][0].__setitem__(3, math.nan), ValueError, r"frame 1 \(images/1.png\) .*is nan; expected a number"),
    "pose-inf": (lambda d: d["frames"][1]["transform_matrix"][0].__setitem__(3, math.inf), ValueError, "is inf"),
    "pose-huge": (lambda d: d["frames"][1]["transform_matrix"][0].__setitem__(3, 10**400), ValueError, r"is 1000.* \(401 characters\)"),
    "pose-zero": (lambda d: d["frames"][1].update(transform_matrix=[[0.0] * 4] * 3), ValueError, "frame 1 .* is not one"),
    "pose-scaled": (lambda d: d["frames"][1].update(transform_matrix=[[2.0, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0]]), ValueError, "not orthogonal unit vectors"),
    "pose-last-row": (lambda d: d["frames"][1]["transform_matrix"].__setitem__(3, [0, 0, 1, 1]), ValueError, "last row"),
    "mirrored": (lambda d: d["frames"][1].update(transform_matrix=[[-1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]), ValueError, r"frame 1 \(images/1.png\) of .* is mirrored"),
    "mirrored-world": (lambda d: d.update(applied_transform=[[-1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]), ValueError, "`applied_transform` is mirrored"),
    "focal-zero": (lambda d: d.update(fl_x=0), ValueError, "frame 0 .*focal length `fl_x` is 0 pixels"),
    "focal-negative": (lambda d: d.update(fl_y=-5), ValueError, "`fl_y` is -5 pixels"),
    "focal-tiny": (lambda d: d.update(fl_y=1e-300), ValueError, "`fl_y` is 1e-300 pixels"),
    "focal-string": (lambda d: d.update(fl_x="40"), ValueError, "`fl_x` is '40'; expected a number"),
    "focal-none": (lambda d: [d.pop("fl_x"), d.pop("fl_y")], ValueError, "neither `fl_x` nor `camera_angle_x`"),
    "angle": (lambda d: [d.pop("fl_x"), d.update(camera_angle_x=54)], ValueError, "`camera_angle_x` is 54; expected radians"),
    "distorted": (lambda d: d.update(k1=-0.05), ValueError, "`k1` is -0.05, so its picture is distorted; undistort"),
    "distorted-frame": (lambda d: d["frames"][3].update(p2=0.01), ValueError, "frame 3 .*`p2` is 0.01"),
    "distorted-list": (lambda d: d["frames"][3].update(distortion_params=[0, 0.1]), ValueError, r"`distortion_params\[1\]` is 0.1"),
    "fisheye": (lambda d: d.update(camera_model="OPENCV_FISHEYE"), ValueError, "`camera_model` is 'OPENCV_FISHEYE'"),
    "is-fisheye": (lambda d: d.update(is_fisheye=True), ValueError, "`is_fisheye` is True"),
    "model-type": (lambda d: d.update(camera_model={}), ValueError, "`camera_model` is an object of 0 keys"),
    "no-frames": (lambda d: d.update(frames=[]), ValueError, "has 0 frames"),
    "frames-type": (lambda d: d.update(frames={"0": {}}), ValueError, "`frames` is an object of 1 keys"),
    "frame-type": (lambda d: d["frames"].__setitem__(2, 7), ValueError, "frame 2 of .* is 7; expected an object"),
}  # fmt: skip


@pytest.fixture
def scene(tmp_path):
    """A good scene beside which lies what it must not reach, and its data."""
    folder = tmp_path / "scene"
    data = samples.nerfstudio(folder)
    samples.solid(tmp_path, "outside.png", (9, 9, 9))
    samples.solid(folder, "small.png", (9, 9, 9), (8, 8))
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    (folder / "links").symlink_to(tmp_path)
    (folder / "loop.png").symlink_to(folder / "loop.png")
    os.mkfifo(folder / "fifo.png")
    return folder, data


@pytest.mark.parametrize("fault", DATA_FAULTS)
def test_faults_of_the_data_are_named(scene, fault):
    folder, data = scene
    change, error, message = DATA_FAULTS[fault]
    change(data)
    samples.write(folder, data)
    before = sorted(folder.rglob("*"))
    with pytest.raises(error, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000
    assert str(folder) in str(caught.value)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff\xfe\xff", "is not JSON"),
        (b"[1]", "holds a list of 1; expected a JSON object"),
        (b"null", "expected a JSON object"),
        (b"[" * 1_000_000, "nested too deeply"),
        (b'{"frames": ' + b"[" * 500_000, "nested too deeply"),
        (b'{"frames": ' + b"[" * 500 + b"]" * 500 + b"}", "frame 0 of .* is a list of 1"),
        (b'{"frames": [' + b"9" * 5000 + b"]}", "is not JSON"),
    ],
    ids=["empty", "cut", "bytes", "list", "null", "deep", "deep-frames", "deep-valid", "digits"],
)
def test_files_that_are_no_json_objects(tmp_path, content, message):
    (tmp_path / "transforms.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


def test_too_many_frames_are_refused_before_any_picture_is_looked_at(tmp_path):
    samples.write(tmp_path, {"fl_x": 1.0, "frames": [{"file_path": "no.png"}] * 100_000})
    start = time.perf_counter()
    with pytest.raises(ValueError, match="has 100000 frames; expected 1 to 10000"):
        load(tmp_path)
    assert time.perf_counter() - start < 2


def test_too_many_bytes_are_refused_before_they_are_read(tmp_path):
    with (tmp_path / "transforms.json").open("wb") as file:
        file.truncate(2**36)
    with pytest.raises(ValueError, match="has 68719476736 bytes, more than"):
        load(tmp_path)


def test_the_scene_file_must_not_be_a_link_out(tmp_path):
    folder = tmp_path / "scene"
    samples.nerfstudio(folder)
    (folder / "transforms.json").rename(tmp_path / "transforms.json")
    (folder / "transforms.json").symlink_to(tmp_path / "transforms.json")
    with pytest.raises(ValueError, match="a link out of"):
        load(folder)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"train_ids": [0, 4], "test_ids": []}, "`train_ids` is a list of 2; expected a list of frames, each 0 to 3"),
        ({"train_ids": [0], "test_ids": [-1]}, "`test_ids` is a list of 1"),
        ({"train_ids": [True], "test_ids": []}, "`train_ids`"),
        ({"train_ids": [0]}, "`test_ids` is missing"),
        ([], "expected a JSON object"),
    ],
)
def test_splits_must_count_the_frames(tmp_path, split, message):
    samples.nerfstudio(tmp_path)
    samples.write(tmp_path, split, "train_test_split_1.json")
    with pytest.raises(ValueError, match=rf"train_test_split_1.json\b.*{message}"):
        load(tmp_path)


def png(width, height, pixels=b""):
    """A PNG whose header claims a size."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


PICTURE_FAULTS = {
    "empty": (b"", "cannot be used as a picture"),
    "text": (b"GIF89a, or so it says", "cannot be used as a picture"),
    "bomb": (png(60_000, 60_000), "cannot be used as a picture"),
    "large": (png(9_000, 9_000), "9000 x 9000 pixels are more than"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 48 32\n", "cannot be used as a picture"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("fault", PICTURE_FAULTS)
def test_faults_of_a_picture_are_named(tmp_path, fault):
    content, message = PICTURE_FAULTS[fault]
    samples.nerfstudio(tmp_path)
    (tmp_path / "images/2.png").write_bytes(content)
    with pytest.raises(ValueError, match=rf"frame 2 \(images/2.png\) .*{message}"):
        load(tmp_path)


def test_truncated_pictures_are_named(tmp_path):
    samples.nerfstudio(tmp_path)
    whole = (tmp_path / "images/2.png").read_bytes()
    # The last four bytes are a checksum of nothing.
    for length in range(0, len(whole) - 4, 7):
        (tmp_path / "images/2.png").write_bytes(whole[:length])
        with pytest.raises(ValueError, match="frame 2 .* cannot be used as a picture"):
            load(tmp_path)


def test_a_truncated_jpeg_is_named_when_it_is_read(tmp_path):
    data = samples.nerfstudio(tmp_path)
    Image.effect_noise((samples.WIDTH, samples.HEIGHT), 50).convert("RGB").save(tmp_path / "images/0.jpg")
    data["frames"][0]["file_path"] = "images/0.jpg"
    samples.write(tmp_path, data)
    whole = (tmp_path / "images/0.jpg").read_bytes()
    (tmp_path / "images/0.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(ValueError, match="0.jpg cannot be used as a picture .*truncated"):
        load(tmp_path).picture(0)


def test_a_picture_is_no_depth_and_a_depth_no_picture(tmp_path):
    data = samples.nerfstudio(tmp_path)
    data["frames"][0]["depth_file_path"] = "images/1.png"
    Image.new("I;16", (samples.WIDTH, samples.HEIGHT)).save(tmp_path / "images/1.png")
    data["frames"][2]["depth_file_path"] = "images/2.png"
    samples.write(tmp_path, data)
    scene = load(tmp_path)
    with pytest.raises(ValueError, match="mode I;16; expected 8 bits"):
        scene.picture(1)
    with pytest.raises(ValueError, match="mode RGB; expected a greyscale PNG of 16 bits"):
        scene.depth(2)
