"""Weight laws equal their formulas, also at the ends of the noise range."""

import math
import re

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from couple import weights
from couple.weights import Level

MIDDLE = Level.landing(progress=0.4, alpha=0.6, sigma=0.8, alpha_next=0.8, sigma_next=0.6)
LAWS = [
    weights.constant(0.3), weights.rate(0.3), weights.relax(0.3), weights.relax(0.3, decay=0), weights.implicit(0.3),
    weights.window(weights.relax(1.0), 0.2, 0.6), weights.linear(0.1, 0.4), weights.cosine(0.4, 0.1),
]  # fmt: skip


def test_the_level_of_a_step_has_the_log_snr_it_lands_on():
    assert (MIDDLE.alpha, MIDDLE.sigma) == (0.8, 0.6)
    assert MIDDLE.log_snr == pytest.approx(2 * math.log(0.8 / 0.6))
    assert MIDDLE.delta_log_snr == pytest.approx(2 * math.log(0.8 / 0.6) - 2 * math.log(0.6 / 0.8))


def test_levels_have_limits_at_both_ends():
    start = Level.landing(progress=0, alpha=0, sigma=1, alpha_next=0.1, sigma_next=0.9)
    assert start.delta_log_snr == math.inf
    end = Level.landing(progress=0.9, alpha=0.9, sigma=0.1, alpha_next=1, sigma_next=0)
    assert (end.log_snr, end.delta_log_snr) == (math.inf, math.inf)
    stay = Level.landing(progress=0, alpha=0, sigma=1, alpha_next=0, sigma_next=1)
    assert (stay.log_snr, stay.delta_log_snr) == (-math.inf, 0.0)


def test_laws_equal_their_formulas():
    delta = MIDDLE.delta_log_snr
    assert weights.constant(0.3)(MIDDLE) == 0.3
    assert weights.rate(0.3)(MIDDLE) == pytest.approx(0.3 * delta)
    assert weights.implicit(3.0)(MIDDLE) == pytest.approx(3 / 7)
    for decay in (0, 0.5, 1, 2):
        share = (1 - math.exp(-2 * 0.3 * 0.75**decay * delta)) / 2
        assert weights.relax(0.3, decay)(MIDDLE) == pytest.approx(share * 0.8 / 0.6)
    assert weights.linear(0.1, 0.6)(MIDDLE) == pytest.approx(0.3)
    assert weights.cosine(0.1, 0.6)(MIDDLE) == pytest.approx(0.1 + 0.5 * (1 - math.cos(0.4 * math.pi)) / 2)


def test_cosine_and_linear_start_and_stop_at_their_values():
    first, last = Level(0.0, 0.1, 0.9, -4, 1), Level(1.0, 0.9, 0.1, 4, 1)
    for law in (weights.linear(0.7, 0.2), weights.cosine(0.7, 0.2)):
        assert (law(first), law(last)) == pytest.approx((0.7, 0.2))


def test_linear_shapes_laws_as_well_as_numbers():
    relax = weights.relax(1.0)
    assert weights.linear(relax, 0.0)(MIDDLE) == pytest.approx(0.6 * relax(MIDDLE))


@pytest.mark.parametrize(("progress", "inside"), [(0.0, 0), (0.24, 0), (0.25, 1), (0.49, 1), (0.5, 0), (0.9, 0)])
def test_a_window_holds_its_start_and_not_its_stop(progress, inside):
    law = weights.window(0.3, 0.25, 0.5)
    assert law(Level(progress, 0.5, 0.5, 0.0, 0.1)) == 0.3 * inside


def test_a_step_from_pure_noise_has_finite_weights():
    start = Level.landing(progress=0.25, alpha=0, sigma=1, alpha_next=0.05, sigma_next=0.95)
    for law in LAWS:
        assert 0 <= law(start) < math.inf
    assert weights.relax(0.3)(start) == pytest.approx(0.5 * 0.05 / 0.95)
    assert weights.rate(0.3)(start) == pytest.approx(0.3 * (start.log_snr - math.log(1e-4)))


