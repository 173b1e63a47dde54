"""Two videos compared frame by frame and by motion, on squares that move by hand."""

import torch

from couple.metrics.alignment import edge_correlation, mask_iou, object_mask
from couple.metrics.clips import motion_distance, path_distance, per_frame


def film(*corners, size=4):
    """One video with a bright square whose top left corner is at (x, y), a corner for each frame."""
    video = torch.full((1, len(corners), 3, 20, 20), 0.1)
    for frame, (x, y) in enumerate(corners):
        video[0, frame, :, y : y + size, x : x + size] = 0.9
    return video


def test_a_measure_of_pictures_is_taken_of_each_frame():
    still, moving = film((4, 4), (4, 4), (4, 4)), film((4, 4), (6, 4), (12, 4))
    masks = [object_mask(video.flatten(0, 1)).unflatten(0, (1, 3)) for video in (still, moving)]
    torch.testing.assert_close(per_frame(mask_iou, *masks), torch.tensor([[1.0, 8 / 24, 0.0]]))
    edges = per_frame(edge_correlation, torch.cat([still, moving]), torch.cat([still, still]))
    torch.testing.assert_close(edges[0], torch.ones(3))
    assert edges[1, 0] > 0.999 > edges[1, 1]


def test_the_same_motion_elsewhere_is_far_in_place_and_not_in_motion():
    one, other = film((0, 0), (2, 0), (4, 1)), film((3, 4), (5, 4), (7, 5))
    torch.testing.assert_close(path_distance(one, other), torch.tensor([5.0]))
    torch.testing.assert_close(motion_distance(one, other), torch.tensor([0.0]), atol=1e-5, rtol=0)


def test_motion_distance_is_the_mean_difference_of_steps():
    still, moving = film((4, 4), (4, 4), (4, 4)), film((4, 4), (7, 8), (7, 9))
    torch.testing.assert_close(motion_distance(still, moving), torch.tensor([(5.0 + 1.0) / 2]))
