"""IC-Light joins a coupling."""

import pytest
import torch

import couple
from tests.tiny.relighting import FAMILIES

families = pytest.mark.parametrize("name", ["ic_light fc", "ic_light fbc"])


def trajectories(name, **changes):
    family = FAMILIES[name]
    return [couple.Trajectory(family.pipeline(), name=str(k), **{**family.arguments(k), **changes}) for k in (0, 1)]


def alone(name, k, **changes):
    family = FAMILIES[name]
    return torch.as_tensor(family.pipeline()(**{**family.arguments(k), **changes}).images)


@families
def test_at_weight_zero_a_trajectory_is_its_plain_call_bit_for_bit(name):
    a, b = trajectories(name)
    result = couple.sample([a, b], couple.pair(a, b, weight=0.0), max_batch=1, progress=False)
    for k, node in enumerate((a, b)):
        assert torch.equal(torch.as_tensor(result[node].images), alone(name, k))


@families
def test_merged_trajectories_are_the_separate_ones(name):
    nodes = trajectories(name)
    result = couple.sample(nodes, progress=False)
    for k, node in enumerate(nodes):
        torch.testing.assert_close(torch.as_tensor(result[node].images), alone(name, k), rtol=1e-4, atol=1e-4)


@families
def test_a_coupling_draws_two_relightings_together(name):
    a, b = trajectories(name, output_type="latent")
    result = couple.sample([a, b], couple.pair(a, b, weight=couple.weights.relax(1.0)), max_batch=1, progress=False)
    before = [alone(name, k, output_type="latent") for k in (0, 1)]
    after = [result[node].images for node in (a, b)]
    assert not torch.equal(after[0], before[0]) and not torch.equal(after[1], before[1])
    assert torch.dist(*after) < torch.dist(*before)