def test_a_step_that_stays_or_goes_back_in_noise_is_not_pulled_by_laws_of_log_snr():
    nowhere = Level.landing(progress=0.1, alpha=0, sigma=1, alpha_next=0, sigma_next=1)
    back = Level.landing(progress=0.1, alpha=0.8, sigma=0.6, alpha_next=0.6, sigma_next=0.8)
    for level in (nowhere, back):
        assert weights.rate(1.0)(level) == weights.relax(1.0)(level) == 0.0


def test_rate_adds_up_to_the_log_snr_covered_however_many_steps_there_are():
    def total(law, alphas, sigmas):
        steps = zip(alphas, sigmas, alphas[1:], sigmas[1:], strict=False)
        landings = [Level.landing(progress=0, alpha=a, sigma=s, alpha_next=b, sigma_next=t) for a, s, b, t in steps]
        return sum(law(level) for level in landings)

    for count in (3, 30):
        sigmas = np.linspace(1, 0.1, count)
        expected = 2 * math.log(0.9 / 0.1) - math.log(1e-4)
        assert total(weights.rate(1.0), 1 - sigmas, sigmas) == pytest.approx(expected)
        sigmas = np.geomspace(80, 0.1, count)
        assert total(weights.rate(1.0), np.ones(count), sigmas) == pytest.approx(2 * math.log(800))


@given(
    kappa=st.floats(0, 1e6), decay=st.floats(0, 3),
    before=st.floats(1e-4, 1e4), after=st.floats(1e-4, 1e4), scale=st.floats(1e-2, 1e2),
)  # fmt: skip
def test_relax_moves_the_implied_x0_by_at_most_half_the_difference_in_any_convention(
    kappa, decay, before, after, scale
):
    level = Level.landing(progress=0, alpha=1, sigma=before, alpha_next=scale, sigma_next=scale * after)
    # A pull of sigma' w d moves x0 = x / alpha' by sigma' w d / alpha'.
    share = weights.relax(kappa, decay)(level) * level.sigma / level.alpha
    assert 0 <= share <= 0.5 * (1 + 1e-12)


@given(strength=st.floats(0, 1e12))
def test_implicit_never_reaches_past_the_middle(strength):
    assert 0 <= weights.implicit(strength)(MIDDLE) <= 0.5


def final_gap(law, steps, flow):
    """Gap of two Gaussians, means -1 and 1, after coupled DDIM or flow Euler, by the numpy oracle."""
    if flow:
        sigmas = np.linspace(1, 0, steps + 1)
        schedule = oracle.Schedule("flow_euler", 1 - sigmas, sigmas)
    else:
        betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
        times = np.linspace(999, 0, steps).round().astype(int)
        alphas, sigmas = oracle.vp_levels(betas, times, stride=1000, final=1.0)
        schedule = oracle.Schedule("ddim", alphas, sigmas)
    weight = np.zeros(steps)
    for k in range(steps - 1):
        (alpha, alpha_next), (sigma, sigma_next) = schedule.alphas[k : k + 2], schedule.sigmas[k : k + 2]
        weight[k] = law(Level.landing(
            progress=k / steps, alpha=alpha, sigma=sigma, alpha_next=alpha_next, sigma_next=sigma_next
        ))  # fmt: skip
    priors = [oracle.Gaussian(np.array([mean]), np.array([0.5])) for mean in (-1.0, 1.0)]
    final, _ = oracle.run(priors, [schedule] * 2, [np.zeros(1)] * 2, [oracle.Link(0, 1, weight, weight)])
    return float(final[1, 0] - final[0, 0])


