"""The laws of coupling that hold through `couple.sample`, on exact denoisers."""

import itertools

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from double import float64_schedulers  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st

import couple
from couple import energies, weights

STEPS = 6
SCHEDULERS = {
    "DDIM": lambda: DDIMScheduler(clip_sample=False),
    "DDPM": lambda: DDPMScheduler(clip_sample=False),
    "Euler": EulerDiscreteScheduler,
    "flow": FlowMatchEulerDiscreteScheduler,
}
every_scheduler = pytest.mark.parametrize("scheduler", SCHEDULERS.values(), ids=SCHEDULERS)


def pipelines(scheduler, count):
    means = torch.linspace(-1, 1, 12).reshape(3, 4)
    return [
        couple.DenoiserPipeline(couple.ExactDenoiser.gaussian(means.roll(i), 0.1 + 0.2 * i), scheduler())
        for i in range(count)
    ]


def trajectories(pipes):
    return [
        couple.Trajectory(
            pipe, name=f"t{i}", shape=(2, 3, 4), num_inference_steps=STEPS, generator=torch.Generator().manual_seed(i)
        )
        for i, pipe in enumerate(pipes)
    ]


def sample(nodes, edges=()):
    result = couple.sample(nodes, edges, progress=False)
    return {node.name: result[node] for node in nodes}


def assert_equal(found, expected, but=()):
    assert found.keys() == expected.keys()
    for name in found.keys() - set(but):
        assert torch.equal(found[name], expected[name])
    for name in but:
        assert not torch.equal(found[name], expected[name])


@every_scheduler
def test_without_pull_every_sample_is_the_stock_one(scheduler):
    pipes = pipelines(scheduler, 2)
    stock = {t.name: t.pipeline(**t.call_kwargs) for t in trajectories(pipes)}
    nodes = trajectories(pipes)
    assert_equal(sample(nodes), stock)
    nodes = trajectories(pipes)
    assert_equal(sample(nodes, couple.pair(*nodes, weight=0)), stock)
    nodes = trajectories(pipes)
    mask = torch.zeros(3, 4)
    assert_equal(sample(nodes, couple.pair(*nodes, weight=0.5, mask=mask)), stock)


@pytest.mark.parametrize("law", [0.1, weights.implicit(3.0), weights.relax(1.0)], ids=str)
@pytest.mark.parametrize("topology", [couple.chain, couple.complete])
@given(data=st.data())
@settings(max_examples=5, deadline=None)
def test_permuting_trajectories_and_edges_changes_no_bit(law, topology, data):
    pipes = pipelines(SCHEDULERS["DDPM"], 6)
    nodes = trajectories(pipes)
    expected = sample(nodes, topology(nodes, weight=law))
    nodes = trajectories(pipes)
    edges = data.draw(st.permutations(topology(nodes, weight=law)))
    assert_equal(sample(data.draw(st.permutations(nodes)), edges), expected)


@every_scheduler
def test_a_directed_source_and_another_component_are_untouched(scheduler):
    pipes = pipelines(scheduler, 5)
    alone = sample(trajectories(pipes))
    nodes = trajectories(pipes)
    edges = couple.star(nodes[0], nodes[1:3], weight=0.2, directed=True)
    assert_equal(sample(nodes, edges), alone, but=("t1", "t2"))
    nodes = trajectories(pipes)
    first = sample(nodes, couple.pair(*nodes[:2], weight=0.2))
    assert_equal(first, alone, but=("t0", "t1"))
    nodes = trajectories(pipes)
    both = sample(nodes, couple.pair(*nodes[:2], weight=0.2) + couple.pair(*nodes[2:4], weight=0.3))
    assert_equal(both, first, but=("t2", "t3"))


