"""Views of planes and steps whose projections are known by hand, and MEt3R against its own code."""

import math
from pathlib import Path

import pytest
import torch

from couple.metrics.consistency import met3r, reprojection_error
from couple.metrics.pointmaps import ExactDepth, Mast3r
from couple.metrics.splatting import splat
from couple.scenes.cameras import Cameras, orbit, unproject
from tests.golden import Golden

SIZE, FOCAL = 8, 8.0
K = torch.tensor([[FOCAL, 0, SIZE / 2], [0, FOCAL, SIZE / 2], [0, 0, 1]])


def shifted(*shifts):
    """Cameras side by side, each that far to the right: at depth 8 a unit is a pixel."""
    c2w = torch.eye(4).repeat(len(shifts), 1, 1)
    c2w[:, 0, 3] = torch.tensor(shifts)
    return Cameras(c2w, K, SIZE, SIZE)


def wall(views=2, depth=8.0):
    return torch.full((views, SIZE, SIZE), depth)


def ramp(offset=0.0):
    """A picture that grows by 0.05 a pixel to the right."""
    return (0.05 * torch.arange(SIZE) + 0.2 + offset).expand(3, SIZE, SIZE)


def test_equal_pictures_of_one_camera_agree():
    pictures = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)).expand(2, -1, -1, -1)
    assert reprojection_error(pictures, wall(), shifted(0.0, 0.0)) < 1e-4


@pytest.mark.parametrize("pixels", [1.0, 0.5, -2.25])
def test_a_picture_of_a_wall_moves_with_the_camera(pixels):
    right = torch.stack([ramp(), ramp(0.05 * pixels)])
    wrong = torch.stack([ramp(), ramp(0.05 * pixels + 0.1)])
    assert reprojection_error(right, wall(), shifted(0.0, pixels)) < 1e-3
    torch.testing.assert_close(reprojection_error(wrong, wall(), shifted(0.0, pixels)), torch.tensor(25.5))


def test_pixels_that_leave_the_picture_do_not_count():
    pictures = torch.stack([ramp(), ramp(0.1)])
    pictures[0, :, :, :2] = 0.9  # what only the first view sees, two pixels further left
    assert reprojection_error(pictures, wall(), shifted(0.0, 2.0)) < 1e-3


def step():
    """A white column at depth 4 before a black wall at depth 8, from two cameras a unit apart: it moves 2 pixels, the
    wall 1, so that each view hides a column that the other sees."""
    depths, pictures = wall(), torch.zeros(2, 3, SIZE, SIZE)
    for view, column in enumerate((4, 2)):
        depths[view, :, column], pictures[view, :, :, column] = 4.0, 1.0
    return pictures, depths, shifted(0.0, 1.0)


def test_what_is_hidden_does_not_count():
    pictures, depths, cameras = step()
    assert reprojection_error(pictures, depths, cameras) == 0
    seen_through = reprojection_error(pictures, depths, cameras, tolerance=2.0)
    # Of the 7 columns of a view that the other has, the column itself meets itself and one of the wall meets it.
    torch.testing.assert_close(seen_through, torch.tensor(255 / 7), atol=0.1, rtol=0)


def test_pairs_are_chosen_and_averaged():
    pictures = torch.stack([ramp(), ramp(0.1), ramp(0.3)])
    errors = [
        float(reprojection_error(pictures, wall(3), shifted(0.0, 0.0, 0.0), pairs=pairs))
        for pairs in ([(0, 1)], [(1, 2)], [(0, 1), (1, 2)], None)
    ]
    assert errors == pytest.approx([25.5, 51.0, 38.25, (25.5 + 51 + 76.5) / 3], rel=1e-4)


def textured_plane(cameras):
    """Pictures and depths of the plane z = 0 with a smooth texture, ray by ray."""
    origins = cameras.c2w[:, None, None, :3, 3]
    rays = unproject(torch.ones(len(cameras), cameras.height, cameras.width), cameras) - origins
    depths = -origins[..., 2] / rays[..., 2]
    places = origins + rays * depths[..., None]
    waves = [torch.sin(3 * places[..., 0]), torch.cos(2 * places[..., 1]), torch.sin(2 * places.sum(-1))]
    return (0.5 + 0.4 * torch.stack(waves, 1)).float(), depths


def test_a_perfect_render_of_a_slanted_plane_has_only_the_error_of_interpolation():
    cameras = orbit(
        4, radius=2.0, elevation=math.radians(50), azimuth=[0.0, 0.3, 0.6, 0.9], fov=0.7, height=48, width=48
    )
    pictures, depths = textured_plane(cameras)
    assert reprojection_error(pictures, depths, cameras) < 0.1
    assert reprojection_error(pictures.flip(0), depths, cameras) > 5


