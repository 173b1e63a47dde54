"""VBench's measures of steadiness, by hand."""

import math

import pytest
import torch

from couple.metrics.video import subject_consistency, temporal_flicker


def test_flicker_of_a_still_is_one_and_of_black_and_white_zero():
    still, flash = torch.full((1, 3, 3, 4, 4), 0.4), torch.zeros(1, 3, 3, 4, 4)
    flash[:, 1] = 1.0
    assert temporal_flicker(torch.cat([still, flash])).tolist() == [1.0, 0.0]


def test_flicker_is_the_mean_step_of_frames_in_8_bits():
    video = torch.tensor([10.2, 30.4, 25.0])[None, :, None, None, None].expand(1, 3, 3, 2, 2) / 255
    torch.testing.assert_close(temporal_flicker(video), torch.tensor([(255 - (20 + 5) / 2) / 255]))


def angles(*degrees):
    """A video, and features that point at these angles, one for each frame."""
    radians = torch.tensor([math.radians(d) for d in degrees])
    video = torch.zeros(1, len(degrees), 3, 2, 2)
    return video, lambda frames: 5 * torch.stack([radians.cos(), radians.sin()], 1)


def test_subject_consistency_averages_likeness_to_the_frame_before_and_to_the_first():
    video, features = angles(0, 60, 90)
    expected = ((0.5 + 0.5) / 2 + (math.cos(math.radians(30)) + 0.0) / 2) / 2
    torch.testing.assert_close(subject_consistency(video, features), torch.tensor([expected]))


def test_opposite_features_count_as_unlike_not_as_less():
    video, features = angles(0, 180, 180)
    torch.testing.assert_close(subject_consistency(video, features), torch.tensor([(0 + (1 + 0) / 2) / 2]))


def test_each_video_is_judged_by_itself():
    videos = torch.rand(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    videos[0] = videos[0, :1]
    scores = subject_consistency(videos, lambda frames: frames.flatten(1))
    torch.testing.assert_close(scores[0], torch.tensor(1.0))
    torch.testing.assert_close(scores[1:], subject_consistency(videos[1:], lambda frames: frames.flatten(1)))
    assert scores[1] < 0.95


@pytest.mark.parametrize(
    ("videos", "message"),
    [
        (torch.zeros(3, 3, 8, 8), r"\(B, F, 3, H, W\)"),
        (torch.zeros(1, 1, 3, 8, 8), "2 frames or more"),
        (torch.zeros(1, 2, 3, 8, 8, dtype=torch.uint8), "uint8"),
        (torch.full((1, 2, 3, 8, 8), 200.0), r"expected \[0, 1\]"),
    ],
    ids=["axes", "frames", "type", "range"],
)
def test_what_is_no_video_is_refused(videos, message):
    for measure in (temporal_flicker, lambda videos: subject_consistency(videos, lambda frames: frames.flatten(1))):
        with pytest.raises(ValueError, match=message):
            measure(videos)
