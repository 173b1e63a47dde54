"""transforms.json of nerfstudio, Stable Virtual Camera and NeRF-synthetic, and plain folders, against hand values."""

import math

import pytest
import torch

from couple.scenes import load, orbit
from tests.scenes import samples


def expected_c2w():
    """OpenGL to OpenCV by hand: the second and third column change sign."""
    poses = torch.tensor(samples.POSES, dtype=torch.float64)
    return torch.stack([poses[..., 0], -poses[..., 1], -poses[..., 2], poses[..., 3]], dim=-1)


def test_nerfstudio(tmp_path):
    samples.nerfstudio(tmp_path)
    scene = load(tmp_path)
    assert torch.equal(scene.cameras.c2w, expected_c2w())
    assert scene.cameras.K[3].tolist() == [[40, 0, 23], [0, 41, 17], [0, 0, 1]]
    assert scene.names == ("images/0.png", "images/1.png", "images/2.png", "images/3.png")
    assert [scene.picture(i).getpixel((0, 0)) for i in range(4)] == samples.COLOURS
    assert (scene.cameras.height, scene.cameras.width) == (samples.HEIGHT, samples.WIDTH)


def test_the_origin_is_in_the_middle_of_every_picture(tmp_path):
    samples.nerfstudio(tmp_path)
    cameras = load(tmp_path).cameras
    pixels = cameras.K @ cameras.w2c[:, :3, 3:]
    assert torch.allclose(pixels[:, :2] / pixels[:, 2:], torch.tensor([[23.0], [17.0]], dtype=torch.float64))
    assert (pixels[:, 2] > 0).all()


def test_intrinsics_of_each_frame_and_poses_of_three_rows(tmp_path):
    data = samples.nerfstudio(tmp_path)
    for key in ("fl_x", "fl_y", "cx", "cy", "w", "h"):
        del data[key]
    for i, frame in enumerate(data["frames"]):
        frame |= {"fl_x": 30 + i, "fl_y": 31.5 + i, "cx": 24, "cy": 16, "w": samples.WIDTH, "h": samples.HEIGHT * 1.0}
        frame["transform_matrix"] = frame["transform_matrix"][:3]
    samples.write(tmp_path, data)
    scene = load(tmp_path / "transforms.json")
    assert torch.equal(scene.cameras.c2w, expected_c2w())
    assert scene.cameras.K[2].tolist() == [[32, 0, 24], [0, 33.5, 16], [0, 0, 1]]


def test_intrinsics_for_all_count_before_those_of_a_frame(tmp_path):
    data = samples.nerfstudio(tmp_path)
    data["frames"][0]["fl_x"] = 99
    data["cx"], data["frames"][0]["cx"] = None, 20.0
    samples.write(tmp_path, data)
    K = load(tmp_path).cameras.K
    assert K[:, 0, 0].tolist() == [40] * 4 and K[:, 0, 2].tolist() == [20, 24, 24, 24]


def test_blender(tmp_path):
    samples.blender(tmp_path)
    scene = load(tmp_path)
    # 90 degrees across 48 pixels: a focal length of 24.
    expected = torch.tensor([[24, 0, 24], [0, 24, 16], [0, 0, 1]], dtype=torch.float64)
    assert torch.allclose(scene.cameras.K, expected) and torch.equal(scene.cameras.c2w, expected_c2w())
    assert [path.name for path in scene.paths] == ["r_0.png", "r_1.png", "r_2.png", "r_3.png"]
    assert scene.names[0] == "./train/r_0"


def test_angles_of_both_sides(tmp_path):
    data = samples.blender(tmp_path) | {"camera_angle_y": 2 * math.atan(0.5)}
    samples.write(tmp_path, data)
    assert load(tmp_path).cameras.K[0, 1, 1].item() == pytest.approx(32)


def test_kind_chooses_among_the_files_of_a_folder(tmp_path):
    samples.blender(tmp_path)
    data = samples.nerfstudio(tmp_path)
    samples.write(tmp_path, data | {"frames": data["frames"][:1]}, "transforms_test.json")
    assert load(tmp_path).names[0] == load(tmp_path, kind="nerfstudio").names[0] == "images/0.png"
    assert load(tmp_path, kind="blender").names[0] == "./train/r_0"
    assert len(load(tmp_path / "transforms_test.json")) == 1


