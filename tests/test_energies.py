"""Energies equal their formulas, have the gradients they document and keep the invariances they promise."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from couple import energies, maps

LUMINANCE = energies.feature(lambda x: x.mean(dim=-3).tanh())
ALL = [energies.squared_distance, energies.cosine, energies.huber(0.7), energies.low_pass(2), LUMINANCE]


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("energy", ALL, ids=maps.call)
def test_autograd_agrees_with_finite_differences(energy):
    a, b = draw(0, 2, 3, 4, 3).requires_grad_(), draw(1, 2, 3, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(energy, (a, b))


@pytest.mark.parametrize("energy", ALL, ids=maps.call)
@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_energies_are_symmetric_and_never_negative_and_zero_at_agreement(energy, seed):
    a, b = draw(seed, 2, 2, 3, 4, 3)
    assert energy(a, b).shape == ()
    assert energy(a, b) >= 0
    assert torch.isclose(energy(a, b), energy(b, a), rtol=1e-12)
    assert torch.isclose(energy(a, a), torch.zeros((), dtype=a.dtype), atol=1e-12)


@pytest.mark.parametrize("energy", ALL, ids=maps.call)
def test_the_gradient_is_zero_at_agreement(energy):
    a = draw(0, 2, 3, 4, 3)
    leaf = a.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(energy(leaf, a), leaf)
    assert torch.allclose(gradient, torch.zeros_like(a), atol=1e-12)


@pytest.mark.parametrize(
    "energy", [energies.squared_distance, energies.huber(0.7), energies.low_pass(2)], ids=maps.call
)
def test_translations_of_both_change_nothing(energy):
    a, b, shift = draw(0, 3, 2, 3, 4, 3)
    assert torch.isclose(energy(a + shift, b + shift), energy(a, b), rtol=1e-12)


def gradient(energy, a, b):
    leaf = a.clone().requires_grad_()
    return torch.autograd.grad(energy(leaf, b), leaf)[0]


def test_the_gradient_of_the_squared_distance_is_the_difference():
    a, b = draw(0, 2, 2, 3, 4, 3)
    assert torch.allclose(gradient(energies.squared_distance, a, b), a - b)


def test_the_gradient_of_huber_is_the_clamped_difference():
    a, b = draw(0, 2, 2, 3, 4, 3)
    assert torch.allclose(gradient(energies.huber(0.7), a, b), (a - b).clamp(-0.7, 0.7))


def test_the_gradient_of_low_pass_is_the_smoothed_difference():
    a, b = draw(0, 2, 2, 3, 5, 3)
    assert torch.allclose(gradient(energies.low_pass(2), a, b), maps.low_pass(2)(a - b))


def test_the_gradient_of_cosine_is_its_formula_and_orthogonal_to_the_sample():
    a, b = draw(0, 2, 1, 24)
    ratio = torch.nn.functional.cosine_similarity(a, b)
    expected = 24 * (ratio * a / a.norm() - b / b.norm()) / a.norm()
    assert torch.allclose(gradient(energies.cosine, a, b), expected)
    assert torch.isclose((expected * a).sum(), torch.zeros((), dtype=a.dtype), atol=1e-12)


def test_cosine_is_torchs_cosine_summed_over_rows():
    a, b = draw(0, 2, 3, 4, 5)
    similarity = torch.nn.functional.cosine_similarity(a.flatten(1), b.flatten(1))
    assert torch.isclose(energies.cosine(a, b), 20 * (1 - similarity).sum())


@given(scale=st.floats(1e-3, 1e3))
def test_cosine_does_not_see_scale(scale):
    a, b = draw(0, 2, 2, 12)
    assert torch.isclose(energies.cosine(scale * a, b), energies.cosine(a, b), rtol=1e-9)


def test_cosine_of_nothing_has_a_finite_gradient():
    assert torch.equal(gradient(energies.cosine, torch.zeros(1, 4), torch.ones(1, 4)), torch.zeros(1, 4))


def test_low_pass_ignores_detail_and_counts_layout_in_full():
    block = torch.kron(draw(0, 2, 3), torch.ones(2, 2, dtype=torch.float64))
    detail = torch.kron(torch.ones(2, 3, dtype=torch.float64), torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).double())
    zero = torch.zeros_like(block)
    assert torch.isclose(energies.low_pass(2)(block + detail, zero), energies.squared_distance(block, zero))


def test_feature_is_the_squared_distance_of_features():
    a, b = draw(0, 2, 2, 3, 4, 3)
    assert torch.equal(LUMINANCE(a, b), energies.squared_distance(LUMINANCE.fn(a), LUMINANCE.fn(b)))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: energies.huber(0), ValueError, "huber: `delta` must be a number above 0, e.g. huber(1.0); got 0"),
        (lambda: energies.huber(torch.zeros(2)), ValueError, "e.g. huber(1.0)"),
        (lambda: energies.low_pass(0.5), ValueError, "Did you mean low_pass(8)?"),
        (lambda: energies.feature(torch.nn.Flatten), TypeError, "feature: `fn` must be a function of one tensor"),
        (lambda: energies.feature(3), TypeError, "got 3"),
        (lambda: energies.low_pass(2)(torch.zeros(3), torch.zeros(3)), ValueError, "(..., H, W)"),
    ],
)  # fmt: skip
def test_bad_energies_are_refused(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()
