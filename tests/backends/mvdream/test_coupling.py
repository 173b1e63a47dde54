"""MVDream joins a coupling as any stock pipeline does."""

import functools

import pytest
import torch

import couple
from tests.tiny.mvdream import FAMILIES

FAMILY = FAMILIES["mvdream"]


def arguments(k, **changes):
    return {**FAMILY.arguments(k), "output_type": "latent", **changes}


def nodes(*changes):
    return [couple.Trajectory(FAMILY.pipeline(), **arguments(k, **change)) for k, change in enumerate(changes)]


@functools.cache
def alone(k, **changes):
    return FAMILY.pipeline()(**arguments(k, **changes)).images


def run(trajectories, edges=(), **settings):
    result = couple.sample(trajectories, edges, progress=False, **settings)
    return [result[node].images for node in trajectories], result.forwards


def test_at_weight_zero_it_is_the_plain_call_bit_for_bit():
    a, b = nodes({}, {})
    samples, _ = run([a, b], couple.pair(a, b, weight=0.0), max_batch=1)
    for k, sample in enumerate(samples):
        assert torch.equal(sample, alone(k))


def test_side_by_side_calls_of_one_network_do_not_mix():
    changes = {"elevation": 0.0, "num_views": 3}, {"elevation": 30.0, "guidance_scale": 2.0}, {"num_inference_steps": 3}
    samples, forwards = run(nodes(*changes))
    for k, (sample, change) in enumerate(zip(samples, changes, strict=True)):
        assert torch.equal(sample, alone(k, **change))
    assert forwards == 11


def test_merged_forwards_keep_the_views_of_each_call_together():
    samples, forwards = run(nodes({}, {"elevation": 0.0}))
    assert forwards < 8
    for sample, expected in zip(samples, (alone(0), alone(1, elevation=0.0)), strict=True):
        assert (sample - expected).abs().max() <= 1e-5 * max(1.0, expected.abs().max().item())


def test_a_coupling_draws_the_two_together():
    a, b = nodes({}, {})
    (x, y), _ = run([a, b], couple.pair(a, b, weight=couple.weights.relax(1.0)))
    assert torch.dist(x, y) < 0.9 * torch.dist(alone(0), alone(1))


@pytest.mark.parametrize("k", [0, 3])
def test_a_single_view_can_be_coupled(k):
    a, b = nodes({}, {})
    (x, y), _ = run([a, b], couple.pair(a[k], b[k], weight=couple.weights.relax(1.0)))
    shrunk = [float(torch.dist(x[i], y[i]) / torch.dist(alone(0)[i], alone(1)[i])) for i in range(4)]
    assert min(range(4), key=shrunk.__getitem__) == k
