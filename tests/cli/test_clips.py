"""A clip on disk plays what was sampled, at the right speed, large enough to watch."""

import imageio.v3
import numpy as np
import pytest
from PIL import Image

from couple.cli.clips import HEIGHT, enlarged, write_gif, write_mp4

COLOURS = ["red", "lime", "blue", "white", "black"]


def halves(width=32, height=32):
    """Frames that are one colour on the left and the next on the right."""
    frames = []
    for left, right in zip(COLOURS, COLOURS[1:] + COLOURS[:1], strict=True):
        frame = Image.new("RGB", (width, height), left)
        frame.paste(Image.new("RGB", (width // 2, height), right), (width - width // 2, 0))
        frames.append(frame)
    return frames


def frames_of_gif(path):
    with Image.open(path) as gif:
        for k in range(gif.n_frames):
            gif.seek(k)
            yield gif.info["duration"], np.asarray(gif.convert("RGB")).astype(int)


def test_enlarging_repeats_whole_pixels():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 20, 3), dtype=np.uint8))
    large = np.asarray(enlarged(picture, 256))
    assert large.shape == (288, 120, 3)
    assert np.array_equal(large, np.asarray(picture).repeat(6, 0).repeat(6, 1))
    assert enlarged(large_enough := Image.new("RGB", (300, 256)), 256).size == large_enough.size


def test_an_mp4_plays_the_frames_enlarged(tmp_path):
    frames = halves()
    write_mp4(tmp_path / "clip.mp4", frames, fps=8)
    shown = imageio.v3.imread(tmp_path / "clip.mp4", plugin="FFMPEG").astype(int)
    wanted = np.stack([np.asarray(enlarged(frame, HEIGHT)) for frame in frames])
    assert shown.shape == (5, 256, 256, 3)
    assert abs(shown - wanted).mean() < 3
    about = imageio.v3.immeta(tmp_path / "clip.mp4", plugin="FFMPEG")
    assert about["fps"] == 8 and about["codec"] == "h264" and about["pix_fmt"].startswith("yuv420p")


@pytest.mark.parametrize(("size", "shown"), [((33, 257), (34, 258)), ((15, 5), (780, 260)), ((301, 260), (302, 260))])
def test_an_odd_size_is_made_even(tmp_path, size, shown):
    write_mp4(tmp_path / "clip.mp4", halves(*size), fps=8)
    assert imageio.v3.imread(tmp_path / "clip.mp4", plugin="FFMPEG").shape[2:0:-1] == shown


def test_a_gif_repeats_for_ever_and_shows_the_frames(tmp_path):
    write_gif(tmp_path / "clip.gif", halves(), fps=8)
    with Image.open(tmp_path / "clip.gif") as gif:
        assert gif.size == (256, 256) and gif.info["loop"] == 0
    shown = list(frames_of_gif(tmp_path / "clip.gif"))
    assert len(shown) == 5
    for (_, frame), wanted in zip(shown, halves(), strict=True):
        assert abs(frame - np.asarray(enlarged(wanted, HEIGHT))).max() <= 4


@pytest.mark.parametrize(("fps", "seconds"), [(8, 0.62), (24, 0.21), (16, 0.31), (50, 0.1), (100, 0.1)])
def test_a_gif_takes_as_long_as_its_frames(tmp_path, fps, seconds):
    # A frame of less than 20 ms is shown for 100 ms by browsers, so that 100 a second cannot be had.
    write_gif(tmp_path / "clip.gif", halves(), fps=fps)
    durations = [duration for duration, _ in frames_of_gif(tmp_path / "clip.gif")]
    assert sum(durations) == pytest.approx(1000 * seconds) and min(durations) >= 20


def test_the_same_frames_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        write_mp4(tmp_path / f"{name}.mp4", halves(), fps=8)
        write_gif(tmp_path / f"{name}.gif", halves(), fps=8)
    for kind in ("mp4", "gif"):
        assert (tmp_path / f"one.{kind}").read_bytes() == (tmp_path / f"two.{kind}").read_bytes()
