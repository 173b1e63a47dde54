"""Alignment on pictures drawn by hand."""

import numpy as np
import pytest
import torch
from scipy.ndimage import sobel

from couple.metrics.alignment import (
    centroid,
    centroid_distance,
    edge_correlation,
    low_frequency_distance,
    luminance,
    mask_iou,
    object_mask,
)


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


def half(left, right, size=8):
    """A picture whose left half is one grey and whose right half another."""
    picture = torch.full((1, 3, size, size), left)
    picture[..., size // 2 :] = right
    return picture


def test_edges_at_one_place_correlate_and_crossing_ones_do_not():
    upright = half(0.2, 0.8)
    inverted_and_pale = half(0.55, 0.45)
    torch.testing.assert_close(edge_correlation(upright, inverted_and_pale), torch.tensor([1.0]))
    # Inside the border 6 x 6 pixels are left, and an edge covers 2 of 6 columns (or rows): the crossing of both is
    # 4/36 = 1/3 * 1/3, so that they are independent.
    torch.testing.assert_close(edge_correlation(upright, upright.mT), torch.zeros(1), atol=1e-6, rtol=0)


def test_edges_of_disjoint_places_correlate_negatively_by_their_share():
    left, right = torch.zeros(1, 3, 8, 10), torch.zeros(1, 3, 8, 10)
    left[..., 3:], right[..., 7:] = 1.0, 1.0
    # 2 of 8 columns each, none shared: (0 - 1/4 * 1/4) / (1/4 * 3/4).
    torch.testing.assert_close(edge_correlation(left, right), torch.tensor([-1 / 3]))


def test_edges_are_those_of_sobel():
    pictures = torch.rand(2, 3, 9, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    edges = []
    for picture in pictures.numpy():
        grey = np.tensordot([0.2126, 0.7152, 0.0722], picture, 1)
        edges.append(np.hypot(sobel(grey, 0), sobel(grey, 1))[1:-1, 1:-1].ravel())
    expected = np.corrcoef(*edges)[0, 1]
    assert float(edge_correlation(pictures[:1], pictures[1:])) == pytest.approx(expected, abs=1e-9)


def test_a_flat_picture_has_no_edges_to_correlate():
    assert edge_correlation(torch.full((1, 3, 8, 8), 0.3), half(0.0, 1.0)).isnan().all()


def test_low_frequency_distance_averages_detail_away_and_counts_large_areas_in_full():
    checkerboard = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(4, 4).expand(1, 3, 8, 8)
    grey = torch.full((1, 3, 8, 8), 0.5)
    assert low_frequency_distance(checkerboard, grey, size=2).tolist() == [0.0]
    assert low_frequency_distance(checkerboard, grey, size=1).tolist() == [0.5]
    # Left blocks differ by 0.3, right ones by 0.4: the root of the mean of 0.09 and 0.16.
    torch.testing.assert_close(low_frequency_distance(half(0.2, 0.9), grey, size=4), torch.tensor([0.125**0.5]))


def test_low_frequency_distance_is_that_of_luminance():
    red, green = torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)
    red[:, 0], green[:, 1] = 1.0, 1.0
    torch.testing.assert_close(low_frequency_distance(red, green), torch.tensor([0.7152 - 0.2126]))


@pytest.mark.parametrize("measure", [centroid_distance, mask_iou, edge_correlation, low_frequency_distance])
def test_what_cannot_be_compared_is_refused(measure):
    ndim = 3 if measure in (centroid_distance, mask_iou) else 4
    fits = torch.zeros((1, 3, 8, 8)[-ndim:]) > 0 if ndim == 3 else torch.zeros(1, 3, 8, 8)
    for other in (fits[..., :4], fits[0]):
        with pytest.raises(ValueError, match=r"`first` has shape \(.*`second` \(.*of one shape"):
            measure(fits, other)
    with pytest.raises(ValueError, match="of one shape"):
        measure(fits[0], fits[0])
    with pytest.raises(TypeError, match="`second` must be a tensor; got ndarray"):
        measure(fits, fits.numpy())
