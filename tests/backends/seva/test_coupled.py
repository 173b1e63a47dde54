"""Stable Virtual Camera among other trajectories: coupled, at weight 0, interleaved, merged."""

import pytest
import torch
from diffusers import StableDiffusionPipeline

import couple
from couple.backends.seva import shared_scheduler
from tests.tiny import FAMILIES
from tests.tiny import seva as tiny


def trajectory(name, k):
    family = tiny.FAMILIES[name]
    return couple.Trajectory(family.pipeline(), **{**family.arguments(k), "output_type": "latent"})


def alone(name, k):
    family = tiny.FAMILIES[name]
    return family.pipeline()(**{**family.arguments(k), "output_type": "latent"}).images


def editor(views):
    """Stable Diffusion over as many pictures as there are views, on the same levels."""
    parts = FAMILIES["sd21"].pipeline().components
    pipeline = StableDiffusionPipeline(**{**parts, "scheduler": shared_scheduler()}, requires_safety_checker=False)
    return couple.Trajectory(
        pipeline,
        prompt=["an old oak in snow"] * views,
        height=tiny.SIDE,
        width=tiny.SIDE,
        num_inference_steps=3,
        output_type="latent",
        generator=torch.Generator().manual_seed(7),
    )


def test_a_coupling_with_an_editor_moves_all_views_and_no_padding():
    views, edits = trajectory("seva", 0), editor(3)
    shapes = []
    result = couple.sample(
        [views, edits],
        couple.pair(views, edits, weight=0.05),
        max_batch=1,
        progress=False,
        callback=lambda info: shapes.append(tuple(info.x0[views].shape)),
    )
    assert set(shapes) == {(3, 4, 8, 8)}
    moved = (result[views].images - alone("seva", 0)).abs().amax(dim=(1, 2, 3))
    assert (moved > 1e-3).all()
    assert result[views].num_inputs == 1


def test_at_weight_zero_it_is_its_plain_call_bit_for_bit():
    name = "seva"
    a, b = trajectory(name, 0), trajectory(name, 1)
    result = couple.sample([a, b], couple.pair(a, b, weight=0.0), max_batch=1, progress=False)
    assert torch.equal(result[a].images, alone(name, 0))
    assert torch.equal(result[b].images, alone(name, 1))


def test_scenes_of_different_lengths_interleave_as_if_alone():
    a, b = trajectory("seva", 0), trajectory("seva_windows", 1)
    result = couple.sample([a, b], max_batch=1, progress=False)
    assert torch.equal(result[a].images, alone("seva", 0))
    assert torch.equal(result[b].images, alone("seva_windows", 1))


def test_merged_forwards_give_what_separate_ones_give():
    name = "seva_windows"
    a, b = trajectory(name, 0), trajectory(name, 1)
    result = couple.sample([a, b], progress=False)
    for node, k in ((a, 0), (b, 1)):
        expected = alone(name, k)
        assert (result[node].images - expected).abs().max() <= 1e-5 * expected.abs().max().clamp_min(1)


@pytest.mark.filterwarnings("error:a merged forward")
def test_forwards_of_two_trajectories_are_merged():
    """Frames of a clip stay together when calls are concatenated, so the check of the first merge passes."""
    rows = []
    a, b = trajectory("seva", 0), trajectory("seva", 1)
    handle = tiny.network().register_forward_hook(lambda module, args, output: rows.append(len(output)))
    try:
        couple.sample([a, b], progress=False)
    finally:
        handle.remove()
    assert rows[-1] == 2 * 2 * tiny.FRAMES