def test_views_that_share_nothing_are_left_out_and_nothing_at_all_is_an_error():
    away = shifted(0.0, 0.0, 100.0)
    pictures = torch.stack([ramp(), ramp(0.1), ramp(0.3)])
    torch.testing.assert_close(reprojection_error(pictures, wall(3), away), torch.tensor(25.5))
    with pytest.raises(ValueError, match=r"none of the pairs \[\(0, 2\)\] sees anything"):
        reprojection_error(pictures, wall(3), away, pairs=[(0, 2)])
    with pytest.raises(ValueError, match=r"none of the pairs \[\(0, 2\)\] sees anything"):
        met3r(pictures, ExactDepth(wall(3), away), lambda pictures: pictures, pairs=[(0, 2)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depths": wall(3)}, r"`depths` has shape \(3, 8, 8\); expected \(2, 8, 8\)"),
        ({"depths": wall(depth=float("nan"))}, "NaN or not positive"),
        ({"pictures": torch.zeros(2, 8, 8, 3)}, r"expected \(2, 3, 8, 8\)"),
        ({"pictures": torch.full((2, 3, 8, 8), 128.0)}, r"expected \[0, 1\]"),
        ({"pairs": [(0, 2)]}, "indices of the 2 views"),
        ({"pairs": []}, "indices of the 2 views"),
    ],
    ids=["depths", "nan", "pictures", "range", "index", "none"],
)
def test_wrong_input_is_refused(change, message):
    given = {"pictures": torch.zeros(2, 3, SIZE, SIZE), "depths": wall(), "cameras": shifted(0.0, 1.0)}
    with pytest.raises(ValueError, match=message):
        reprojection_error(**{**given, **change})


def constant(*vectors):
    """Features that are one vector all over each picture."""
    return lambda pictures: torch.tensor(vectors)[:, :, None, None].expand(-1, -1, *pictures.shape[2:])


def test_met3r_is_one_less_the_cosine():
    pictures, points = torch.zeros(3, 3, SIZE, SIZE), ExactDepth(wall(3), shifted(0.0, 1.0, 2.0))
    half_turn = constant([3.0, 0.0], [5.0, 5.0], [-1.0, -1.0])
    each = [float(met3r(pictures, points, half_turn, pairs=[pair])) for pair in ((0, 1), (1, 2), (0, 0))]
    assert each == pytest.approx([1 - math.sqrt(0.5), 2.0, 0.0], abs=1e-4)
    assert float(met3r(pictures, points, half_turn)) == pytest.approx((each[0] + each[1]) / 2)


def test_met3r_compares_features_where_the_geometry_puts_them():
    gen = torch.Generator().manual_seed(0)
    texture = torch.randn(5, SIZE, SIZE + 3, generator=gen)
    maps = torch.stack([texture[:, :, :SIZE], texture[:, :, 3:]])
    pictures = torch.zeros(2, 3, SIZE, SIZE)
    # At an opacity that ends within a pixel features are not mixed with their neighbours'.
    right = met3r(pictures, ExactDepth(wall(), shifted(0.0, 3.0)), lambda pictures: maps, radius=0.9)
    wrong = met3r(pictures, ExactDepth(wall(), shifted(0.0, 2.0)), lambda pictures: maps, radius=0.9)
    assert right < 1e-4 and wrong > 0.5


@pytest.mark.parametrize("pair", [0, 1])
def test_met3r_and_its_renders_are_those_of_its_own_code(pair):
    golden = Golden(Path(__file__).parent / "golden_tiny.safetensors")
    points, confidence = golden["met3r.points"][pair], golden["met3r.confidence"][pair]
    features, pictures = golden["met3r.features"], torch.zeros(3, 3, 16, 16)

    def network(view1, view2):
        one = {"pts3d": points[:1], "conf": confidence[:1]}
        return one, {"pts3d_in_other_view": points[1:], "conf": confidence[1:]}

    score = met3r(pictures, Mast3r(network), lambda pictures: features, pairs=[(pair, pair + 1)])
    torch.testing.assert_close(score, golden["met3r.score"][pair], atol=1e-6, rtol=0)
    K = Mast3r(network)(pictures, pair, pair + 1)[1]
    for view in (0, 1):
        vectors = features[pair + view].flatten(1).T
        picture, covered = splat(points[view].flatten(0, 1), vectors, K, 16, 16, radius=1.28, points_per_pixel=10)
        expected = golden["met3r.rendered"][pair, view]
        torch.testing.assert_close(picture.permute(2, 0, 1), expected, atol=2e-5, rtol=0)
        assert torch.equal(covered, expected.any(0))


def test_features_must_be_maps_of_the_pictures_size():
    with pytest.raises(ValueError, match=r"made shape \(2, 5, 4, 4\); expected \(2, C, 8, 8\)"):
        met3r(
            torch.zeros(2, 3, SIZE, SIZE),
            ExactDepth(wall(), shifted(0.0, 1.0)),
            lambda pictures: torch.zeros(2, 5, 4, 4),
        )
