"""An object of a scene moved: where it goes, and masks that only one view has."""

import pytest
import torch

from couple.scenes import load, moving
from couple.scenes.cameras import project
from tests.scenes import geometry, samples


@pytest.fixture
def scene(tmp_path):
    geometry.nerfstudio(tmp_path)
    return load(tmp_path)


def middle(mask):
    return mask.nonzero().double().mean(0) + 0.5


def test_nothing_moved_leaves_every_picture_as_it_was(scene):
    edit = moving.moved(scene, (0.0, 0.0, 0.0))
    expected = torch.stack([scene.mask(i) for i in range(4)])
    assert torch.equal(edit.moved, expected) and not edit.holes.any()


def test_a_shift_goes_where_the_cameras_see_it(scene):
    shift = torch.tensor([0.0, 0.0, 0.2], dtype=torch.float64)
    front = scene[[0]]
    edit = moving.moved(front, shift.tolist())
    masked = front.mask(0)
    seen = project(shift, front.cameras, 0)[0] - project(torch.zeros(3).double(), front.cameras, 0)[0]
    # Places are x and y, pixels rows and columns.
    assert torch.allclose(middle(edit.moved[0]) - middle(masked), seen.flip(0), atol=0.5)
    assert edit.holes.any()


def test_a_turn_is_about_the_vertical_through_the_object():
    about = torch.tensor([1.0, 2.0, 3.0])
    transform = moving.rigid_move((0.0, 0.0, 0.5), 90.0, about)
    point = torch.tensor([2.0, 2.0, 3.0, 1.0], dtype=torch.float64)
    assert torch.allclose(transform @ point, torch.tensor([1.0, 3.0, 3.5, 1.0], dtype=torch.float64))


def test_one_mask_is_carried_to_views_that_see_the_same(tmp_path):
    data = geometry.nerfstudio(tmp_path)
    data["frames"] = [data["frames"][0], {**data["frames"][0]}]
    del data["frames"][1]["mask_path"]
    samples.write(tmp_path, data)
    scene = load(tmp_path)
    masks = moving.object_masks(scene, scene.distances())
    assert torch.equal(masks[1], masks[0]) and masks[0].any()


def test_without_masks_there_is_nothing_to_move(tmp_path):
    data = geometry.nerfstudio(tmp_path)
    for frame in data["frames"]:
        del frame["mask_path"]
    samples.write(tmp_path, data)
    with pytest.raises(ValueError, match="no view has a mask"):
        moving.moved(load(tmp_path), (0.1, 0.0, 0.0))


def test_an_empty_mask_has_no_object(scene, tmp_path):
    for i in range(4):
        samples.solid(tmp_path, f"masks/{i}.png", (0, 0, 0))
    with pytest.raises(ValueError, match="the masks of these views are empty"):
        moving.moved(load(tmp_path), (0.1, 0.0, 0.0))
