"""Points rendered by hand."""

import torch

from couple.metrics.splatting import splat

K = torch.tensor([[4.0, 0, 2], [0, 4, 2], [0, 0, 1]])


def at(x, y, z):
    """The point that is seen at (x, y) pixels, at depth z."""
    return [(x - 2) / 4 * z, (y - 2) / 4 * z, z]


def render(points, features, radius=1.0, points_per_pixel=10):
    picture, covered = splat(
        torch.tensor(points), torch.tensor(features), K, 4, 4, radius=radius, points_per_pixel=points_per_pixel
    )
    return picture[..., 0], covered


def test_a_point_covers_the_pixels_whose_centres_are_near_and_fades_with_distance():
    picture, covered = render([at(1.5, 2.5, 3.0)], [[2.0]])
    assert covered.nonzero().tolist() == [[2, 1]] and picture[2, 1] == 2.0
    picture, covered = render([at(2.0, 2.5, 3.0)], [[2.0]])  # half a pixel from two centres
    assert covered.nonzero().tolist() == [[2, 1], [2, 2]]
    torch.testing.assert_close(picture[2, 1:3], torch.tensor([1.5, 1.5]))
    picture, covered = render([at(2.0, 2.5, 3.0)], [[2.0]], radius=0.625)
    assert covered.nonzero().tolist() == [[2, 1], [2, 2]]
    torch.testing.assert_close(picture[2, 1:3], torch.tensor([0.72, 0.72]))


def test_nearer_points_lie_over_farther_ones_in_any_order():
    near, far = at(1.75, 1.5, 1.0), at(1.5, 1.0, 2.0)  # opacity 1 - 1/4^2 and 1 - 1/2^2 at pixel (1, 1)
    expected = 15 / 16 * 1.0 + 1 / 16 * 3 / 4 * 100.0
    for points, features in ([near, far], [[1.0], [100.0]]), ([far, near], [[100.0], [1.0]]):
        torch.testing.assert_close(render(points, features)[0][1, 1], torch.tensor(expected))
        torch.testing.assert_close(render(points, features, points_per_pixel=1)[0][1, 1], torch.tensor(15 / 16))


def test_points_behind_the_camera_outside_or_nowhere_are_not_drawn():
    nowhere = [[0.0, 0.0, -1.0], [0.0, 0.0, 0.0], [float("nan"), 0.0, 1.0], [1e30, 0.0, 1e-20], at(9.0, 1.0, 1.0)]
    picture, covered = render(nowhere, [[1.0]] * 5)
    assert not covered.any() and not picture.any()
