"""Objects moved in space, against places computed by hand."""

import math

import pytest
import torch

from couple.scenes.cameras import Cameras
from couple.scenes.edits import move_object, spread_mask
from tests.tiny.magic_fixup import FAMILIES

SIDE, FOCAL = 9, 8.0
K = torch.tensor([[FOCAL, 0, SIDE / 2], [0, FOCAL, SIDE / 2], [0, 0, 1]])
FRONT = torch.eye(4)
#: At (-4, 0, 4), looking along x: its right is -z.
SIDEWAYS = torch.tensor([[0.0, 0, 1, -4], [0, 1, 0, 0], [-1, 0, 0, 4], [0, 0, 0, 1]])


def rig(*poses):
    return Cameras(torch.stack(poses), K, SIDE, SIDE)


def pictures(views=1):
    return torch.rand(views, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def block(rows, columns, views=1):
    mask = torch.zeros(views, SIDE, SIDE, dtype=torch.bool)
    mask[:, rows, columns] = True
    return mask


def shift(x=0.0, y=0.0, z=0.0):
    transform = torch.eye(4)
    transform[:3, 3] = torch.tensor([x, y, z])
    return transform


def roll(degrees):
    """A turn about the axis of the front camera."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def test_an_object_that_stays_leaves_every_picture_as_it_was():
    # Depths that do not fit together at all: nothing may depend on that.
    generator = torch.Generator().manual_seed(0)
    depths = 3 + 2 * torch.rand(2, SIDE, SIDE, generator=generator)
    masks = torch.rand(2, SIDE, SIDE, generator=generator) < 0.5
    given = pictures(2)
    edit = move_object(given, depths, masks, rig(FRONT, SIDEWAYS), torch.eye(4))
    assert torch.equal(edit.rgba[:, :3], given)
    assert (edit.rgba[:, 3] == 1).all() and not edit.holes.any()
    assert torch.equal(edit.moved, masks)


@pytest.mark.parametrize("x, y", [(2, 0), (-1, 0), (0, 3), (1, -2)], ids=["right", "left", "down", "diagonal"])
def test_a_plane_moves_by_focal_length_times_shift_over_depth(x, y):
    depth, given, mask = 4.0, pictures(), block(slice(3, 6), slice(3, 6))
    depths = torch.where(mask, depth, 10.0)
    edit = move_object(given, depths, mask, rig(FRONT), shift(x * depth / FOCAL, y * depth / FOCAL))
    moved = mask.roll((y, x), (1, 2))
    assert torch.equal(edit.moved, moved)
    assert torch.equal(edit.holes, mask & ~moved)
    expected = torch.where(moved[:, None], given.roll((y, x), (2, 3)), given).masked_fill(edit.holes[:, None], 0)
    assert torch.equal(edit.rgba[:, :3], expected)
    assert torch.equal(edit.rgba[:, 3], (~edit.holes).float())


def test_what_leaves_the_picture_is_gone():
    mask = block(slice(3, 6), slice(6, 9))
    edit = move_object(pictures(), torch.where(mask, 4.0, 10.0), mask, rig(FRONT), shift(x=1.0))
    assert torch.equal(edit.moved, block(slice(3, 6), slice(8, 9)))
    gone = move_object(pictures(), torch.where(mask, 4.0, 10.0), mask, rig(FRONT), shift(z=-5.0))
    assert not gone.moved.any() and torch.equal(gone.holes, mask)


def test_an_object_that_comes_twice_as_near_is_twice_as_large_without_gaps():
    given, mask = pictures(), block(slice(3, 6), slice(3, 6))
    edit = move_object(given, torch.where(mask, 4.0, 10.0), mask, rig(FRONT), shift(z=-2.0))
    # Centres at -1, 0, 1 pixels from the axis go to -2, 0, 2, and each covers a pixel to either side.
    assert torch.equal(edit.moved, block(slice(1, 8), slice(1, 8)))
    assert torch.equal(edit.rgba[0, :3, 2:7:2, 2:7:2], given[0, :, 3:6, 3:6])


def test_a_turned_object_has_no_gaps():
    mask = block(slice(2, 7), slice(2, 7))
    edit = move_object(pictures(), torch.where(mask, 4.0, 10.0), mask, rig(FRONT), roll(45))
    y, x = torch.meshgrid(*(torch.arange(SIDE) - SIDE // 2,) * 2, indexing="ij")
    reach = (x.abs() + y.abs()) / math.sqrt(2)
    assert edit.moved[0][reach < 2.5].all()
    assert not edit.moved[0][reach > 2.5 + 1].any()


def test_behind_the_background_it_is_hidden():
    given, mask = pictures(), block(slice(3, 6), slice(3, 6))
    depths = torch.where(mask, 4.0, 6.0)
    depths[..., 5:] = torch.where(mask[..., 5:], 4.0, 20.0)
    edit = move_object(given, depths, mask, rig(FRONT), shift(x=2.0, z=4.0))
    # At depth 8 the centres -1, 0, 1 are at -0.5, 0, 0.5, and 2 pixels to the right.
    assert edit.moved[0, 4, 6] and not edit.moved[..., :5].any()
    left = move_object(given, depths, mask, rig(FRONT), shift(x=-2.0, z=4.0))
    assert not left.moved.any() and torch.equal(left.holes, mask)
    assert torch.equal(left.rgba[0, :3][:, ~mask[0]], given[0][:, ~mask[0]])


def test_a_camera_that_looks_from_the_side_sees_the_move_from_the_side():
    given, mask = pictures(2), block(4, 4, views=2)
    depths = torch.where(mask, 4.0, 20.0)
    edit = move_object(given, depths, mask, rig(FRONT, SIDEWAYS), shift(z=1.0))
    # Away from the front camera along its axis; 8 * 1 / 4 pixels to the left of the other.
    assert edit.moved.nonzero().tolist() == [[0, 4, 4], [1, 4, 2]]
    assert edit.holes.nonzero().tolist() == [[1, 4, 4]]
    # Each view shows the colour that it saw itself.
    assert torch.equal(edit.rgba[0, :3, 4, 4], given[0, :, 4, 4])
    assert torch.equal(edit.rgba[1, :3, 4, 2], given[1, :, 4, 4])


def test_what_a_view_could_not_see_comes_from_the_others():
    given, mask = pictures(2), block(4, 4, views=2)
    mask[0] = False
    depths = torch.where(mask, 4.0, 20.0)
    depths[0, :, :6] = 2.0  # a wall before the front camera
    edit = move_object(given, depths, mask, rig(FRONT, SIDEWAYS), shift(x=1.5))
    assert edit.moved.nonzero().tolist() == [[0, 4, 7], [1, 4, 4]]
    assert torch.equal(edit.rgba[0, :3, 4, 7], given[1, :, 4, 4])
    assert not edit.holes.any()


def test_what_a_view_saw_to_be_empty_is_not_filled_by_the_others():
    mask = block(4, 4, views=2)
    mask[0] = False
    depths = torch.where(mask, 4.0, 20.0)  # the front camera looks past the place of the object
    edit = move_object(pictures(2), depths, mask, rig(FRONT, SIDEWAYS), shift(x=1.5))
    assert edit.moved.nonzero().tolist() == [[1, 4, 4]]


def test_what_was_outside_of_a_picture_can_come_in():
    given, mask = pictures(2), block(4, 4, views=2)
    mask[0] = False
    depths = torch.where(mask, 8.0, 20.0)  # at (4, 0, 4): 8 pixels to the right of the front camera's axis
    edit = move_object(given, depths, mask, rig(FRONT, SIDEWAYS), shift(x=-2.5))
    assert edit.moved.nonzero().tolist() == [[0, 4, 7], [1, 4, 4]]
    assert torch.equal(edit.rgba[0, :3, 4, 7], given[1, :, 4, 4])


def test_equal_inputs_give_equal_bits_and_stay_as_they_are():
    mask = block(slice(2, 7), slice(2, 7), views=2)
    depths = torch.where(mask, 4.0, torch.inf)
    given = [pictures(2), depths, mask]
    copies = [tensor.clone() for tensor in given]
    first, second = (move_object(*given, rig(FRONT, SIDEWAYS), roll(30)) for _ in range(2))
    assert torch.equal(first.rgba, second.rgba)
    assert all(torch.equal(*pair) for pair in zip(given, copies, strict=True))


def test_a_mask_is_spread_to_the_pixels_that_show_the_same_places():
    right = shift(x=1.0)  # 8 * 1 / 4 pixels of disparity
    mask, other = block(slice(3, 6), slice(3, 6))[0], block(slice(3, 6), slice(1, 4))[0]
    depths = torch.where(torch.stack([mask, other]), 4.0, 10.0)
    depths[1, 3, 1] = 3.0  # something nearer
    depths[1, 0] = torch.inf
    expected = other.clone()
    expected[3, 1] = False
    masks = spread_mask(mask, 0, depths, rig(FRONT, right))
    assert torch.equal(masks[0], mask) and torch.equal(masks[1], expected)


def test_an_edit_is_what_magic_fixup_takes():
    cameras = rig(FRONT).resized(16, 16)
    mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    mask[0, 4:8, 4:8] = True
    given = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    edit = move_object(given, torch.where(mask, 4.0, 10.0), mask, cameras, shift(x=1.0))
    generator = torch.Generator().manual_seed(0)
    pipe = FAMILIES["magic_fixup"].pipeline()
    images = pipe(edit.rgba, given, num_inference_steps=2, generator=generator, output_type="pt").images
    assert images.shape == given.shape and images.isfinite().all()


def call(**changes):
    mask = block(4, 4)
    given = {"pictures": pictures(), "depths": torch.where(mask, 4.0, 10.0), "masks": mask, "transform": torch.eye(4)}
    return move_object(**{**given, **changes}, cameras=rig(FRONT))


MIRROR = torch.diag(torch.tensor([-1.0, 1, 1, 1]))
NAN = torch.full((1, SIDE, SIDE), 4.0).masked_fill(block(4, 4), torch.nan)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"depths": NAN}, r"view 0 has 1 depths that are NaN, not positive, or infinite under its mask"),
        ({"depths": torch.zeros(1, SIDE, SIDE)}, r"view 0 has 81 depths that are NaN, not positive"),
        ({"depths": torch.full((1, SIDE, SIDE), torch.inf)}, r"view 0 has 1 depths .* write inf"),
        ({"depths": torch.ones(1, 4, 4)}, r"`depths` has shape \(1, 4, 4\); expected \(1, 9, 9\)"),
        ({"masks": torch.ones(2, SIDE, SIDE) > 0}, r"`masks` has shape \(2, 9, 9\) .*expected \(1, 9, 9\), bool"),
        ({"masks": torch.ones(1, SIDE, SIDE)}, r"`masks` .* type torch.float32; expected"),
        ({"pictures": torch.ones(1, 4, SIDE, SIDE)}, r"`pictures` has shape \(1, 4, 9, 9\) .*expected \(1, 3, 9, 9\)"),
        ({"pictures": torch.ones(1, 3, SIDE, SIDE).byte()}, r"type torch.uint8; expected .* floating point"),
        ({"transform": torch.eye(3)}, r"shape \(4, 4\); got shape \(3, 3\)"),
        ({"transform": 2 * torch.eye(4)}, r"`transform` is not rigid"),
        ({"transform": MIRROR}, r"`transform` is not rigid.*no mirroring"),
        ({"transform": torch.full((4, 4), torch.nan)}, r"`transform` must be a finite matrix"),
    ],
    ids="nan zero inf depths masks float pictures bytes matrix scaled mirrored unfinite".split(),
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        call(**changes)


@pytest.mark.parametrize(
    "mask, view, message",
    [
        (block(4, 4)[0], 1, r"`view` is 1; there are views 0 to 0"),
        (block(4, 4), 0, r"`mask` has shape \(1, 9, 9\) .* expected \(9, 9\)"),
    ],
    ids=["view", "shape"],
)
def test_a_mask_that_does_not_fit_is_refused(mask, view, message):
    with pytest.raises(ValueError, match=message):
        spread_mask(mask, view, torch.ones(1, SIDE, SIDE), rig(FRONT))
