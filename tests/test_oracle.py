"""`couple.sample` with exact Gaussian denoisers equals the numpy oracle to 1e-10 in float64."""

import numpy as np
import oracle
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from double import float64_schedulers  # noqa: F401

import couple
from couple import weights

STEPS = 8
SHAPE = (2, 3, 4)
BETAS = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
MASK = torch.rand(3, 4, generator=torch.Generator().manual_seed(9), dtype=torch.float64)

pytestmark = [
    pytest.mark.usefixtures("float64_schedulers"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


def make_scheduler(family, prediction="epsilon"):
    levels = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction)
    if family == "ddim":
        return DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1, **levels)
    if family == "ve_euler":
        return EulerDiscreteScheduler(timestep_spacing="trailing", **levels)
    return FlowMatchEulerDiscreteScheduler(shift=3.0)


def schedule_of(family):
    """The levels of `make_scheduler(family)`, from the published formulas."""
    if family == "flow_euler":
        # diffusers takes equal steps in time from 1 to the last of its 1000 training levels, shifted by 3 twice over.
        shifted = 3 * np.float64(1 / 1000) / (1 + 2 * np.float64(1 / 1000))
        times = np.linspace(1000, shifted * 1000, STEPS) / 1000
        sigmas = np.append(3 * times / (1 + 2 * times), 0)
        return oracle.Schedule(family, 1 - sigmas, sigmas)
    products = np.cumprod(1 - BETAS)
    if family == "ve_euler":
        times = np.round(np.arange(1000, 0, -1000 / STEPS)).astype(int) - 1
        sigmas = np.append(np.sqrt(1 / products[times] - 1), 0)
        return oracle.Schedule(family, np.ones_like(sigmas), sigmas)
    stride = 1000 // STEPS
    times = np.arange(STEPS)[::-1] * stride + 1
    alphas, sigmas = oracle.vp_levels(BETAS, times, stride, final=products[0])
    return oracle.Schedule(family, alphas, sigmas)


def priors_of(count):
    generator = np.random.default_rng(1)
    return [
        oracle.Gaussian(generator.normal(size=SHAPE[1:]), generator.uniform(0.1, 1.5, SHAPE[1:])) for _ in range(count)
    ]


def weight_along(law, schedule):
    """A law along a schedule, from the levels that the oracle knows."""
    values = np.zeros(STEPS)
    for k in range(STEPS):
        (alpha, alpha_next), (sigma, sigma_next) = schedule.alphas[k : k + 2], schedule.sigmas[k : k + 2]
        if sigma_next > 0:
            level = weights.Level.landing(
                progress=k / STEPS, alpha=alpha, sigma=sigma, alpha_next=alpha_next, sigma_next=sigma_next
            )
            values[k] = weights.value(law, level)
    return values


def assert_couple_equals_the_oracle(families, edges, predictions=None):
    """Run both on the same noise; edges are tuples (a, b, weight, mask, directed)."""
    count = len(families)
    predictions = predictions or ["epsilon"] * count
    priors, schedules = priors_of(count), [schedule_of(family) for family in families]
    noise = torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    trajectories = []
    for i in range(count):
        denoiser = couple.ExactDenoiser.gaussian(torch.from_numpy(priors[i].mean), torch.from_numpy(priors[i].std))
        pipe = couple.DenoiserPipeline(denoiser, make_scheduler(families[i], predictions[i]))
        trajectories.append(couple.Trajectory(pipe, name=str(i), latents=noise[i], num_inference_steps=STEPS))
    starts = []
    for trajectory, schedule, start in zip(trajectories, schedules, noise.numpy(), strict=True):
        scheduler = trajectory.pipeline.scheduler
        scheduler.set_timesteps(STEPS)
        starts.append(start * float(scheduler.init_noise_sigma) if schedule.sampler == "ve_euler" else start)
    links = [
        oracle.Link(
            a, b, weight_along(w, schedules[a]), weight_along(w, schedules[b]),
            None if mask is None else mask.numpy(), directed,
        )
        for a, b, w, mask, directed in edges
    ]  # fmt: skip
    graph = [
        couple.Edge(trajectories[a], trajectories[b], weight=w, mask=mask, directed=directed)
        for a, b, w, mask, directed in edges
    ]
    final, expected_x0 = oracle.run(priors, schedules, starts, links)
    seen = []
    result = couple.sample(
        trajectories, graph, callback=lambda info: seen.append([info.x0[t] for t in trajectories]), progress=False
    )
    found = np.stack([result[trajectory].numpy() for trajectory in trajectories])
    assert np.abs(found - final).max() < 1e-10
    for ours, theirs in zip(seen, expected_x0, strict=True):
        assert np.abs(torch.stack(ours).numpy() - theirs).max() < 1e-10


