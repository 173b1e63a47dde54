"""The exact denoiser is the posterior mean, checked against sums and integrals written out."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from couple.exact import ExactDenoiser


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(alpha=st.floats(0.01, 1), sigma=st.floats(0.01, 10), std=st.floats(0, 3))
def test_one_gaussian_is_the_textbook_formula(alpha, sigma, std):
    mean, x = draw(0, 2, 3), draw(1, 4, 2, 3)
    gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
    expected = mean + gain * (x - alpha * mean)
    torch.testing.assert_close(ExactDenoiser.gaussian(mean, std).x0(x, alpha, sigma), expected)


def test_pictures_are_averaged_with_a_softmax_of_distances():
    pictures, x = draw(0, 5, 2, 3), draw(1, 4, 2, 3)
    weights = torch.tensor([1.0, 2.0, 0.5, 0.0, 3.0])
    share = weights * torch.exp(-(x[:, None] - 0.6 * pictures).square().flatten(2).sum(2) / (2 * 0.8**2))
    expected = torch.einsum("bm,mcd->bcd", share / share.sum(1, keepdim=True), pictures)
    torch.testing.assert_close(ExactDenoiser.pictures(pictures, weights).x0(x, 0.6, 0.8), expected)


def test_a_mixture_with_a_std_for_each_element_is_the_integral():
    means, stds, weights = torch.tensor([[-1.0], [0.5]]), torch.tensor([[0.3], [1.2]]), torch.tensor([0.3, 0.7])
    grid = np.linspace(-12, 12, 200_001)
    prior = sum(
        w / s * np.exp(-((grid - m) ** 2) / (2 * s**2))
        for m, s, w in zip(means[:, 0].numpy(), stds[:, 0].numpy(), weights.numpy(), strict=True)
    )
    denoiser = ExactDenoiser(means, stds, weights)
    for x in (-2.0, 0.1, 3.0):
        posterior = prior * np.exp(-((x - 0.7 * grid) ** 2) / (2 * 0.4**2))
        expected = (grid * posterior).sum() / posterior.sum()
        found = denoiser.x0(torch.tensor([[x]], dtype=torch.float64), 0.7, 0.4)
        assert found.item() == pytest.approx(expected, rel=1e-6)


def test_elements_with_stds_of_their_own_are_independent_in_one_gaussian():
    mean, std, x = draw(0, 3), draw(1, 3).abs(), draw(2, 4, 3)
    whole = ExactDenoiser.gaussian(mean, std).x0(x, 0.8, 0.6)
    parts = [ExactDenoiser.gaussian(mean[k : k + 1], float(std[k])).x0(x[:, k : k + 1], 0.8, 0.6) for k in range(3)]
    torch.testing.assert_close(whole, torch.cat(parts, 1))


def test_pure_noise_gives_the_mean_of_the_mixture():
    means, weights = draw(0, 3, 2), torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64)
    expected = (means * weights[:, None]).sum(0) / 4
    for stds in (0.0, 0.5):
        for sigma in (1.0, 0.0):
            found = ExactDenoiser(means, stds, weights).x0(draw(1, 4, 2), alpha=0.0, sigma=sigma)
            torch.testing.assert_close(found, expected.expand(4, 2))


def test_no_noise_gives_the_sample_or_the_nearest_picture():
    x = draw(1, 4, 2)
    torch.testing.assert_close(ExactDenoiser(draw(0, 3, 2), 0.5).x0(x, alpha=0.5, sigma=0.0), x / 0.5)
    pictures = draw(0, 3, 2)
    nearest = pictures[torch.cdist(x, 0.5 * pictures).argmin(1)]
    torch.testing.assert_close(ExactDenoiser.pictures(pictures).x0(x, alpha=0.5, sigma=0.0), nearest)


@pytest.mark.parametrize("sigma", [1e-12, 1e-6, 1e3, 1e6])
def test_the_softmax_does_not_overflow(sigma):
    found = ExactDenoiser.pictures(draw(0, 5, 3, 16, 16) * 10).x0(draw(1, 2, 3, 16, 16) * 100, 1.0, sigma)
    assert found.isfinite().all()


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32)],
)
def test_predictions_are_at_least_float32(dtype, expected):
    denoiser = ExactDenoiser.gaussian(torch.zeros(3), 1.0)
    assert denoiser.x0(torch.zeros(2, 3, dtype=dtype), 0.5, 0.5).dtype == expected


def test_rows_do_not_see_each_other():
    denoiser, x = ExactDenoiser(draw(0, 5, 2, 3), 0.1), draw(1, 4, 2, 3)
    torch.testing.assert_close(denoiser.x0(x, 0.6, 0.8)[2:3], denoiser.x0(x[2:3], 0.6, 0.8), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ExactDenoiser(torch.zeros(0, 2), 1.0), "`means` must have shape (M, ...) with M of 1 or more; got (0, 2)"),
        (lambda: ExactDenoiser(torch.zeros(2, 2), -1.0), "`stds` must be 0 or more"),
        (lambda: ExactDenoiser(torch.zeros(2, 2), 0.0, torch.ones(3)), "`weights` must have shape (2,)"),
        (lambda: ExactDenoiser(torch.zeros(2, 2), 0.0, torch.zeros(2)), "`weights` must be 0 or more, and not all 0"),
        (lambda: ExactDenoiser(torch.zeros(2, 3), 0.0).x0(torch.zeros(1, 4), 1, 1), "has shape (1, 4); it must be (B, *(3,))"),
    ],
)  # fmt: skip
def test_bad_mixtures_are_refused(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()