@every_scheduler
def test_two_edges_of_half_the_weight_are_one(scheduler):
    pipes = pipelines(scheduler, 3)
    nodes = trajectories(pipes)
    whole = sample(nodes, couple.chain(nodes, weight=0.2))
    nodes = trajectories(pipes)
    halves = sample(nodes, couple.chain(nodes, weight=0.1) + couple.chain(nodes, weight=0.1))
    assert_equal(halves, whole)


@every_scheduler
def test_swapped_ends_give_swapped_samples(scheduler):
    one, other = pipelines(scheduler, 2)
    nodes = trajectories([one, other])
    expected = sample(nodes, couple.pair(*nodes, weight=0.2, energy=energies.huber(0.5)))
    nodes = trajectories([one, other])
    assert_equal(sample(nodes[::-1], couple.pair(*nodes[::-1], weight=0.2, energy=energies.huber(0.5))), expected)


@every_scheduler
def test_equal_calls_stay_equal_however_strong_the_pull(scheduler):
    pipes = pipelines(scheduler, 1) * 2
    a, b = (
        couple.Trajectory(pipe, shape=(2, 3, 4), num_inference_steps=STEPS, generator=torch.Generator().manual_seed(0))
        for pipe in pipes
    )
    result = couple.sample([a, b], couple.pair(a, b, weight=0.4), progress=False)
    stock = pipes[0]((2, 3, 4), num_inference_steps=STEPS, generator=torch.Generator().manual_seed(0))
    assert torch.equal(result[a], stock)
    assert torch.equal(result[b], stock)


@every_scheduler
def test_noise_does_not_depend_on_company(scheduler):
    pipes = pipelines(scheduler, 4)
    alone = {}
    for i in range(4):
        alone.update(sample([trajectories(pipes)[i]]))
    assert_equal(sample(trajectories(pipes)), alone)
    assert_equal(sample(trajectories(pipes)[::-1]), alone)


LAWS = [0.0, 0.1, weights.relax(1.0), weights.rate(0.2), weights.linear(0.2, 0.0)]


@pytest.mark.usefixtures("float64_schedulers")
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("law", LAWS, ids=str)
def test_variance_preserving_exploding_and_flow_samplers_agree_at_matched_levels(law):
    table = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    vp = DDIMScheduler(clip_sample=False, steps_offset=1, **table)
    vp.set_timesteps(STEPS)
    products = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)[vp.timesteps.numpy()]
    noise = np.sqrt(1 / products - 1)
    schedulers = {
        "vp": (vp, {"num_inference_steps": STEPS}, np.sqrt(products[0])),
        "ve": (EulerDiscreteScheduler(timestep_spacing="trailing", **table), {"sigmas": [*noise, 0.0]}, 1.0),
        "flow": (FlowMatchEulerDiscreteScheduler(), {"sigmas": (noise / (1 + noise)).tolist()}, 1 / (1 + noise[0])),
    }
    generator = torch.Generator().manual_seed(0)
    starts = noise[0] * torch.randn(2, 1, 3, 4, generator=generator, dtype=torch.float64)
    means = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    paths = {}
    for name, (scheduler, schedule, scale) in schedulers.items():
        scheduler.set_timesteps(**schedule)
        scale = scale / float(getattr(scheduler, "init_noise_sigma", 1.0))
        nodes = [
            couple.Trajectory(
                couple.DenoiserPipeline(couple.ExactDenoiser.gaussian(mean, 0.5), scheduler),
                latents=start * scale, schedule=schedule, name=str(i),
            )
            for i, (mean, start) in enumerate(zip(means, starts, strict=True))
        ]  # fmt: skip
        path = paths[name] = []
        couple.sample(
            nodes, couple.pair(*nodes, weight=law), progress=False,
            callback=lambda info, path=path, nodes=nodes: path.append(torch.stack([info.x0[n] for n in nodes])),
        )  # fmt: skip
    for one, other in itertools.combinations(paths.values(), 2):
        assert len(one) == len(other) == STEPS
        assert max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True)) < 1e-10