@pytest.mark.parametrize(
    ("law", "flow"), [(weights.rate(0.1), False), (weights.rate(0.1), True), (weights.relax(0.3), False)], ids=str
)
def test_laws_of_log_snr_converge_as_steps_grow(law, flow):
    coarse, fine, finest = (final_gap(law, steps, flow) for steps in (50, 400, 800))
    assert abs(fine - finest) < 0.04
    assert abs(fine - finest) < abs(coarse - finest)


@pytest.mark.parametrize("flow", [False, True], ids=["DDIM", "flow"])
def test_a_constant_law_pulls_harder_with_every_step_and_one_of_log_snr_does_not(flow):
    def change(law):
        return final_gap(law, 20, flow) - final_gap(law, 50, flow)

    assert change(weights.constant(0.1)) > 1
    assert 0 < change(weights.rate(0.1)) < 0.11


@pytest.mark.parametrize("flow", [False, True], ids=["DDIM", "flow"])
@pytest.mark.parametrize("steps", [2, 5, 10, 20, 50])
def test_the_strongest_relaxing_means_agreement_and_not_a_swap(flow, steps):
    assert -0.2 < final_gap(weights.relax(1e3), steps, flow) < 2.0
    assert abs(final_gap(weights.relax(1e3), 200, flow)) < 0.02


def test_the_gaps_in_the_documentation_of_relax_are_right():
    for flow, gaps in ((True, (0.07, -0.43, -0.03)), (False, (0.07, -0.52, -0.06))):
        for kappa, gap in zip((0.3, 1, 1000), gaps, strict=True):
            assert final_gap(weights.relax(kappa), 20, flow) == pytest.approx(gap, abs=0.006)


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_scaled_laws_are_multiples(law):
    if not weights.is_implicit(law):
        assert weights.scaled(law, 0.25)(MIDDLE) == pytest.approx(0.25 * law(MIDDLE))


def test_scaling_an_implicit_weight_scales_its_strength_also_in_a_window():
    law = weights.scaled(weights.window(weights.implicit(3.0), 0.2, 0.6), 0.5)
    assert weights.is_implicit(law)
    assert weights.strength(law, MIDDLE) == 1.5
    assert weights.strength(law, Level(0.1, 0.5, 0.5, 0, 1)) == 0.0


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: weights.constant(-1), ValueError, "constant: `value` must be a finite number, 0 or more; got -1"),
        (lambda: weights.constant("1"), TypeError, "constant: `value` must be a number; got '1'"),
        (lambda: weights.rate(math.nan), ValueError, "rate: `kappa` must be a finite number"),
        (lambda: weights.relax(math.inf), ValueError, "relax: `kappa`"),
        (lambda: weights.relax(1.0, decay=-1), ValueError, "relax: `decay`"),
        (lambda: weights.implicit(True), TypeError, "implicit: `strength` must be a number; got True"),
        (lambda: weights.window(0.1, 0.5, 0.5), ValueError, "window: 0 <= start < stop <= 1 is needed; got 0.5, 0.5"),
        (lambda: weights.window(0.1, 0, 2), ValueError, "got 0, 2"),
        (lambda: weights.window(weights.relax, 0, 1), TypeError, "`law` is the class relax, not a law. Did you mean relax(1.0)?"),
        (lambda: weights.linear(0.1, -0.1), ValueError, "linear: `stop_value` must be a finite number"),
        (lambda: weights.cosine(weights.implicit(1.0), 0), ValueError, "cannot be blended. Use window(implicit(3.0), 0, 1)."),
    ],
)  # fmt: skip
def test_bad_laws_are_refused(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()


def test_a_start_a_rounding_beyond_pure_noise_is_pure_noise():
    # TrigFlow starts at t = 1.5708, whose cosine is -3.7e-6.
    landing = dict(progress=0.0, alpha_next=0.3, sigma_next=0.9)
    assert Level.landing(alpha=math.cos(1.5708), sigma=1.0, **landing) == Level.landing(alpha=0.0, sigma=1.0, **landing)
