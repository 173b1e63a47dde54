"""COLMAP's text and binary files, against hand values and against COLMAP's own library."""

import math
import struct

import pycolmap
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from couple.scenes import load
from couple.scenes.colmap import from_colmap
from tests.scenes import samples

HALF = math.sqrt(0.5)
IMAGES = [
    ("b.png", (1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 3.0), 1),
    ("a.png", (HALF, 0.0, HALF, 0.0), (1.0, 2.0, 3.0), 1),
    ("sub/c.png", (0.8, 0.16, -0.24, math.sqrt(0.2768)), (-1.0, 0.5, 2.0), 1),
]
BINARY = pytest.mark.parametrize("binary", [True, False], ids=["binary", "text"])


def test_quarter_turn_by_hand():
    # 90 degrees about y: x_cam = (z, y, -x) + t, so the centre -R^T t is (z_t, -y_t, -x_t) as (3, -2, -1).
    c2w = from_colmap((HALF, 0.0, HALF, 0.0), (1.0, 2.0, 3.0))
    expected = [[0, 0, -1, 3], [0, 1, 0, -2], [1, 0, 0, -1], [0, 0, 0, 1]]
    assert torch.allclose(c2w, torch.tensor(expected, dtype=torch.float64))


@BINARY
def test_poses_and_intrinsics(tmp_path, binary):
    samples.colmap(tmp_path, IMAGES, binary=binary)
    scene = load(tmp_path)
    assert scene.names == ("a.png", "b.png", "sub/c.png")
    assert scene.cameras.c2w[1].tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, -3], [0, 0, 0, 1]]
    assert scene.cameras.K[0].tolist() == [[40, 0, 23], [0, 41, 17], [0, 0, 1]]
    assert scene.picture(1).getpixel((0, 0)) == samples.COLOURS[0]


@BINARY
def test_names_may_have_spaces(tmp_path, binary):
    samples.colmap(tmp_path, [("my cat 1.png", *IMAGES[0][1:])], binary=binary)
    assert load(tmp_path).names == ("my cat 1.png",)


@BINARY
def test_as_the_library_of_colmap_reads_it(tmp_path, binary):
    cameras = [
        (1, 1, samples.WIDTH, samples.HEIGHT, (40.0, 41.0, 23.0, 17.0)),
        (7, 2, samples.WIDTH, samples.HEIGHT, (33.0, 24.0, 16.0, 0.0)),
        (9, 4, samples.WIDTH, samples.HEIGHT, (35.0, 36.0, 22.0, 15.0, 0.0, 0.0, 0.0, 0.0)),
    ]
    images = [(*image[:3], camera[0]) for image, camera in zip(IMAGES, cameras, strict=True)]
    samples.colmap(tmp_path, images, cameras, binary=binary)
    assert_equals_library(load(tmp_path), pycolmap.Reconstruction(tmp_path / "sparse/0"))


@BINARY
def test_what_the_library_of_colmap_writes(tmp_path, binary):
    samples.colmap(tmp_path, IMAGES, binary=not binary)
    library = pycolmap.Reconstruction(tmp_path / "sparse/0")
    for file in (tmp_path / "sparse/0").iterdir():
        file.unlink()
    (library.write_binary if binary else library.write_text)(tmp_path / "sparse/0")
    assert_equals_library(load(tmp_path), library)


def assert_equals_library(scene, library):
    images = {image.name: image for image in library.images.values()}
    assert sorted(images) == list(scene.names)
    for i, name in enumerate(scene.names):
        w2c = torch.tensor(images[name].cam_from_world().matrix(), dtype=torch.float64)
        K = torch.tensor(library.cameras[images[name].camera_id].calibration_matrix(), dtype=torch.float64)
        assert torch.allclose(scene.cameras.w2c[i, :3], w2c, atol=1e-12)
        assert torch.equal(scene.cameras.K[i], K)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: math.hypot(*q) > 0.1), st.tuples(*[st.floats(-5, 5)] * 3))
def test_poses_go_there_and_back(qvec, tvec):
    qvec = tuple(value / math.hypot(*qvec) for value in qvec)
    c2w = from_colmap(qvec, tvec)
    w2c = torch.linalg.inv(c2w)
    back = pycolmap.Rotation3d(w2c[:3, :3].numpy()).quat  # x, y, z, w
    q = torch.tensor(qvec, dtype=torch.float64)
    found = torch.tensor([back[3], *back[:3]], dtype=torch.float64)
    assert min((found - q).norm(), (found + q).norm()) < 1e-7
    assert torch.allclose(w2c[:3, 3], torch.tensor(tvec, dtype=torch.float64), atol=1e-9)


