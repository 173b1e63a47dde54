"""Sampling through `couple` against stock calls of the same loaded object, for every tiny pipeline family.

Without an edge, or at weight 0, a sampled trajectory *is* its stock call, bit for bit; merged forwards only
regroup the rows of a batch; a coupling moves both ends; and whatever happened, the user's objects are as they
were.
"""

import pytest
import torch
from diffusers import SchedulerMixin

import couple
from tests.tiny import FAMILIES

families = pytest.mark.parametrize("name", FAMILIES)


def trajectories(name, **changes):
    family = FAMILIES[name]
    return [
        couple.Trajectory(family.pipeline(), name=f"{name} {k}", **{**family.arguments(k), **changes}) for k in (0, 1)
    ]


def stock(name, k, **changes):
    family = FAMILIES[name]
    return torch.as_tensor(family.pipeline()(**{**family.arguments(k), **changes})[0])


def samples(result, nodes):
    return [torch.as_tensor(result[node][0]) for node in nodes]


def portrait(pipeline):
    """Everything of a pipeline that a hook or a run could have touched, as plain values and tensors."""
    seen = {"class": type(pipeline), "own": dict(pipeline.__dict__), "config": dict(pipeline.config)}
    for name, component in pipeline.components.items():
        if isinstance(component, SchedulerMixin):
            seen[name] = (component, type(component), {k: _frozen(v) for k, v in component.__dict__.items()})
        elif isinstance(component, torch.nn.Module):
            seen[name] = [
                (
                    path,
                    part,
                    type(part),
                    sorted(part.__dict__),
                    list(part._forward_hooks),
                    list(part._forward_pre_hooks),
                )
                for path, part in component.named_modules()
            ]
    return seen


def _frozen(value):
    if isinstance(value, torch.Tensor):
        return value.tolist()
    return [_frozen(item) for item in value] if isinstance(value, list | tuple) else value


@families
def test_without_an_edge_a_trajectory_is_its_stock_call_bit_for_bit(name):
    nodes = trajectories(name)
    result = couple.sample(nodes, max_batch=1, progress=False)
    for k, sample in enumerate(samples(result, nodes)):
        assert torch.equal(sample, stock(name, k))


@families
def test_at_weight_zero_a_trajectory_is_its_stock_call_bit_for_bit(name):
    a, b = trajectories(name)
    result = couple.sample([a, b], couple.pair(a, b, weight=0.0), max_batch=1, progress=False)
    for k, sample in enumerate(samples(result, (a, b))):
        assert torch.equal(sample, stock(name, k))


@families
def test_the_answer_is_of_the_type_that_the_stock_call_returns(name):
    family = FAMILIES[name]
    (a, _) = nodes = trajectories(name)
    result = couple.sample(nodes, max_batch=1, progress=False)
    assert type(result[a]) is type(family.pipeline()(**family.arguments(0)))


@families
def test_merged_forwards_give_what_separate_ones_give(name):
    nodes = trajectories(name)
    merged = samples(couple.sample(nodes, progress=False), nodes)
    for k, sample in enumerate(merged):
        expected = stock(name, k)
        assert (sample - expected).abs().max() <= 1e-5 * max(1.0, expected.abs().max().item())


@families
def test_a_coupling_draws_the_two_samples_together(name):
    a, b = trajectories(name, output_type="latent")
    alone = [stock(name, k, output_type="latent") for k in (0, 1)]
    norms = []
    result = couple.sample(
        [a, b],
        couple.pair(a, b, weight=couple.weights.relax(1.0)),
        max_batch=1,
        progress=False,
        callback=lambda info: norms.append({node: float(norm) for node, norm in info.pull_norms.items()}),
    )
    together = samples(result, (a, b))
    assert not torch.equal(together[0], alone[0])
    assert not torch.equal(together[1], alone[1])
    assert torch.dist(*together) < torch.dist(*alone)
    assert all(step[a] == pytest.approx(step[b], rel=1e-5) for step in norms if step)
    assert any(step[a] > 0 for step in norms if step)


@families
def test_the_pipeline_and_its_parts_are_unchanged_after_a_run(name):
    pipeline = FAMILIES[name].pipeline()
    stock(name, 0)  # the first call of all leaves things behind, such as tables of position embeddings
    before = portrait(pipeline)
    a, b = trajectories(name)
    couple.sample([a, b], couple.pair(a, b, weight=0.1), progress=False)
    assert portrait(pipeline) == before


@families
def test_unlike_pipelines_run_side_by_side_as_if_alone(name):
    names = list(FAMILIES)
    neighbour = names[names.index(name) - 1]
    (a, _), (_, b) = trajectories(name), trajectories(neighbour)
    result = couple.sample([a, b], max_batch=1, progress=False)
    assert torch.equal(torch.as_tensor(result[a][0]), stock(name, 0))
    assert torch.equal(torch.as_tensor(result[b][0]), stock(neighbour, 1))
