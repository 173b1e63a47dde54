"""Where memory runs out, a run takes less of it step by step, and says so."""

import warnings

import pytest
import torch

import couple
from couple.memory import Placement, streaming
from tests.memory.placed import STEPS, Full, block, denoiser, nodes, photograph, run, same
from tests.tiny import FAMILIES


@pytest.mark.parametrize("name", ["flux", "wan"])
def test_a_batch_that_is_too_large_is_halved_until_it_fits(name):
    expected, _ = run(name=name, count=4, max_batch=1)
    with (
        Full(block(name), lambda hidden: hidden.shape[0] > 1) as full,
        pytest.warns(RuntimeWarning, match="out of memory: .*max_batch=1"),
    ):
        found, result = run(Placement("auto", device="cpu"), name=name, count=4)
    kind = type(denoiser(name)).__name__
    assert result.placement.steps == [
        f"{kind}: sent other networks away and freed the cache",
        f"{kind}: max_batch=2",
        f"{kind}: max_batch=1",
    ]
    assert full.hits == 3
    assert same(found, expected)


def test_weights_are_streamed_when_nothing_else_is_left():
    before = photograph("flux")
    expected, _ = run(max_batch=1)
    left = iter([True] * 5)
    with (
        Full(block("flux"), lambda _: next(left, False)),
        pytest.warns(RuntimeWarning, match="streamed by layers"),
    ):
        found, result = run(Placement("auto", device="cpu"))
    assert [step.partition(": ")[2] for step in result.placement.steps] == [
        "sent other networks away and freed the cache",
        "max_batch=1",
        "weights streamed by blocks",
        "one forward at a time, each with a passage of the weights",
        "weights streamed by layers",
    ]
    assert same(found, expected)
    assert photograph("flux") == before


def test_forwards_that_wait_for_each_other_are_given_up_before_layers(passages):
    expected, _ = run(name="wan", count=3, max_batch=1)
    running = []

    def crowded(_):
        running.append(1)
        return len(running) in (1, 2, 3)  # the first has others behind it, and so have the next two attempts

    with Full(block("wan"), crowded), pytest.warns(RuntimeWarning, match="one forward at a time"):
        budget = streaming.size(streaming.tensors(denoiser("wan")))
        found, result = run(Placement("auto", budget=budget, device="cpu"), name="wan", count=3, max_batch=1)
    assert "streamed by" in result.placement.plan
    assert [step.partition(": ")[2] for step in result.placement.steps][:2] == [
        "sent other networks away and freed the cache",
        "one forward at a time, each with a passage of the weights",
    ]
    assert same(found, expected)
    # Two forwards at each step for each of three calls.
    moved = {passages[id(t)][1] for t in streaming.tensors(denoiser("wan").blocks[0])}
    assert max(moved) >= 2 * 3 * (STEPS - 1)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        torch.AcceleratorError("CUDA error: out of memory"),
    ],
)
def test_libraries_that_run_out_of_memory_are_understood(error):
    left = iter([error])

    def fail(*_):
        for one in left:
            raise one

    hook = block("flux").register_forward_pre_hook(fail)
    try:
        with pytest.warns(RuntimeWarning, match="out of memory"):
            found, _ = run(Placement("auto", device="cpu"))
    finally:
        hook.remove()
    assert same(found, run()[0])


def test_an_error_of_another_kind_is_no_step_down():
    hook = block("flux").register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("shapes differ")))
    try:
        with warnings.catch_warnings(action="error"), pytest.raises(RuntimeError, match="shapes differ"):
            run(Placement("auto", device="cpu"))
    finally:
        hook.remove()


def test_weights_go_home_when_the_run_is_over_and_not_between_two_ways_to_stream(monkeypatch):
    happened = []
    stock = streaming.Stream.go_home
    monkeypatch.setattr(streaming.Stream, "go_home", lambda self: (happened.append("home"), stock(self))[1])
    left = iter([True] * 5)
    members = nodes("flux")
    with Full(block("flux"), lambda _: next(left, False)), pytest.warns(RuntimeWarning, match="by layers"):
        couple.sample(
            members,
            couple.pair(*members, weight=0.1),
            placement=Placement("auto", device="cpu"),
            callback=lambda info: happened.append("step"),
            progress=False,
        )
    assert happened == ["step"] * STEPS + ["home"] * 2


def test_at_the_foot_of_the_ladder_the_error_is_the_users():
    before = photograph("flux")
    with (
        Full(block("flux"), lambda _: True) as full,
        pytest.warns(RuntimeWarning),
        pytest.raises(torch.OutOfMemoryError, match="there is no more"),
    ):
        run(Placement("auto", device="cpu"))
    assert full.hits == 6
    assert photograph("flux") == before


@pytest.mark.parametrize("memory", ["resident", "stream"])
def test_only_auto_steps_down(memory):
    with (
        Full(block("flux"), lambda _: True) as full,
        warnings.catch_warnings(action="error"),
        pytest.raises(torch.OutOfMemoryError),
    ):
        run(Placement(memory, device="cpu"))
    assert full.hits == 1


def test_an_autoencoder_decodes_row_by_row_and_then_in_tiles():
    before = photograph("flux")
    vae = FAMILIES["flux"].pipeline().vae
    kept = vae.tile_latent_min_size, vae.tile_sample_min_size
    vae.tile_latent_min_size, vae.tile_sample_min_size = 4, 8
    try:
        with (
            Full(vae.decoder, lambda z: z.shape[0] > 1 or z.shape[-1] > 4),
            pytest.warns(RuntimeWarning, match="AutoencoderKL: in tiles"),
        ):
            found, result = run(Placement("auto", device="cpu"), output_type="np", num_images_per_prompt=2, max_batch=1)
    finally:
        vae.tile_latent_min_size, vae.tile_sample_min_size = kept
    assert result.placement.steps == [
        "AutoencoderKL: sent other networks away and freed the cache",
        "AutoencoderKL: row by row",
        "AutoencoderKL: in tiles",
    ]
    expected, _ = run(output_type="np", num_images_per_prompt=2, max_batch=1)
    assert [picture.shape for picture in found] == [picture.shape for picture in expected]
    assert photograph("flux") == before
