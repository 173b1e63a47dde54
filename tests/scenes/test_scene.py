"""Scenes: pixels and intrinsics move together, and pictures come out in one form."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from couple.scenes import Cameras, Scene, intrinsics, load, orbit, save
from tests.scenes import samples

HEIGHT, WIDTH = 40, 60


@pytest.fixture
def dotted(tmp_path):
    """A white 4 x 4 dot on black in each of three pictures, and where its centre is, (x, y)."""
    centres = [(22.0, 14.0), (30.0, 20.0), (40.0, 26.0)]
    paths = []
    for i, (x, y) in enumerate(centres):
        pixels = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
        pixels[int(y) - 2 : int(y) + 2, int(x) - 2 : int(x) + 2] = 255
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(pixels).save(paths[-1])
    # The point (x, y, 1) in front of a camera with focal length 1 and no centre is the pixel (x, y).
    cameras = Cameras(torch.eye(4).repeat(3, 1, 1), torch.eye(3), HEIGHT, WIDTH)
    return Scene(tuple(paths), cameras, ("0", "1", "2")), centres


def centroid(picture):
    weights = np.asarray(picture.convert("L"), dtype=float)
    rows, columns = np.indices(weights.shape) + 0.5
    return (weights * columns).sum() / weights.sum(), (weights * rows).sum() / weights.sum()


CHANGES = {
    "as-is": lambda scene: scene,
    "halved": lambda scene: scene.resized(20, 30),
    "stretched": lambda scene: scene.resized(80, 90),
    "cropped": lambda scene: scene.cropped(5, 10, 30, 40),
    "square": lambda scene: scene.fitted(40, 40),
    "tall": lambda scene: scene.fitted(60, 50),
    "chained": lambda scene: scene.resized(80, 120).cropped(10, 20, 60, 80).fitted(45, 45).resized(30, 40),
    "chosen": lambda scene: scene.cropped(5, 10, 30, 40)[[2, 0]][::-1].fitted(20, 20),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_dot_stays_where_its_camera_sees_it(dotted, change):
    scene, centres = dotted
    changed = CHANGES[change](scene)
    for i, name in enumerate(changed.names):
        x, y = centres[int(name)]
        expected = (changed.cameras.K[i] @ torch.tensor([x, y, 1.0], dtype=torch.float64))[:2].tolist()
        picture = changed.picture(i)
        assert picture.size == (changed.cameras.width, changed.cameras.height)
        assert centroid(picture) == pytest.approx(expected, abs=0.1)


def test_an_integer_crop_is_exact(dotted):
    scene, _ = dotted
    whole = np.asarray(scene.picture(0))
    assert np.array_equal(np.asarray(scene.cropped(5, 10, 30, 40).picture(0)), whole[5:35, 10:50])


def test_indexing(dotted):
    scene, _ = dotted
    assert scene[1].names == ("1",) and scene[-1].names == ("2",)
    assert scene[::2].names == ("0", "2") and scene[np.array([2, 1])].names == ("2", "1")
    assert scene[[2, 1]].paths == (scene.paths[2], scene.paths[1])
    assert len(scene.pictures()) == len(scene) == 3
    with pytest.raises(IndexError):
        scene[3]
    with pytest.raises(ValueError, match="no frame of the 3"):
        scene[[]]


def test_crop_outside_is_refused(dotted):
    with pytest.raises(ValueError, match="reaches outside"):
        dotted[0].cropped(20, 0, 30, 10)


def test_a_scene_needs_one_of_each():
    with pytest.raises(ValueError, match="1 paths, 2 names, 0 depths, 0 masks and 1 cameras"):
        Scene((Path("a.png"),), orbit(1, radius=1.0, elevation=0.0, height=8, width=8), ("a", "b"))


def test_transparent_pictures_lie_on_white_or_keep_their_alpha(tmp_path):
    samples.blender(tmp_path)
    scene = load(tmp_path)
    assert scene.picture(0).mode == "RGB" and scene.picture(0).getpixel((0, 0)) == (255, 127, 127)
    assert scene.picture(0, background=(0, 0, 0)).getpixel((0, 0)) == (128, 0, 0)
    assert scene.picture(0, background=None).getpixel((0, 0)) == (255, 0, 0, 128)
    assert scene.fitted(8, 8).picture(1, background=None).getpixel((3, 3)) == (0, 255, 0, 128)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK"])
def test_pictures_of_any_mode_come_out_as_rgb(tmp_path, mode):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode).save(path)
    scene = Scene((path,), orbit(1, radius=1.0, elevation=0.0, height=8, width=8), ("a",))
    assert scene.picture(0).mode == "RGB" and scene.picture(0).getpixel((4, 4)) == (255, 255, 255)


def test_a_file_of_another_size_is_refused(tmp_path):
    samples.solid(tmp_path, "a.png", (1, 2, 3))
    scene = Scene((tmp_path / "a.png",), orbit(1, radius=1.0, elevation=0.0, height=8, width=8), ("a",))
    with pytest.raises(ValueError, match="32 x 48 pixels and the scene 8 x 8"):
        scene.picture(0)


def test_depth_is_metres_at_the_pixels_shown(tmp_path):
    data = samples.nerfstudio(tmp_path)
    millimetres = np.arange(samples.HEIGHT * samples.WIDTH, dtype=np.uint16).reshape(samples.HEIGHT, samples.WIDTH) * 40
    Image.fromarray(millimetres).save(tmp_path / "depth.png")
    data["frames"][1]["depth_file_path"] = "depth.png"
    samples.write(tmp_path, data)
    scene = load(tmp_path)
    metres = torch.from_numpy(millimetres / 1000).float()
    assert torch.allclose(scene.depth(1), metres)
    assert torch.allclose(scene.cropped(4, 6, 20, 30)[[1]].depth(0), metres[4:24, 6:36])
    # Halving takes one of the four pixels under each: the nearest to the centre, below and right of it.
    assert torch.allclose(scene.resized(16, 24).depth(1), metres[1::2, 1::2])
    with pytest.raises(ValueError, match="frame 0 .* has no depth"):
        scene.depth(0)


def test_saved_scenes_load_again(tmp_path):
    cameras = orbit(3, radius=2.0, elevation=0.3, height=16, width=24)
    pictures = [Image.new("RGB", (24, 16), colour) for colour in samples.COLOURS[:3]]
    assert save(tmp_path / "new/scene", cameras, pictures) == tmp_path / "new/scene/transforms.json"
    scene = load(tmp_path / "new/scene")
    assert torch.equal(scene.cameras.c2w, cameras.c2w) and torch.equal(scene.cameras.K, cameras.K)
    assert [np.array_equal(*pair) for pair in zip(scene.pictures(), pictures, strict=True)] == [True] * 3


def test_saved_pictures_keep_their_names(tmp_path):
    cameras = orbit(2, radius=2.0, elevation=0.3, height=8, width=8)
    save(tmp_path / "scene", cameras, [Image.new("RGB", (8, 8))] * 2, names=["left", "right"])
    assert load(tmp_path / "scene").names == ("images/left.png", "images/right.png")
    for names in (["a", "a"], ["a"], ["a", "b/c"], ["a", ".."], ["a", ""]):
        with pytest.raises(ValueError, match="give 2 different names of files"):
            save(tmp_path / "other", cameras, [Image.new("RGB", (8, 8))] * 2, names=names)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("count", "size", "mode", "skew", "message"),
    [
        (2, (24, 16), "RGB", 0, "2 pictures and 3 cameras"),
        (3, (16, 24), "RGB", 0, r"give cameras.resized\(24, 16\)"),
        (3, (24, 16), "F", 0, r"picture.convert\('RGB'\)"),
        (3, (24, 16), "RGB", 1, "skew"),
    ],
    ids=["count", "size", "mode", "skew"],
)
def test_save_refuses_and_writes_nothing(tmp_path, count, size, mode, skew, message):
    K = intrinsics(1.0, 16, 24)
    K[0, 1] = skew
    cameras = Cameras(torch.eye(4).repeat(3, 1, 1), K, 16, 24)
    with pytest.raises(ValueError, match=message):
        save(tmp_path / "scene", cameras, [Image.new(mode, size)] * count)
    assert not list(tmp_path.iterdir())


def test_save_does_not_overwrite(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    cameras = orbit(1, radius=2.0, elevation=0.3, height=8, width=8)
    with pytest.raises(ValueError, match="not an empty folder"):
        save(tmp_path, cameras, [Image.new("RGB", (8, 8))])
