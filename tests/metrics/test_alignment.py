"""Alignment on pictures drawn by hand."""

import torch

from couple.metrics.alignment import centroid, centroid_distance, luminance, mask_iou, object_mask


def square(x, y, size=4, colour=(1.0, 0.5, 0.5)):
    picture = torch.full((1, 3, 16, 16), 0.1)
    picture[0, :, y : y + size, x : x + size] = torch.tensor(colour)[:, None, None]
    return picture


def test_the_mask_is_the_bright_square_and_its_centroid_the_middle():
    mask = object_mask(square(2, 5))
    assert mask.sum() == 16 and mask[0, 5:9, 2:6].all()
    assert centroid(mask).tolist() == [[3.5, 6.5]]


def test_shifted_squares_are_as_far_apart_as_they_were_shifted_and_share_what_overlaps():
    a, b = object_mask(square(2, 5)), object_mask(square(5, 9))
    torch.testing.assert_close(centroid_distance(a, b), torch.tensor([5.0]))
    torch.testing.assert_close(mask_iou(a, object_mask(square(4, 5))), torch.tensor([8 / 24]))
    assert mask_iou(a, b).tolist() == [0.0]


def test_colour_does_not_matter_and_empty_masks_agree():
    a, b = square(3, 3), square(3, 3, colour=(0.3, 0.9, 0.9))
    assert mask_iou(object_mask(a), object_mask(b)).tolist() == [1.0]
    assert mask_iou(torch.zeros(1, 4, 4).bool(), torch.zeros(1, 4, 4).bool()).tolist() == [1.0]


def test_luminance_of_grey_is_grey():
    torch.testing.assert_close(luminance(torch.full((2, 3, 4, 4), 0.3)), torch.full((2, 4, 4), 0.3))
