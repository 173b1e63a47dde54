"""Videos side by side and a sheet of their moments hold every clip, in its row, in time."""

import imageio.v3
import numpy as np
import pytest
from PIL import Image

from couple.cli.clips import write_mp4
from couple.cli.montage import frames_sheet, side_by_side
from couple.cli.sheet import PAPER

PROMPTS = ["first", "second"]


def clip(red, length=7, size=(32, 32)):
    """Frame k is all red and green, by so much: (red, 10 k, 0)."""
    return [Image.new("RGB", size, (red, 10 * k, 0)) for k in range(length)]


CLIPS = {"uncoupled": [clip(100), clip(120)], "coupled": [clip(140), clip(160)]}


def boxes(picture):
    """Of each colour of `CLIPS` that covers enough of the picture: the box that holds it, left, top, right, bottom."""
    found = {}
    pixels = np.asarray(picture)
    for count, colour in picture.getcolors(1 << 24):
        if colour[2] == 0 and count > 5000:
            rows, columns = np.nonzero((pixels == colour).all(2))
            found[colour] = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    return found


def test_every_frame_shows_every_clip_at_that_moment_coupled_below():
    frames = side_by_side(CLIPS, PROMPTS, {"uncoupled": "far", "coupled": "near"})
    assert len(frames) == 7 and len({frame.size for frame in frames}) == 1
    for k in (0, 6):
        found = boxes(frames[k])
        assert set(found) == {(red, 10 * k, 0) for red in (100, 120, 140, 160)}
        (a, b), (c, d) = ([found[red, 10 * k, 0] for red in pair] for pair in ((100, 120), (140, 160)))
        assert a[2] < b[0] and c[2] < d[0] and a[3] < c[1] and b[3] < d[1]
        assert all(box[2] - box[0] == box[3] - box[1] == 256 for box in (a, b, c, d))


def test_large_clips_are_shown_smaller_side_by_side():
    large = {row: [clip(100, 1, (832, 480))] for row in ("uncoupled", "coupled")}
    left, top, right, bottom = boxes(side_by_side(large, ["one"])[0])[100, 0, 0]
    assert right - left == round(832 * 384 / 480) and bottom - top > 2 * 384


def test_on_the_sheet_time_runs_across_and_each_video_has_a_row():
    found = boxes(frames_sheet(CLIPS, PROMPTS))
    moments = (0, 1, 2, 4, 5, 6)
    assert set(found) == {(red, 10 * k, 0) for red in (100, 120, 140, 160) for k in moments}
    for red in (100, 120, 140, 160):
        assert [found[red, 10 * k, 0][0] for k in moments] == sorted(found[red, 10 * k, 0][0] for k in moments)
    tops = [found[red, 0, 0][1] for red in (100, 120, 140, 160)]
    within, between = tops[1] - tops[0], tops[2] - tops[1]
    assert tops == sorted(tops) and tops[3] - tops[2] == within < between


@pytest.mark.parametrize("length", [1, 2, 6])
def test_a_short_video_is_on_the_sheet_whole(length):
    found = boxes(frames_sheet({"coupled": [clip(100, length)]}, ["one"]))
    assert set(found) == {(100, 10 * k, 0) for k in range(length)}


def test_the_ground_of_a_video_is_that_of_the_sheet(tmp_path):
    write_mp4(tmp_path / "a.mp4", side_by_side(CLIPS, PROMPTS), 8)
    ground = imageio.v3.imread(tmp_path / "a.mp4", plugin="FFMPEG")[0, 4, 4].astype(int)
    # As warm as it was: what is lost in eight bits of luminance and colour is the same in red, green and blue.
    assert np.abs(ground - PAPER).max() <= 1 and np.ptp(ground - PAPER) == 0
