"""Depths and masks beside the pictures: their units, their pixels, and what is refused."""

import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from couple.scenes import load
from tests.scenes import geometry, samples

SHAPE = (samples.HEIGHT, samples.WIDTH)


@pytest.fixture
def folder(tmp_path):
    geometry.nerfstudio(tmp_path)
    return tmp_path


def rewrite(folder, change):
    data = geometry.nerfstudio(folder)
    change(data)
    samples.write(folder, data)


def test_depths_are_metres_and_unknown_ones_infinitely_far(folder):
    scene = load(folder)
    depth = scene.depth(2)
    assert depth[15, 20].item() == pytest.approx(geometry.distance(2), abs=1e-3)
    assert depth[0, 0] == 0 and depth.dtype == torch.float32
    distances = scene.distances()
    assert distances.shape == (4, *SHAPE) and distances[:, :4].isinf().all()
    assert torch.equal(distances[2, 4:], depth[4:])


def test_the_unit_of_depths_is_that_of_the_file(folder):
    rewrite(folder, lambda data: data.update(depth_unit_scale_factor=0.01))
    scene = load(folder)
    assert scene.depth(0)[15, 20].item() == pytest.approx(10 * geometry.distance(0), abs=1e-2)
    assert scene[[0]].fitted(8, 8).depth_unit == 0.01


def test_depths_of_numpy_have_the_same_unit(folder):
    values = torch.rand(SHAPE, dtype=torch.float64) * 3000
    values[0, 0], values[0, 1] = torch.nan, torch.inf
    np.save(folder / "depth/0.npy", values.numpy())
    rewrite(folder, lambda data: data["frames"][0].update(depth_file_path="depth/0.npy"))
    depth = load(folder).depth(0)
    assert torch.allclose(depth[1:], values[1:].float() / 1000)
    assert depth[0, 0] == 0 and depth[0, 1] == torch.inf


def test_masks_are_cut_and_scaled_as_the_pictures(folder):
    scene = load(folder)
    expected = torch.zeros(SHAPE, dtype=torch.bool)
    expected[geometry.ROWS, geometry.COLUMNS] = True
    assert torch.equal(scene.mask(3), expected)
    assert torch.equal(scene.cropped(4, 6, 20, 30)[[3]].mask(0), expected[4:24, 6:36])
    assert torch.equal(scene.resized(16, 24).mask(3), expected[1::2, 1::2])


def test_a_frame_without_a_mask_says_so(folder):
    rewrite(folder, lambda data: data["frames"][1].pop("mask_path"))
    scene = load(folder)
    assert scene.masks[1] is None and scene[[0, 2]].masks == (scene.masks[0], scene.masks[2])
    with pytest.raises(ValueError, match=r"frame 1 \(images/1.png\) has no mask; .* `mask_path`"):
        scene.mask(1)


class Evil:
    def __reduce__(self):
        return print, ("run",)


def archive(_):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        file.writestr("a.npy", b"x")
    return data.getvalue()


def array(values, **options):
    data = io.BytesIO()
    np.save(data, values, **options)
    return data.getvalue()


BAD = {
    "pickle": lambda _: array(np.array([[Evil()]], dtype=object), allow_pickle=True),
    "archive": archive,
    "text": lambda _: b"1 2 3",
    "empty": lambda _: b"",
    "cut": lambda _: array(np.ones(SHAPE))[:-8],
    "flat": lambda _: array(np.ones(12)),
    "records": lambda _: array(np.zeros(SHAPE, dtype=[("a", "f4")])),
    "words": lambda _: array(np.full(SHAPE, "far")),
    "complex": lambda _: array(np.ones(SHAPE, complex)),
    "huge": lambda _: array(np.ones((2, 2))).replace(b"(2, 2)", b"(9999999, 9999999)"),
    "size": lambda _: array(np.ones((5, 5))),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_array_of_depths_is_refused_without_being_read(folder, kind, capsys):
    (folder / "depth/0.npy").write_bytes(BAD[kind](folder))
    rewrite(folder, lambda data: data["frames"][0].update(depth_file_path="depth/0.npy"))
    with pytest.raises(ValueError, match=r"frame 0 .*depth/0.npy (cannot be read as an array|holds|has 5 x 5 pixels)"):
        load(folder)
    assert "run" not in capsys.readouterr().out


def test_negative_depths_are_refused_when_read(folder):
    np.save(folder / "depth/0.npy", np.full(SHAPE, -1.0))
    rewrite(folder, lambda data: data["frames"][0].update(depth_file_path="depth/0.npy"))
    with pytest.raises(ValueError, match="has negative depths"):
        load(folder).depth(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(depth_unit_scale_factor=0), "`depth_unit_scale_factor` is 0; expected metres"),
        (lambda data: data.update(depth_unit_scale_factor="mm"), "`depth_unit_scale_factor` is 'mm'"),
        (lambda data: data["frames"][2].update(mask_path="../mask.png"), "`mask_path` is '../mask.png'; expected a"),
        (lambda data: data["frames"][2].update(mask_path=7), "`mask_path` is 7"),
        (lambda data: data["frames"][2].update(mask_path="none.png"), "frame 2 .*there is no picture"),
        (lambda data: data["frames"][2].update(depth_file_path="none.npy"), "frame 2 .*there is no depth"),
    ],
    ids="unit word outside type mask depth".split(),
)
def test_bad_entries_are_refused(folder, change, message):
    rewrite(folder, change)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load(folder)


def test_a_mask_of_another_size_is_refused(folder):
    Image.new("L", (8, 8)).save(folder / "masks/1.png")
    with pytest.raises(ValueError, match="frame 1 .*8 x 8 pixels and .* 32 x 48"):
        load(folder)
