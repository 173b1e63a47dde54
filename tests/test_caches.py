"""Step caches of diffusers under coupling: every call has a memory of its own, as it has alone."""

import contextlib
import copy

import pytest
import torch
from diffusers import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
)

import couple
from tests.tiny import FAMILIES

STEPS = 6
CACHES = {
    "first block": lambda: FirstBlockCacheConfig(threshold=2.0),
    "taylor": lambda: TaylorSeerCacheConfig(cache_interval=2, disable_cache_before_step=1, max_order=1),
    "mag": lambda: MagCacheConfig(mag_ratios=torch.ones(STEPS), num_inference_steps=STEPS, retention_ratio=0.2),
}


@contextlib.contextmanager
def cache(network, config):
    network.enable_cache(config)
    try:
        yield
    finally:
        network.disable_cache()


def nodes(name, steps=(STEPS, STEPS)):
    family = FAMILIES[name]
    return [
        couple.Trajectory(
            family.pipeline(), **{**family.arguments(k), "num_inference_steps": steps[k], "output_type": "latent"}
        )
        for k in (0, 1)
    ]


def alone(name, steps=(STEPS, STEPS)):
    return [torch.as_tensor(node.pipeline(**node.call_kwargs)[0]) for node in nodes(name, steps)]


def together(name, weight=None, steps=(STEPS, STEPS)):
    a, b = nodes(name, steps)
    result = couple.sample([a, b], [] if weight is None else couple.pair(a, b, weight=weight), progress=False)
    return [torch.as_tensor(result[node][0]) for node in (a, b)]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("flux", "first block"), ("wan", "first block"), ("flux", "taylor"), ("flux", "mag"), ("wan", "mag")],
)
def test_a_cached_trajectory_is_its_cached_stock_call_bit_for_bit(name, kind):
    plain = alone(name)
    network = FAMILIES[name].pipeline().transformer
    with cache(network, CACHES[kind]()):
        expected = alone(name)
        found = together(name)
        assert any(not torch.equal(one, other) for one, other in zip(plain, expected, strict=True))
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other)
        assert all(torch.equal(one, other) for one, other in zip(alone(name), expected, strict=True))
        moved = together(name, weight=0.3)
        assert all(not torch.equal(one, other) for one, other in zip(moved, expected, strict=True))
        assert all(one.isfinite().all() for one in moved)
    assert all(torch.equal(one, other) for one, other in zip(alone(name), plain, strict=True))


@pytest.mark.parametrize("kind", list(CACHES))
@pytest.mark.parametrize("name", ["flux", "wan"])
def test_coupled_calls_that_share_a_cached_network_are_those_with_a_network_each(name, kind):
    a, b = nodes(name)
    twin = copy.copy(b.pipeline)
    twin.transformer = copy.deepcopy(b.pipeline.transformer)
    with cache(a.pipeline.transformer, CACHES[kind]()):
        shared = together(name, weight=0.3)
        with cache(twin.transformer, CACHES[kind]()):
            b = couple.Trajectory(twin, **nodes(name)[1].call_kwargs)
            apart = couple.sample([a, b], couple.pair(a, b, weight=0.3), progress=False)
    for one, node in zip(shared, (a, b), strict=True):
        assert torch.equal(one, torch.as_tensor(apart[node][0]))
    assert all(not torch.equal(one, other) for one, other in zip(shared, together(name, weight=0.3), strict=True))


def test_a_cached_network_serves_calls_one_by_one_and_no_network_is_cached_unasked():
    a, b = nodes("flux")
    network = a.pipeline.transformer
    assert not network.is_cache_enabled
    assert couple.sample([a, b], progress=False).forwards == STEPS
    with cache(network, CACHES["first block"]()):
        assert couple.sample(nodes("flux"), progress=False).forwards == 2 * STEPS
    assert not network.is_cache_enabled


def test_a_call_that_ends_early_leaves_the_cache_of_the_other_alone():
    steps = (2, 7)
    network = FAMILIES["wan"].pipeline().transformer
    with cache(network, CACHES["first block"]()):
        for one, other in zip(together("wan", steps=steps), alone("wan", steps), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize(
    "config",
    [
        lambda clock: PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2, current_timestep_callback=clock
        ),
        lambda clock: FasterCacheConfig(current_timestep_callback=clock),
    ],
    ids=["pyramid", "faster"],
)
def test_a_cache_that_cannot_tell_calls_apart_is_refused(config):
    pipeline = FAMILIES["cogvideox"].pipeline()
    config = config(lambda: pipeline.current_timestep)
    with cache(pipeline.transformer, config), pytest.raises(ValueError, match=type(config).__name__):
        together("cogvideox")
