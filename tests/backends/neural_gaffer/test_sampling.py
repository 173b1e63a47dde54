"""Neural Gaffer joins a coupling."""

import torch

import couple
from tests.tiny.relighting import FAMILIES

FAMILY = FAMILIES["neural_gaffer"]


def trajectories():
    return [couple.Trajectory(FAMILY.pipeline(), name=str(k), **FAMILY.arguments(k)) for k in (0, 1)]


def alone(k):
    return FAMILY.pipeline()(**FAMILY.arguments(k)).images


def test_at_weight_zero_a_trajectory_is_its_plain_call_bit_for_bit():
    a, b = trajectories()
    result = couple.sample([a, b], couple.pair(a, b, weight=0.0), max_batch=1, progress=False)
    assert torch.equal(result[a].images, alone(0))
    assert torch.equal(result[b].images, alone(1))


def test_merged_trajectories_are_the_separate_ones():
    nodes = trajectories()
    result = couple.sample(nodes, progress=False)
    for k, node in enumerate(nodes):
        torch.testing.assert_close(result[node].images, alone(k), rtol=1e-4, atol=1e-4)


def test_a_coupling_draws_two_relightings_together():
    a, b = trajectories()
    result = couple.sample([a, b], couple.pair(a, b, weight=couple.weights.relax(1.0)), max_batch=1, progress=False)
    assert not torch.equal(result[a].images, alone(0)) and not torch.equal(result[b].images, alone(1))
    assert torch.dist(result[a].images, result[b].images) < torch.dist(alone(0), alone(1))


def test_it_couples_with_another_editor():
    light = FAMILIES["ic_light fbc"]
    a = trajectories()[0]
    b = couple.Trajectory(light.pipeline(), name="light", **light.arguments(1))
    result = couple.sample([a, b], couple.pair(a, b, weight=couple.weights.relax(0.3)), max_batch=1, progress=False)
    before = light.pipeline()(**light.arguments(1)).images
    assert torch.dist(result[a].images, result[b].images) < torch.dist(alone(0), before)
