"""Placements: everything is as it was after a run, also after an error."""

import pytest
import torch

import couple
from couple.memory import Placement
from tests.memory.placed import PLACEMENTS, Boom, denoiser, families, nodes, photograph, run, same


@families
@pytest.mark.parametrize("error", [None, Boom, KeyboardInterrupt])
@pytest.mark.parametrize("place", ["one at a time", "blocks", "layers", "half of the blocks"])
def test_networks_are_what_and_where_they_were(name, place, error):
    before = photograph(name)
    plain, _ = run(name=name)

    def interrupt(info):
        if info.step == 1 and error is not None:
            raise error

    members = nodes(name)
    settings = {"placement": PLACEMENTS[place](), "progress": False, "callback": interrupt}
    if error is None:
        couple.sample(members, **settings)
    else:
        with pytest.raises(error):
            couple.sample(members, **settings)
    assert photograph(name) == before
    assert same(run(name=name)[0], plain)


@pytest.mark.parametrize("place", ["blocks", "layers"])
def test_an_error_inside_a_block_leaves_nothing_behind(place):
    before = photograph("wan")
    calls = iter(range(100))

    def fail(*_):
        if next(calls) == 5:
            raise Boom

    hook = denoiser("wan").blocks[1].register_forward_hook(fail)
    try:
        with pytest.raises(Boom):
            run(PLACEMENTS[place](), name="wan", max_batch=1)
    finally:
        hook.remove()
    assert photograph("wan") == before


def test_step_caches_outlive_a_streamed_run():
    from diffusers import FirstBlockCacheConfig

    network = denoiser("flux")
    network.enable_cache(FirstBlockCacheConfig(threshold=0.2))
    try:
        expected, _ = run(steps=5)
        assert same(run(PLACEMENTS["blocks"](), steps=5)[0], expected)
        assert same(run(steps=5)[0], expected)
    finally:
        network.disable_cache()


# Eight bits


@pytest.mark.parametrize("place", ["resident", "stream"])
def test_eight_bits_halve_what_is_stored_and_are_undone(place):
    before, exact = photograph("flux"), run()[0]
    network = denoiser("flux")
    stored = set()

    def look(info):
        stored.add(network.single_transformer_blocks[0].proj_mlp.weight.dtype)

    members = nodes("flux")
    placement = Placement(place, fp8=True, device="cpu")
    result = couple.sample(
        members, couple.pair(*members, weight=0.1), placement=placement, callback=look, progress=False
    )
    assert stored == {torch.float8_e4m3fn}
    for node, expected in zip(members, exact, strict=True):
        error = (result[node][0] - expected).norm() / expected.norm()
        assert 0 < error < 0.1
    assert photograph("flux") == before
