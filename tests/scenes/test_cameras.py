"""Cameras: hand-computed projections, orbits, and intrinsics that follow the pixels."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from couple.scenes import Cameras, intrinsics, orbit
from couple.scenes.cameras import GL
from tests.scenes import samples


def project(cameras, i, point):
    """Pixel (x, y) of a world point: perspective division of K [R t]."""
    x = cameras.w2c[i] @ torch.tensor([*point, 1.0], dtype=torch.float64)
    pixel = cameras.K[i] @ x[:3]
    return (pixel[:2] / pixel[2]).tolist(), x[2].item()


def one_camera(c2w=None, fov=math.pi / 2, height=64, width=96):
    return Cameras(torch.eye(4)[None] if c2w is None else c2w, intrinsics(fov, height, width), height, width)


def test_a_point_lands_where_the_formula_says():
    # Focal length 32, two ahead, one right, half down: (48 + 32 * 1/2, 32 + 32 * .5/2).
    pixel, depth = project(one_camera(), 0, (1.0, 0.5, 2.0))
    assert pixel == pytest.approx([64, 40]) and depth == 2


def test_opengl_camera_on_the_x_axis_sees_the_world_upright():
    # At (2, 0, 0), facing the origin with z up: +y is to its right, +z above.
    gl = torch.tensor(samples.looking_at_origin((2.0, 0.0, 0.0)), dtype=torch.float64)
    assert gl.tolist() == [[0, 0, 1, 2], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]
    cameras = one_camera((gl @ GL)[None])
    assert project(cameras, 0, (0, 0, 0)) == ([48, 32], 2)
    assert project(cameras, 0, (0, 1, 0))[0] == pytest.approx([64, 32])
    assert project(cameras, 0, (0, 0, 1))[0] == pytest.approx([48, 16])


def test_opengl_axes_turn_back():
    poses = torch.tensor(samples.POSES, dtype=torch.float64)
    assert torch.equal(poses @ GL @ GL, poses)


def test_world_to_camera_inverts():
    cameras = orbit(5, radius=3.0, elevation=0.4, height=8, width=8)
    assert torch.allclose(cameras.w2c @ cameras.c2w, torch.eye(4, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize("position", samples.POSITIONS)
def test_orbit_equals_a_camera_that_looks_at_the_origin(position):
    x, y, z = position
    radius = math.dist((0, 0, 0), position)
    cameras = orbit(1, radius=radius, elevation=math.asin(z / radius), azimuth=[math.atan2(y, x)], height=8, width=8)
    expected = torch.tensor(samples.looking_at_origin(position), dtype=torch.float64) @ GL
    assert torch.allclose(cameras.c2w[0], expected, atol=1e-12)


def test_orbit_goes_once_round_in_equal_steps():
    cameras = orbit(4, radius=2.0, elevation=0.0, height=576, width=576)
    expected = [[2, 0, 0], [0, 2, 0], [-2, 0, 0], [0, -2, 0]]
    assert torch.allclose(cameras.c2w[:, :3, 3], torch.tensor(expected, dtype=torch.float64), atol=1e-12)
    # Stable Virtual Camera's default field of view, 54 degrees.
    assert cameras.K[0, 0, 0].item() == pytest.approx(288 / math.tan(math.radians(27)))


def test_orbit_is_defined_at_the_pole():
    cameras = orbit(2, radius=1.0, elevation=[math.pi / 2, -math.pi / 2], height=8, width=8)
    assert torch.allclose(cameras.c2w[:, 2, 3], torch.tensor([1.0, -1.0], dtype=torch.float64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_views": 0}, "at least one"),
        ({"radius": 0.0}, "positive distance"),
        ({"radius": math.nan}, "positive distance"),
        ({"elevation": 10}, "radians between -1.571 and 1.571"),
        ({"elevation": math.nan}, "radians between"),
        ({"azimuth": [0, 90]}, "radians between -6.283"),
        ({"azimuth": [0.0]}, "one angle for each of the 2 cameras"),
        ({"fov": 54}, r"math.radians\(54\)"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_orbit_refuses(change, message):
    arguments = {"num_views": 2, "radius": 2.0, "elevation": 0.0, "height": 8, "width": 8} | change
    with pytest.raises(ValueError, match=message):
        orbit(**arguments)


sizes = st.integers(1, 200)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(sizes, sizes, sizes, sizes)
def test_fitted_keeps_the_centre_and_square_pixels(height, width, new_height, new_width):
    cameras = one_camera(height=height, width=width).fitted(new_height, new_width)
    K = cameras.K[0]
    assert K[0, 0].item() == pytest.approx(K[1, 1].item())
    assert K[:2, 2].tolist() == pytest.approx([new_width / 2, new_height / 2])
    assert (cameras.height, cameras.width) == (new_height, new_width)


def test_fitted_is_a_crop_and_a_resize():
    cameras = one_camera(height=64, width=96)
    expected = cameras.cropped(0, 16, 64, 64).resized(32, 32)
    assert torch.allclose(cameras.fitted(32, 32).K, expected.K)


def test_resizing_there_and_back_returns():
    cameras = one_camera()
    assert torch.allclose(cameras.resized(17, 31).resized(64, 96).K, cameras.K)


def test_mirrored_axes_are_refused_by_the_name_of_the_camera():
    poses = torch.eye(4).repeat(2, 1, 1)
    poses[1, 0, 0] = -1
    with pytest.raises(ValueError, match="camera 1 is mirrored"):
        Cameras(poses, intrinsics(1.0, 8, 8), 8, 8)
