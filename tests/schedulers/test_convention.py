"""The algebra between x0, eps, v and flow predictions, for every pair of levels."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from couple.schedulers.convention import output_of, relation, x0_of

factors = st.floats(0.01, 1.0)
levels = st.tuples(factors, st.floats(0.01, 80.0))
X0 = torch.randn(16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
EPS = torch.randn(16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@given(levels, st.sampled_from(["epsilon", "sample", "v_prediction"]))
def test_each_prediction_gives_back_the_clean_sample(level, prediction):
    alpha, sigma = level
    x = alpha * X0 + sigma * EPS
    v = (alpha * EPS - sigma * X0) / math.hypot(alpha, sigma)
    output = {"epsilon": EPS, "sample": X0, "v_prediction": v}[prediction]
    coefficients = relation(prediction, alpha, sigma)
    torch.testing.assert_close(x0_of(output, x, coefficients), X0, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(output_of(X0, x, coefficients), output, rtol=1e-6, atol=1e-6)


@given(st.floats(0.001, 1.0), st.sampled_from([("flow", 1.0), ("flow_reversed", -1.0)]))
def test_a_flow_gives_back_the_clean_sample(sigma, kind):
    prediction, sign = kind
    x = (1.0 - sigma) * X0 + sigma * EPS
    coefficients = relation(prediction, 1.0 - sigma, sigma)
    torch.testing.assert_close(x0_of(sign * (EPS - X0), x, coefficients), X0)
    torch.testing.assert_close(output_of(X0, x, coefficients), sign * (EPS - X0))


def test_epsilon_at_alpha_zero_has_no_x0_but_an_inverse():
    coefficients = relation("epsilon", 0.0, 1.0)
    assert x0_of(EPS, EPS, coefficients).isnan().all()
    assert torch.equal(output_of(X0, EPS, coefficients), EPS)


def test_an_unknown_prediction_is_named():
    with pytest.raises(ValueError, match="'score'"):
        relation("score", 1.0, 1.0)
