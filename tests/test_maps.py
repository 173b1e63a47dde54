"""Maps cut, resize and smooth; all of them are differentiable."""

import re

import pytest
import torch

from couple import maps

ALL = [maps.row(1), maps.row(-1), maps.frame(0, 1), maps.crop(1, 2, 3, 2), maps.resize(3, 7), maps.low_pass(2)]


@pytest.mark.parametrize("map", ALL, ids=maps.call)
def test_autograd_agrees_with_finite_differences(map):
    x = torch.randn(2, 2, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(map, x)


@pytest.mark.parametrize("map", [maps.crop(1, 0, 2, 2), maps.resize(3, 7), maps.low_pass(3)], ids=maps.call)
@pytest.mark.parametrize("lead", [(), (2,), (2, 3), (1, 4, 3)])
def test_maps_of_the_last_two_axes_take_any_leading_ones(map, lead):
    x = torch.randn(*lead, 6, 5, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([map(plane) for plane in x.reshape(-1, 6, 5)])
    assert torch.allclose(map(x), expected.reshape(*lead, *expected.shape[1:]), atol=1e-6)


def test_a_crop_is_the_rectangle():
    x = torch.arange(30.0).reshape(5, 6)
    assert torch.equal(maps.crop(1, 2, 3, 4)(x), x[1:4, 2:6])


def test_resizing_keeps_a_constant_picture():
    assert torch.allclose(maps.resize(3, 9)(torch.full((1, 2, 5, 5), 2.0)), torch.tensor(2.0))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 9])
def test_low_pass_is_an_orthogonal_projection(size):
    x, y = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    project = maps.low_pass(size)
    assert torch.allclose(project(project(x)), project(x))
    assert torch.allclose((project(x) * y).sum(), (x * project(y)).sum())
    assert torch.allclose(project(x).sum(), x.sum())
    assert torch.equal(project(torch.ones(5, 7)), torch.ones(5, 7))


def test_low_pass_averages_blocks_and_what_the_border_leaves_of_them():
    x = torch.tensor([[1.0, 3.0, 5.0], [5.0, 7.0, 7.0], [2.0, 4.0, 9.0]])
    expected = torch.tensor([[4.0, 4.0, 6.0], [4.0, 4.0, 6.0], [3.0, 3.0, 9.0]])
    assert torch.equal(maps.low_pass(2)(x), expected)


def test_low_pass_of_one_pixel_is_the_identity():
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(maps.low_pass(1)(x), x)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: maps.low_pass(0), ValueError, "`size` must be a whole number, 1 or more; got 0. Did you mean low_pass(8)?"),
        (lambda: maps.low_pass(torch.zeros(2)), ValueError, "Did you mean low_pass(8)?"),
        (lambda: maps.low_pass(2)(torch.zeros(3)), ValueError, "low_pass(2) works on states of shape (..., H, W); got (3,)"),
        (lambda: maps.resize(0, 4), ValueError, "resize(0, 4): height and width must be 1 or more"),
        (lambda: maps.resize(2, 4)(torch.zeros(3)), ValueError, "resize(2, 4) works on states of shape"),
        (lambda: maps.crop(-1, 0, 4, 4), ValueError, "crop(-1, 0, 4, 4): top and left must be 0 or more"),
        (lambda: maps.crop(0, 0, 4, 4)(torch.zeros(1, 3, 8)), ValueError, "does not fit in a state of shape (1, 3, 8)"),
        (lambda: maps.row(3)(torch.zeros(2)), IndexError, "row(3)"),
    ],
)  # fmt: skip
def test_bad_maps_are_refused(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()