FAMILIES = ["ddim", "ve_euler", "flow_euler"]


@pytest.mark.parametrize("family", FAMILIES)
def test_uncoupled_samples_are_exact(family):
    assert_couple_equals_the_oracle([family] * 2, [])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "law", [0.05, 0.8, weights.relax(1.0), weights.rate(0.1), weights.window(0.2, 0.2, 0.6)], ids=str
)
def test_a_pair_follows_the_recursion_under_every_law(family, law):
    assert_couple_equals_the_oracle([family] * 2, [(0, 1, law, None, False)])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("count", "ends"),
    [
        (3, [(0, 1), (1, 2)]),
        (5, [(0, 1), (1, 2), (2, 3), (3, 4)]),
        (5, [(2, 0), (2, 1), (2, 3), (2, 4)]),
        (6, [(i, j) for i in range(6) for j in range(i)]),
        (5, [(0, 1), (2, 3)]),
    ],
    ids=["chain of 3", "chain of 5", "star", "complete of 6", "two pairs and one alone"],
)
def test_every_topology_follows_the_recursion(family, count, ends):
    edges = [(a, b, 0.02 + 0.01 * k, None, False) for k, (a, b) in enumerate(ends)]
    assert_couple_equals_the_oracle([family] * count, edges)


@pytest.mark.parametrize("family", FAMILIES)
def test_directions_and_masks_follow_the_recursion(family):
    edges = [
        (0, 1, 0.1, None, True),
        (1, 2, 0.2, MASK, False),
        (2, 0, 0.1, MASK > 0.5, True),
        (0, 2, 0.05, None, False),
    ]
    assert_couple_equals_the_oracle([family] * 3, edges)


@pytest.mark.parametrize(
    ("family", "prediction"),
    [("ddim", "v_prediction"), ("ddim", "sample"), ("ve_euler", "v_prediction")],
)
def test_prediction_types_follow_the_recursion_side_by_side(family, prediction):
    assert_couple_equals_the_oracle([family] * 2, [(0, 1, 0.1, None, False)], [prediction, "epsilon"])


@pytest.mark.parametrize("families", [("ddim", "ve_euler"), ("flow_euler", "ddim"), ("ve_euler", "flow_euler")])
def test_different_samplers_couple_at_their_own_levels(families):
    assert_couple_equals_the_oracle(list(families), [(0, 1, weights.relax(0.5), None, False)])


def test_the_oracle_agrees_with_the_recursion_of_the_gap():
    priors = [oracle.Gaussian(np.full(1, m), np.full(1, 0.7)) for m in (-1.0, 1.0)]
    schedule = schedule_of("ddim")
    weight = np.full(STEPS, 0.1)
    starts = [np.array([0.3]), np.array([-0.4])]
    final, _ = oracle.run(priors, [schedule] * 2, starts, [oracle.Link(0, 1, weight, weight)])
    gap, total = -0.7, -0.1
    for k in range(STEPS):
        alpha, sigma = schedule.alphas[k], schedule.sigmas[k]
        alpha_next, sigma_next = schedule.alphas[k + 1], schedule.sigmas[k + 1]
        gain = alpha * 0.49 / (alpha**2 * 0.49 + sigma**2)
        gap_x0, total_x0 = 2.0 * (1 - gain * alpha) + gain * gap, gain * total
        noise_gap, noise_total = (gap - alpha * gap_x0) / sigma, (total - alpha * total_x0) / sigma
        gap = alpha_next * gap_x0 + sigma_next * noise_gap - 2 * sigma_next * 0.1 * gap_x0
        total = alpha_next * total_x0 + sigma_next * noise_total
    assert final[1, 0] - final[0, 0] == pytest.approx(gap, abs=1e-12)
    assert final.sum() == pytest.approx(total, abs=1e-12)


def test_the_oracle_carries_an_uncoupled_gaussian_to_its_own_distribution():
    sigmas = np.geomspace(80, 1e-3, 2000)
    schedule = oracle.Schedule("ve_euler", np.ones(2000), sigmas)
    start = np.array([2.0])
    final, _ = oracle.run([oracle.Gaussian(np.array([3.0]), np.array([0.5]))], [schedule], [3 + 80 * start], [])
    assert final[0, 0] == pytest.approx(3 + 0.5 * 2.0, abs=0.02)
