"""Normalised scenes and ray maps against geometry done another way."""

import numpy as np
import pytest
import torch

from couple.backends.seva.cameras import normalised, pluecker
from couple.backends.seva.guidance import multiview_scales, temporal_scales
from couple.scenes.cameras import Cameras
from tests.tiny.seva import orbit


def placed(*positions):
    """Cameras that look along z from these positions."""
    c2w = torch.eye(4).repeat(len(positions), 1, 1)
    c2w[:, :3, 3] = torch.tensor(positions)
    return Cameras(c2w, torch.tensor([[8.0, 0, 4], [0, 8, 4], [0, 0, 1]]), 8, 8)


def test_a_scene_is_centred_and_scaled_by_its_first_camera():
    cameras = normalised(placed([0.0, 0, 0], [4.0, 0, 0], [5.0, 3, 0]), camera_scale=5.0)
    position = cameras.c2w[:, :3, 3]
    assert position.mean(dim=0).abs().max() < 1e-12
    assert float(position[0].norm()) == pytest.approx(5.0)
    assert position[1, 0] - position[0, 0] == pytest.approx(4 * 5 / np.hypot(3, 1))


def test_the_callers_cameras_are_left_alone():
    cameras = placed([0.0, 0, 0], [4.0, 0, 0])
    before = cameras.c2w.clone()
    normalised(cameras)
    assert torch.equal(cameras.c2w, before)


def test_a_far_camera_does_not_move_the_centre():
    near = [[float(k % 7), float(k // 7), 0.0] for k in range(49)]
    kept = normalised(placed(*near))
    with_outlier = normalised(placed(*near, [0.0, 0.0, 5000.0]))
    torch.testing.assert_close(with_outlier.c2w[:49], kept.c2w)


def test_a_first_camera_at_the_centre_multiplies_distances():
    cameras = normalised(placed([0.0, 0, 0], [1.0, 0, 0], [-1.0, 0, 0]), camera_scale=2.0)
    assert cameras.c2w[:, 0, 3].tolist() == [0, 2, -2]


def test_rays_pass_through_the_camera_and_the_pixel():
    """A point seen at a pixel lies on the line with that pixel's Pluecker coordinates: moment = point x direction."""
    cameras = orbit(3).resized(6, 9)
    rays = pluecker(cameras).numpy()
    to_first = np.linalg.inv(cameras.c2w[0].numpy())
    for view in range(3):
        K, c2w = cameras.K[view].numpy(), cameras.c2w[view].numpy()
        for row, column in [(0, 0), (5, 8), (2, 7)]:
            depth = 1.7 + view
            x = (column + 0.5 - K[0, 2]) / K[0, 0] * depth
            y = (row + 0.5 - K[1, 2]) / K[1, 1] * depth
            point = (to_first @ c2w @ np.array([x, y, depth, 1.0]))[:3]
            origin = (to_first @ c2w)[:3, 3]
            direction, moment = rays[view, :3, row, column], rays[view, 3:, row, column]
            assert np.allclose(direction, (point - origin) / np.linalg.norm(point - origin))
            assert np.allclose(moment, np.cross(point, direction))


def test_rays_do_not_depend_on_the_worlds_frame():
    cameras = orbit(3)
    turned = torch.tensor([[0.0, -1, 0, 3], [1, 0, 0, -2], [0, 0, 1, 5], [0, 0, 0, 1]], dtype=torch.float64)
    moved = Cameras(turned @ cameras.c2w, cameras.K, cameras.height, cameras.width)
    torch.testing.assert_close(pluecker(moved), pluecker(cameras))


def test_frames_through_an_input_camera_get_the_lowest_scale():
    cameras = orbit(5)[[0, 1, 2, 0, 4]]
    inputs = torch.tensor([True, False, False, False, False])
    assert multiview_scales(cameras, inputs, 3.0, 1.2).tolist() == [1.2, 3.0, 3.0, 1.2, 3.0]
    assert temporal_scales(cameras, inputs, 3.0, 1.0).tolist() == [1.0, 1.5, 2.0, 1.0, 3.0]


def test_another_lens_or_a_turn_of_ten_degrees_is_another_camera():
    here = orbit(1)
    K = here.K.clone()
    K[:, :2, :2] *= 1.1
    turned = orbit(1, start=np.radians(11)).c2w.clone()
    turned[:, :3, 3] = here.c2w[:, :3, 3]
    slightly = orbit(1, start=np.radians(9)).c2w.clone()
    slightly[:, :3, 3] = here.c2w[:, :3, 3]
    cameras = Cameras(torch.cat([here.c2w, here.c2w, turned, slightly]), torch.cat([here.K, K, here.K, here.K]), 16, 16)
    inputs = torch.tensor([True, False, False, False])
    assert multiview_scales(cameras, inputs, 2.0, 1.0).tolist() == [1.0, 2.0, 2.0, 1.0]


def test_temporal_scales_with_several_inputs_count_from_the_nearest():
    inputs = torch.tensor([True, False, False, False, True])
    assert temporal_scales(orbit(5), inputs, 2.0, 1.0).tolist() == [1.0, 1.5, 2.0, 1.5, 1.0]
