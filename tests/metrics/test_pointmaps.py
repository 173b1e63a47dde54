"""Points of known depth, and MASt3R's with MEt3R's focal length, by hand."""

import math
import sys

import pytest
import torch

from couple.metrics.pointmaps import ExactDepth, Mast3r
from couple.scenes.cameras import Cameras, intrinsics

K = intrinsics(math.radians(90), 4, 4)  # focal length 2
PICTURES = torch.zeros(2, 3, 4, 4)


def facing():
    """Two cameras that look at each other from 10 units away."""
    c2w = torch.eye(4).repeat(2, 1, 1)
    c2w[1] = torch.diag(torch.tensor([-1.0, 1, -1, 1]))
    c2w[1, 2, 3] = 10
    return Cameras(c2w, K, 4, 4)


def test_exact_points_are_in_the_axes_of_the_first_camera():
    depths = torch.stack([torch.full((4, 4), 4.0), torch.full((4, 4), 6.0)])
    points, intrinsics_ = ExactDepth(depths, facing())(PICTURES, 0, 1)
    assert points.dtype == torch.float32 and torch.equal(intrinsics_, K)
    # The middle of pixel (row 0, column 3) is 1.5 pixels right of the axis and 1.5 above.
    torch.testing.assert_close(points[0, 0, 3], torch.tensor([1.5 / 2 * 4, -1.5 / 2 * 4, 4.0]))
    torch.testing.assert_close(points[1, 0, 3], torch.tensor([-1.5 / 2 * 6, -1.5 / 2 * 6, 4.0]))
    swapped, _ = ExactDepth(depths, facing())(PICTURES, 1, 0)
    torch.testing.assert_close(swapped[1, 0, 3], torch.tensor([-1.5 / 2 * 4, -1.5 / 2 * 4, 6.0]))


def test_where_nothing_is_seen_there_is_no_point():
    depths = torch.full((2, 4, 4), 5.0)
    depths[0, 1, 2] = torch.inf
    points, _ = ExactDepth(depths, facing())(PICTURES, 0, 1)
    finite = points.isfinite().all(-1)
    assert (~finite).nonzero().tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("depths", "message"),
    [(torch.ones(2, 3, 4), r"expected \(2, 4, 4\)"), (torch.zeros(2, 4, 4), "not positive")],
    ids=["shape", "zero"],
)
def test_depths_must_fit(depths, message):
    with pytest.raises(ValueError, match=message):
        ExactDepth(depths, facing())


def test_mast3r_is_asked_about_both_views_and_its_focal_length_is_the_median_vote():
    pictures, size, focal = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)), 16, 24.0
    column = torch.arange(size) - size / 2
    x, y = torch.meshgrid(column, column, indexing="xy")
    points = torch.stack([x / focal, y / (2 * focal), torch.ones(size, size)], -1)
    points[3, :4] = 7.0  # a few wrong pixels change no median
    asked = []

    def network(view1, view2):
        asked.append((view1["img"], view2["img"]))
        confidence = torch.full((1, size, size), 3.0)
        return {"pts3d": points[None], "conf": confidence}, {"pts3d_in_other_view": points[None], "conf": confidence}

    got, K = Mast3r(network)(pictures, 2, 0)
    torch.testing.assert_close(got, torch.stack([points, points]))
    torch.testing.assert_close(K, torch.tensor([[(16 + 24) / 2, 0, 8], [0, (16 + 48) / 2, 8], [0, 0, 1]]))
    torch.testing.assert_close(torch.cat(asked[0]), pictures[[2, 0]] * 2 - 1)


@pytest.mark.parametrize("size", [(16, 32), (24, 24)], ids=str)
def test_mast3r_takes_square_pictures_of_whole_patches(size):
    with pytest.raises(ValueError, match="resize them to 256 x 256"):
        Mast3r(None)(torch.zeros(2, 3, *size), 0, 1)


def test_a_missing_package_is_named_with_its_licence_and_a_way_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "mast3r", None)
    with pytest.raises(ModuleNotFoundError, match=r"CC BY-NC-SA 4.0\); run: git clone --recursive .*ExactDepth"):
        Mast3r.load()
