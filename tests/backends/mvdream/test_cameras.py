"""Rigs and camera vectors are the official ones; what the network cannot see does not change them."""

import math

import pytest
import torch

from couple.backends.mvdream import camera_vectors, rig
from couple.backends.mvdream.cameras import normalized, to_blender
from couple.scenes.cameras import Cameras, orbit
from tests.golden import Golden

GOLDEN = Golden("mvdream_golden_tiny.safetensors")
rigs = pytest.mark.parametrize("n", range(len(GOLDEN.meta["rigs"])))


def close(got, expected):
    torch.testing.assert_close(got.double(), expected.double(), atol=1e-6, rtol=0)


@rigs
def test_golden_rig(n):
    views, elevation, azimuth, span = GOLDEN.meta["rigs"][n]
    vectors = camera_vectors(rig(views, elevation=elevation, azimuth=azimuth, span=span))
    assert vectors.dtype == torch.float32
    close(vectors, GOLDEN[f"camera.{n}.original_blender"])
    close(vectors, GOLDEN[f"camera.{n}.port_blender"])
    opengl = GOLDEN[f"camera.{n}.original_opengl"].unflatten(1, (4, 4))
    close(to_blender(opengl).flatten(1), vectors)


def test_golden_normalisation_and_change_of_axes():
    matrices = GOLDEN["camera.normalize_in"].unflatten(1, (4, 4))
    before = matrices.clone()
    close(normalized(matrices).flatten(1), GOLDEN["camera.normalize_out"])
    close(to_blender(matrices).flatten(1), GOLDEN["camera.gl2blender_out"])
    assert torch.equal(matrices, before)


def test_part_of_a_turn():
    cameras = rig(3, elevation=20, azimuth=350, span=90)
    azimuths = torch.rad2deg(torch.atan2(cameras.c2w[:, 0, 3], -cameras.c2w[:, 1, 3]))
    close(azimuths, torch.tensor([-10.0, 20.0, 50.0]))
    close(torch.rad2deg(torch.asin(cameras.c2w[:, 2, 3])), torch.full((3,), 20.0))


def test_vectors_know_neither_distance_nor_lens():
    turn = [math.radians(degrees) for degrees in (270, 0, 90, 180)]
    far = orbit(4, radius=7.0, elevation=0.3, azimuth=turn, fov=0.4, height=99, width=55)
    close(camera_vectors(far), camera_vectors(rig(4, elevation=math.degrees(0.3))))
    assert not torch.allclose(camera_vectors(far[[1, 0, 2, 3]]), camera_vectors(far))


def test_cameras_that_cannot_be_told_are_refused():
    with pytest.raises(ValueError, match="`num_views` is 0; an orbit has at least one camera"):
        rig(0)
    with pytest.raises(ValueError, match="`elevation` is 91 degrees; it must lie between -90 and 90"):
        rig(elevation=91)
    cameras = rig()
    c2w = cameras.c2w.clone()
    c2w[2, :3, 3] = 0
    with pytest.raises(ValueError, match="camera 2 stands at the origin, where MVDream has its object; move"):
        camera_vectors(Cameras(c2w, cameras.K, 8, 8))
