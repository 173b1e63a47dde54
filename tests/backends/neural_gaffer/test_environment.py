"""Environment maps: directions against plain geometry, files, refusals."""

import numpy as np
import pytest
import torch

from couple.backends.neural_gaffer import environment, read_environment_map
from couple.scenes.cameras import Cameras, intrinsics
from tests.tiny.relighting import cameras, environment_map

TOWARDS = np.array([0.6, -0.48, 0.64])  # where the light of `glow` comes from, a unit vector


def directions(height, width):
    """World directions of the pixels of a map, by its definition."""
    elevation = np.pi / 2 - (np.arange(height) + 0.5) / height * np.pi
    azimuth = np.pi - (np.arange(width) + 0.5) / width * 2 * np.pi
    elevation, azimuth = np.meshgrid(elevation, azimuth, indexing="ij")
    return np.stack(
        [np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)], axis=-1
    )


def glow(ways):
    return np.repeat((1 + ways @ TOWARDS)[..., None], 3, axis=-1)


def turned_cameras():
    """A camera at a slant, OpenCV axes, by its right, down and forward vectors."""
    random = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(random.normal(size=(3, 3)))
    rotation *= np.sign(np.linalg.det(rotation))
    c2w = np.eye(4)
    c2w[:3, :3], c2w[:3, 3] = rotation, [1, 2, 3]
    return Cameras(torch.from_numpy(c2w)[None], intrinsics(1.0, 16, 16), 16, 16)


def test_a_view_shows_what_lies_in_its_directions():
    seen = directions(128, 256)
    light = torch.from_numpy(glow(seen)).float()
    right, down, forward = turned_cameras().c2w[0, :3, :3].numpy().T
    world = seen[..., :1] * right + seen[..., 1:2] * forward - seen[..., 2:] * down
    (w2c,) = environment.blender_w2c(turned_cameras(), 1)
    assert np.abs(environment.rotated(light, w2c).numpy() - glow(world)).max() < 0.03


def test_a_turn_moves_the_light_clockwise_seen_from_above():
    seen = directions(128, 256)
    light = torch.from_numpy(glow(seen)).float()
    angle = 0.7
    turn = np.array([[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    expected = 1 + seen @ (turn @ TOWARDS)
    ahead = environment.blender_w2c(cameras()[0], 1)[0]
    assert np.abs(environment.rotated(light, ahead, angle)[..., 0].numpy() - expected).max() < 0.03


def test_matrices_are_taken_as_they_are():
    published = torch.from_numpy(np.diag([1.0, -1, -1, 1])) @ cameras().w2c
    expected = environment.blender_w2c(cameras(), 2)
    assert torch.equal(environment.blender_w2c(published, 2), expected)
    assert torch.equal(environment.blender_w2c(published[:, :3].float(), 2), expected)


def test_a_dark_map_stays_dark():
    assert not environment.hdr(torch.zeros(4, 8, 3)).any()


def runs(channel):
    """A channel of a row in runs: equal bytes as a run, the rest one by one."""
    packed, at = bytearray(), 0
    while at < len(channel):
        end = at + 1
        while end < len(channel) and channel[end] == channel[at] and end - at < 127:
            end += 1
        packed += bytes([128 + end - at, channel[at]]) if end - at > 1 else bytes([1, channel[at]])
        at = end
    return bytes(packed)


def hdr_file(path, rgbe, packed):
    height, width, _ = rgbe.shape
    body = rgbe.tobytes()
    if packed:
        rows = (b"".join(runs(row[:, c].tobytes()) for c in range(4)) for row in rgbe)
        body = b"".join(bytes([2, 2, width >> 8, width & 255]) + row for row in rows)
    path.write_bytes(b"#?RADIANCE\n# by hand\nFORMAT=32-bit_rle_rgbe\n\n-Y %d +X %d\n" % (height, width) + body)
    return path


def rgbe():
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (6, 300, 4), dtype=np.uint8)
    pixels[..., 3] = random.integers(120, 140, (6, 300))
    pixels[2:4, 20:280] = [200, 10, 0, 130]
    return pixels


@pytest.mark.parametrize("packed", [True, False])
def test_radiance_pictures_are_read(tmp_path, packed):
    pixels = rgbe().astype(float)
    expected = pixels[..., :3] / 256 * 2.0 ** (pixels[..., 3:] - 128)
    got = read_environment_map(hdr_file(tmp_path / "light.hdr", rgbe(), packed))
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-6)


def test_arrays_are_read(tmp_path):
    np.save(tmp_path / "light.npy", environment_map(0).numpy().astype(np.float64))
    assert torch.equal(read_environment_map(tmp_path / "light.npy"), environment_map(0))


def test_pickles_are_not_read(tmp_path):
    np.save(tmp_path / "light.npy", np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        read_environment_map(tmp_path / "light.npy")


def test_files_that_hold_no_map_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no environment map"):
        read_environment_map(tmp_path / "light.hdr")
    path = hdr_file(tmp_path / "light.hdr", rgbe(), packed=True)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="cut short or damaged"):
        read_environment_map(path)
    path.write_bytes(b"\x89PNG")
    with pytest.raises(ValueError, match="is no Radiance picture"):
        read_environment_map(path)
    (tmp_path / "light.exr").touch()
    with pytest.raises(ValueError, match=r"light.exr is neither .npy nor .hdr; save it as .npy with np.save"):
        read_environment_map(tmp_path / "light.exr")