def test_splits_of_stable_virtual_camera(tmp_path):
    samples.nerfstudio(tmp_path)
    samples.write(tmp_path, {"train_ids": [2, 0], "test_ids": [1, 3]}, "train_test_split_2.json")
    samples.write(tmp_path, {"train_ids": [1], "test_ids": []}, "train_test_split_1.json")
    scene = load(tmp_path)
    assert set(scene.splits) == {"1", "2"}
    assert scene[scene.splits["2"].train].names == ("images/2.png", "images/0.png")
    assert scene.fitted(8, 8).splits["2"].test == (1, 3)
    # Indices count the frames of the file, so a choice of them has no splits.
    assert scene[[0]].splits == {}


def test_duplicate_keys_count_last(tmp_path):
    samples.nerfstudio(tmp_path)
    file = tmp_path / "transforms.json"
    file.write_text('{"fl_x": "no",' + file.read_text()[1:])
    assert load(tmp_path).cameras.K[0, 0, 0] == 40


def test_a_link_inside_the_folder_is_followed(tmp_path):
    data = samples.nerfstudio(tmp_path)
    (tmp_path / "alias.png").symlink_to(tmp_path / "images/2.png")
    data["frames"][0]["file_path"] = "alias.png"
    samples.write(tmp_path, data)
    assert load(tmp_path).picture(0).getpixel((0, 0)) == samples.COLOURS[2]


def test_a_plain_folder_takes_the_cameras_it_is_given(tmp_path):
    for name, colour in zip(["b.png", "a.jpg", "c.PNG"], samples.COLOURS, strict=False):
        samples.solid(tmp_path, name, colour)
    (tmp_path / "notes.txt").write_text("not a picture")
    cameras = orbit(3, radius=2.0, elevation=0.1, height=samples.HEIGHT, width=samples.WIDTH)
    scene = load(tmp_path, cameras=cameras)
    assert scene.names == ("a.jpg", "b.png", "c.PNG") and torch.equal(scene.cameras.c2w, cameras.c2w)
    assert scene.picture(1).getpixel((0, 0)) == samples.COLOURS[0]
    with pytest.raises(ValueError, match=r"no cameras; give them, e.g. load\(.*orbit\(3, "):
        load(tmp_path)
    with pytest.raises(ValueError, match="3 pictures and 2 cameras"):
        load(tmp_path, cameras=cameras[:2])
    with pytest.raises(ValueError, match=r"give cameras.resized\(32, 48\)"):
        load(tmp_path, cameras=cameras.resized(64, 96))


def test_cameras_are_for_plain_folders_only(tmp_path):
    samples.nerfstudio(tmp_path)
    with pytest.raises(ValueError, match="has its own cameras"):
        load(tmp_path, cameras=orbit(4, radius=1.0, elevation=0.0, height=32, width=48))


@pytest.mark.parametrize(
    ("name", "kind", "error", "message"),
    [
        ("absent", None, FileNotFoundError, "there is no scene"),
        ("empty", None, FileNotFoundError, "holds no scene; expected transforms.json"),
        ("empty", "blender", FileNotFoundError, "there is no file .*transforms_train.json"),
        ("empty", "colmap", FileNotFoundError, "has no sparse/0"),
        ("empty", "pictures", ValueError, "has 0 frames"),
        ("empty", "llff", ValueError, "expected one of nerfstudio, blender, colmap, pictures"),
        ("a.png", None, ValueError, "is a file; give the folder"),
        ("nul\0", None, FileNotFoundError, "there is no scene"),
    ],
)
def test_where_there_is_no_scene(tmp_path, name, kind, error, message):
    (tmp_path / "empty").mkdir()
    samples.solid(tmp_path, "a.png", (0, 0, 0))
    with pytest.raises(error, match=message):
        load(tmp_path / name, kind=kind)
