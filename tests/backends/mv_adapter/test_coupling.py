"""Multi-view calls beside each other: bit-equal to their own calls, merged without mixing, drawn together."""

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

import couple
from couple.backends.mv_adapter import rig
from tests.tiny.building import PROMPTS
from tests.tiny.mv_adapter import FAMILIES

families = pytest.mark.parametrize("name", FAMILIES)


def trajectory(name, k, **changes):
    family = FAMILIES[name]
    arguments = {**family.arguments(k), "output_type": "latent", **changes}
    return couple.Trajectory(family.pipeline(), name=f"{name} {k}", **arguments)


def alone(node):
    arguments = dict(node.call_kwargs)
    if "generator" in arguments:
        arguments["generator"] = torch.Generator().manual_seed(arguments["generator"].initial_seed())
    return torch.as_tensor(node.pipeline(**arguments)[0])


@families
def test_interleaved_calls_are_the_calls_alone_bit_for_bit(name):
    a, b = trajectory(name, 0), trajectory(name, 1)
    expected = [alone(node) for node in (a, b)]
    result = couple.sample([a, b], couple.pair(a, b, weight=0.0), max_batch=1, progress=False)
    assert torch.equal(result[a].images, expected[0])
    assert torch.equal(result[b].images, expected[1])


@families
def test_a_coupling_draws_the_views_together(name):
    a, b = trajectory(name, 0), trajectory(name, 1)
    apart = [alone(node) for node in (a, b)]
    result = couple.sample([a, b], couple.pair(a, b, weight=couple.weights.relax(1.0)), max_batch=1, progress=False)
    together = result[a].images, result[b].images
    assert torch.dist(*together) < torch.dist(*apart)
    assert not torch.equal(together[0], apart[0])


@families
def test_merged_forwards_keep_each_calls_views_to_themselves(name):
    a, b = trajectory(name, 0), trajectory(name, 1)
    expected = [alone(node) for node in (a, b)]
    rows = []
    handle = a.pipeline.unet.register_forward_hook(lambda _, args, out: rows.append(len(out[0])))
    result = couple.sample([a, b], progress=False)
    handle.remove()
    assert 16 in rows  # two calls of four views with two prompts each
    for node, sample in zip((a, b), expected, strict=True):
        assert (result[node].images - sample).abs().max() <= 1e-5 * max(1.0, sample.abs().max().item())


def test_calls_of_unlike_numbers_of_views_stay_apart():
    name = "mv_adapter t2mv sd21"
    a, b = trajectory(name, 0), trajectory(name, 1, cameras=rig((0, 180), height=32, width=32))
    expected = [alone(node) for node in (a, b)]
    result = couple.sample([a, b], progress=False)
    assert torch.equal(result[a].images, expected[0])
    assert torch.equal(result[b].images, expected[1])


def test_calls_of_unlike_pictures_merge_each_with_its_own():
    # The same prompt and cameras: what differs is the reference only.
    name = "mv_adapter i2mv sd21"
    a, b = (trajectory(name, k, prompt="high quality") for k in (0, 1))
    expected = [alone(node) for node in (a, b)]
    result = couple.sample([a, b], progress=False)
    for node, sample in zip((a, b), expected, strict=True):
        assert (result[node].images - sample).abs().max() <= 1e-5 * sample.abs().max().item()


@pytest.mark.parametrize("max_batch", [1, None], ids=["separate", "merged"])
def test_a_plain_pipeline_beside_it_on_the_same_unet_stays_plain(max_batch):
    node = trajectory("mv_adapter i2mv sd21", 0)
    there = node.pipeline
    parts = {key: there.components[key] for key in ("vae", "text_encoder", "tokenizer", "unet")}
    stock = StableDiffusionPipeline(
        **parts,
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    stock.set_progress_bar_config(disable=True)
    other = couple.Trajectory(
        stock,
        prompt=[PROMPTS[1]] * 4,
        height=32,
        width=32,
        num_inference_steps=3,
        output_type="latent",
        generator=torch.Generator().manual_seed(3),
    )
    expected = [alone(one) for one in (node, other)]
    result = couple.sample([node, other], max_batch=max_batch, progress=False)
    assert torch.equal(result[node].images, expected[0])
    assert torch.equal(result[other].images, expected[1])


def test_views_couple_one_by_one():
    name = "mv_adapter t2mv sd21"
    a, b = trajectory(name, 0), trajectory(name, 1)
    apart = alone(a)
    edge = couple.Edge(b[0], a[2], weight=couple.weights.relax(1.0), directed=True)
    steps = []
    result = couple.sample(
        [a, b], [edge], max_batch=1, progress=False, callback=lambda info: steps.append(info.x0[a].shape)
    )
    assert steps[0] == (4, 4, 4, 4)
    assert not torch.equal(result[a].images, apart)
    assert torch.equal(result[b].images, alone(b))