CAMERA = samples.CAMERA
SECOND = ("b.png", (1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 3.0), 1)
FAULTS = {
    "camera": ([(*SECOND[:3], 5)], [CAMERA], "image 'b.png' of .*images.* names camera 5"),
    "zero": ([("b.png", (0.0,) * 4, (0.0,) * 3, 1)], [CAMERA], "which is not of length 1"),
    "long": ([("b.png", (2.0, 0.0, 0.0, 0.0), (0.0,) * 3, 1)], [CAMERA], "which is not of length 1"),
    "nan": ([("b.png", (math.nan, 0, 0, 1.0), (0.0,) * 3, 1)], [CAMERA], "`qvec` is nan"),
    "huge": ([("b.png", SECOND[1], (1e300, 0.0, 0.0), 1)], [CAMERA], "`tvec` is 1e.300"),
    "up": ([("../b.png", *SECOND[1:])], [CAMERA], "without '..'"),
    "absolute": ([("/etc/b.png", *SECOND[1:])], [CAMERA], "'/etc/b.png'; expected a path inside"),
    "none": ([], [CAMERA], "has 0 frames"),
    "size": ([SECOND], [(1, 1, 10, 20, (40.0,) * 4)], "camera of 20 x 10 pixels and its picture has 32 x 48"),
    "fisheye": ([SECOND], [(1, 5, 48, 32, (40.0,) * 4 + (0.0,) * 4)], "OPENCV_FISHEYE; .* undistort"),
    "distorted": ([SECOND], [(1, 2, 48, 32, (40.0, 24.0, 16.0, 0.1))], r"distortion \[0.1\]; undistort"),
    "focal": ([SECOND], [(1, 0, 48, 32, (0.0, 24.0, 16.0))], "focal lengths 0 and 0"),
}


@BINARY
@pytest.mark.parametrize("fault", FAULTS)
def test_refusals(tmp_path, fault, binary):
    images, cameras, message = FAULTS[fault]
    samples.solid(tmp_path, "images/b.png", (0, 0, 0))
    samples.sparse(tmp_path, images, cameras, binary=binary)
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


def test_a_missing_picture_is_named(tmp_path):
    samples.colmap(tmp_path, IMAGES, binary=True)
    (tmp_path / "images/b.png").unlink()
    with pytest.raises(FileNotFoundError, match="image 'b.png' of .* there is no picture"):
        load(tmp_path)


@pytest.mark.parametrize(("at", "value"), [("images", 2**40), ("cameras", 2**63), ("points", 2**40), ("points", 2**63)])
def test_counts_are_not_believed(tmp_path, at, value):
    samples.colmap(tmp_path, [SECOND], binary=True)
    file = tmp_path / f"sparse/0/{'images' if at == 'points' else at}.bin"
    data = bytearray(file.read_bytes())
    struct.pack_into("<Q", data, 0 if at != "points" else len(data) - 32, value)
    file.write_bytes(data)
    with pytest.raises(ValueError, match="frames; expected 1 to 10000|ends too early"):
        load(tmp_path)


@pytest.mark.parametrize("line", ["1 1 0 0 0 0 0 3 1", "one 1 0 0 0 0 0 3 1 b.png x", "1 1 0 0 q 0 0 3 1 b.png"])
def test_broken_lines_are_named(tmp_path, line):
    samples.colmap(tmp_path, [SECOND], binary=False)
    file = tmp_path / "sparse/0/images.txt"
    file.write_text(f"# list\n{line}\n\n")
    if line.startswith("one"):
        (tmp_path / "sparse/0/cameras.txt").write_text("1 PINHOLE 48 wide 1 1 1 1\n")
    with pytest.raises(ValueError, match="line [12] of .* expected I"):
        load(tmp_path)


@pytest.fixture(scope="module", params=[".bin", ".txt"], ids=["binary", "text"])
def broken(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("colmap")
    samples.colmap(folder, IMAGES, binary=request.param == ".bin")
    return folder, {part: (folder / f"sparse/0/{part}{request.param}").read_bytes() for part in ("cameras", "images")}


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_mutated_files_load_or_are_refused(broken, data):
    folder, files = broken
    part = data.draw(st.sampled_from(sorted(files)))
    content = bytearray(files[part])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        length = data.draw(st.sampled_from([0, 1, 4, 8, len(content)]))
        content[at : at + length] = data.draw(
            st.sampled_from([b"", b"\0", b"\xff" * 8, b"9" * 30, b"\n", b" nan ", b"-"])
        )
    ending = ".bin" if (folder / "sparse/0/images.bin").exists() else ".txt"
    file = folder / f"sparse/0/{part}{ending}"
    try:
        file.write_bytes(content)
        load(folder)
    except (ValueError, FileNotFoundError) as error:
        assert "\n" not in str(error)
    finally:
        file.write_bytes(files[part])
