"""States under each method equal those that numpy follows to 1e-10, and all samples have the moments it predicts."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from double import float64_schedulers  # noqa: F401

import couple
from couple import maps, weights
from couple.methods import MultiDiffusion, ScoreAverage, ScoreAverageMCMC, SyncTweedies
from tests.methods import affine, gaussians

STEPS = 6
SIZE = 5
pytestmark = [
    pytest.mark.usefixtures("float64_schedulers"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]
conventions = pytest.mark.parametrize("convention", ["VP", "VE", "flow"])
WHOLE = np.s_[:]


def nodes_of(models, convention, starts):
    build, schedule, levels = gaussians.matched(STEPS)[convention]
    scale = np.hypot(levels[0][0], levels[1][0])
    starts = [start * scale for start in starts]
    nodes = [gaussians.exact(*both, name=str(i)) for i, both in enumerate(_zip(models, build, schedule, starts))]
    return nodes, [levels] * len(models), starts


def _zip(models, build, schedule, starts):
    return [(model, build, schedule, start) for model, start in zip(models, starts, strict=True)]


def assert_follows(average, method, nodes, edges, models, levels, starts, groups, shares):
    expected = affine.follow(average, models, levels, starts, groups, shares)
    result = couple.sample(nodes, edges, method=method, progress=False)
    for node, state in zip(nodes, expected, strict=True):
        assert np.abs(result[node].numpy() - state).max() < 1e-10


def noise(count, rows=2, seed=3):
    return list(np.random.default_rng(seed).normal(size=(count, rows, SIZE)))


@conventions
def test_three_scores_are_averaged_by_their_shares(convention):
    models = gaussians.diagonal(3, SIZE)
    nodes, levels, starts = nodes_of(models, convention, noise(1) * 3)
    shares = (1.0, 2.0, -0.5)  # the last one is composed by negation
    assert_follows(
        "x0", ScoreAverage(shares=dict(zip(nodes, shares, strict=True))), nodes, couple.chain(nodes, weight=1),
        models, levels, starts, [[(i, WHOLE) for i in range(3)]], shares,
    )  # fmt: skip


@conventions
@pytest.mark.parametrize("average", ["x0", "state"])
def test_whole_states_are_averaged_by_their_shares(convention, average):
    models = gaussians.diagonal(3, SIZE)
    nodes, levels, starts = nodes_of(models, convention, noise(3))
    shares = (3.0, 1.0, 1.0)
    method = SyncTweedies if average == "x0" else MultiDiffusion
    assert_follows(
        average, method(shares={nodes[0]: 3}), nodes, couple.star(nodes[0], nodes[1:], weight=0.1),
        models, levels, starts, [[(i, WHOLE) for i in range(3)]], shares,
    )  # fmt: skip


@pytest.mark.parametrize("method", [ScoreAverage, SyncTweedies, MultiDiffusion], ids=lambda m: m.__name__)
def test_only_linked_rows_are_averaged(method):
    models = gaussians.diagonal(3, SIZE)
    views = np.random.default_rng(5).normal(size=(4, SIZE))
    nodes, levels, starts = nodes_of(models, "VP", [views, views[1:3], views[2:3]])
    several, both, single = nodes
    edges = [
        couple.Edge(several[1], both[0], weight=1),
        couple.Edge(several[2], both[1], weight=1),
        couple.Edge(both[1], single, weight=1),
    ]
    groups = [[(0, np.s_[1]), (1, np.s_[0])], [(0, np.s_[2]), (1, np.s_[1]), (2, np.s_[0])]]
    average = "state" if method is MultiDiffusion else "x0"
    assert_follows(average, method(), nodes, edges, models, levels, starts, groups, (1, 1, 1))


@pytest.mark.parametrize("method", [ScoreAverage, SyncTweedies, MultiDiffusion], ids=lambda m: m.__name__)
def test_masks_say_which_elements_are_shared(method):
    models = gaussians.diagonal(2, SIZE)
    nodes, levels, starts = nodes_of(models, "flow", noise(1) * 2)
    mask = torch.tensor([True, False, True, False, False])
    groups = [[(0, np.s_[:, [0, 2]]), (1, np.s_[:, [0, 2]])]]
    average = "state" if method is MultiDiffusion else "x0"
    edges = couple.pair(*nodes, weight=1, mask=mask)
    assert_follows(average, method(), nodes, edges, models, levels, starts, groups, (1, 1))


def test_windows_of_a_panorama_are_averaged_where_they_overlap():
    # Three windows of width 4 at 0, 2 and 4 of a canvas of width 8; columns 2 to 5 are seen by two of them.
    draw = np.random.default_rng(0)
    means, canvas = draw.normal(size=(3, 2, 4)), draw.normal(size=(1, 2, 8))
    build, schedule, levels = gaussians.matched(STEPS)["VP"]
    nodes = [
        couple.Trajectory(
            couple.DenoiserPipeline(couple.ExactDenoiser.gaussian(torch.from_numpy(mean)[None], 0.5), build()),
            latents=torch.from_numpy(canvas[:, None, :, 2 * k : 2 * k + 4]), schedule=schedule, name=f"window {k}",
        )
        for k, mean in enumerate(means)
    ]  # fmt: skip
    edges = [
        couple.Edge(a.through(maps.crop(0, 2, 2, 2)), b.through(maps.crop(0, 0, 2, 2)), weight=1)
        for a, b in zip(nodes, nodes[1:], strict=False)
    ]
    models = [affine.Gaussian(mean.reshape(-1), 0.25 * np.eye(8)) for mean in means]
    starts = [canvas[..., 2 * k : 2 * k + 4].reshape(1, 8) for k in range(3)]
    right, left = [2, 3, 6, 7], [0, 1, 4, 5]
    groups = [[(k, np.s_[:, right]), (k + 1, np.s_[:, left])] for k in range(2)]
    expected = affine.follow("state", models, [levels] * 3, starts, groups, (1, 1, 1))
    result = couple.sample(nodes, edges, method=MultiDiffusion(), progress=False)
    for node, state in zip(nodes, expected, strict=True):
        assert np.abs(result[node].numpy().reshape(1, 8) - state).max() < 1e-10


def test_predictions_are_averaged_across_conventions():
    models, settings = gaussians.diagonal(2, SIZE), gaussians.matched(STEPS)
    starts = [start * np.hypot(*(level[0] for level in settings[name][2])) for start, name in zip(noise(2), ("VE", "flow"), strict=True)]  # fmt: skip
    nodes = [
        gaussians.exact(model, *settings[name][:2], start, name)
        for model, start, name in zip(models, starts, ("VE", "flow"), strict=True)
    ]
    levels = [settings["VE"][2], settings["flow"][2]]
    groups = [[(0, WHOLE), (1, WHOLE)]]
    assert_follows("x0", SyncTweedies(), nodes, couple.pair(*nodes, weight=1), models, levels, starts, groups, (1, 1))


@pytest.mark.parametrize("method", [SyncTweedies, MultiDiffusion, ScoreAverage], ids=lambda m: m.__name__)
def test_a_window_lets_go(method):
    models = gaussians.diagonal(2, SIZE)
    nodes, levels, starts = nodes_of(models, "VP", noise(1) * 2)
    average = "state" if method is MultiDiffusion else "x0"
    groups = [[(0, WHOLE), (1, WHOLE)]]
    alphas, sigmas = levels[0]
    half = [(alphas[: STEPS // 2 + 1], sigmas[: STEPS // 2 + 1])] * 2
    middle = affine.follow(average, models, half, starts, groups, (1, 1))
    rest = [(alphas[STEPS // 2 :], sigmas[STEPS // 2 :])] * 2
    expected = affine.follow(average, models, rest, middle, [], (1, 1))
    law = weights.window(1, 0.0, 0.5)
    result = couple.sample(nodes, couple.pair(*nodes, weight=law), method=method(), progress=False)
    for node, state in zip(nodes, expected, strict=True):
        assert np.abs(result[node].numpy() - state).max() < 1e-10


ROWS, SHARES = 4000, (0.7, 0.3)


def plane(method, scheduler, steps, shares=SHARES):
    """Samples of both Gaussians of the plane as one state, shape (ROWS, 2); each call has a generator of its own."""
    noise = torch.randn(ROWS, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    nodes = [
        couple.Trajectory(
            gaussians.vp(model, scheduler), latents=noise, num_inference_steps=steps, name=str(k),
            generator=torch.Generator().manual_seed(k),
        )
        for k, model in enumerate(gaussians.PAIR)
    ]  # fmt: skip
    result = couple.sample(
        nodes,
        couple.pair(*nodes, weight=1),
        method=method(shares=dict(zip(nodes, shares, strict=True))),
        progress=False,
    )
    a, b = (result[node] for node in nodes)
    assert torch.equal(a, b)
    return a.double().numpy()


def corrected(**settings):
    return lambda shares: ScoreAverageMCMC(generator=torch.Generator().manual_seed(2), shares=shares, **settings)


def twice_beta_of(steps):
    levels = gaussians.squares(steps)
    return dict(zip(levels[:-1], 2 * (1 - levels[:-1] / levels[1:]), strict=True)).__getitem__


samplers = pytest.mark.parametrize(
    ("scheduler", "step"), [(DDIMScheduler, "ddim"), (DDPMScheduler, "ddpm")], ids=["DDIM", "DDPM"]
)


@samplers
def test_averaged_scores_have_the_moments_of_the_recursion_and_not_of_the_product(scheduler, step):
    expected = affine.moments(gaussians.PAIR, SHARES, gaussians.squares(8), step)
    samples = plane(lambda shares: ScoreAverage(shares=shares), scheduler, 8)
    assert affine.deviations(samples, expected) < 4
    assert affine.deviations(samples, affine.product(gaussians.PAIR, SHARES)) > 20


@samplers
@pytest.mark.parametrize(
    ("settings", "chain", "size_of"),
    [
        ({"sampler": "ula", "steps": 4, "step_size": 0.05}, affine.langevin(4), lambda square: 0.05),
        (
            {"sampler": "ula", "steps": 3, "step_size": lambda levels: 0.2 * levels.sigma**2},
            affine.langevin(3),
            lambda square: 0.2 * (1 - square),
        ),
        ({}, affine.langevin(10), twice_beta_of(8)),
        (
            {"sampler": "uha", "steps": 3, "step_size": 0.15, "leapfrog": 2, "damping": 0.6},
            affine.hamiltonian(3, 2, 0.6),
            lambda square: 0.15,
        ),
        ({"sampler": "uha"}, affine.hamiltonian(10, 3, 0.5), lambda square: 0.03),
    ],
    ids=["ULA", "ULA by level", "ULA as published", "UHA", "UHA as published"],
)
def test_corrected_samples_have_the_moments_of_the_chain(scheduler, step, settings, chain, size_of):
    expected = affine.moments(gaussians.PAIR, SHARES, gaussians.squares(8), step, (chain, size_of))
    assert affine.deviations(plane(corrected(**settings), scheduler, 8), expected) < 4


@pytest.mark.parametrize(
    "settings",
    [{"sampler": "ula", "steps": 100, "step_size": 0.01}, {"sampler": "uha", "steps": 15, "step_size": 0.1}],
    ids=["ULA", "UHA"],
)
def test_enough_corrections_sample_the_product(settings):
    samples = plane(corrected(**settings), DDPMScheduler, 8)
    assert affine.deviations(samples, affine.product(gaussians.PAIR, SHARES)) < 4
