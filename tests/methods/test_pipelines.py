"""The methods on stock and multi-view pipelines at tiny size."""

import copy
import functools

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionControlNetPipeline, StableDiffusionPipeline

import couple
from couple.methods import MultiDiffusion, ScoreAverage, ScoreAverageMCMC, SyncTweedies
from tests.tiny import FAMILIES, seva
from tests.tiny.building import PROMPTS, picture


def corrections(**settings):
    return ScoreAverageMCMC(generator=torch.Generator().manual_seed(5), **settings)


METHODS = {
    "ScoreAverage": ScoreAverage,
    "ULA": functools.partial(corrections, steps=2),
    "UHA": functools.partial(corrections, steps=1, sampler="uha", leapfrog=2),
    "SyncTweedies": SyncTweedies,
    "MultiDiffusion": MultiDiffusion,
}
methods = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def call(family, **changes):
    return {**FAMILIES[family].arguments(0), "output_type": "latent", **changes}


@pytest.mark.parametrize("name", ["sd21", "controlnet", "img2img", "flux"])
def test_the_average_of_a_call_with_itself_is_that_call(name):
    pipe = FAMILIES[name].pipeline()
    stock = torch.as_tensor(pipe(**call(name))[0])
    nodes = [couple.Trajectory(pipe, **call(name)) for _ in range(2)]
    result = couple.sample(nodes, couple.pair(*nodes, weight=1), method=ScoreAverage(), progress=False)
    a, b = (torch.as_tensor(result[node][0]) for node in nodes)
    assert torch.equal(a, b)
    assert (a - stock).norm() < 1e-4 * stock.norm()


@pytest.mark.parametrize("name", ["sd21", "controlnet", "instruct_pix2pix", "img2img", "sdxl", "flux", "wan"])
def test_corrections_of_size_zero_change_nothing(name):
    """Repeated timesteps and all, stock schedulers and pipelines take their stock steps, each at its own level."""
    pipe = FAMILIES[name].pipeline()
    found = []
    for method in (ScoreAverage(), corrections(steps=2, step_size=0)):
        nodes = [couple.Trajectory(pipe, name=str(k), **call(name)) for k in range(2)]
        result = couple.sample(nodes, couple.pair(*nodes, weight=1), method=method, progress=False)
        found.append((result[nodes[0]][0], result.steps[nodes[0]] / method.evaluations))
    (plain, steps), (repeated, stock_steps) = found
    assert torch.equal(repeated, plain)
    assert stock_steps == steps


@methods
def test_at_weight_zero_every_call_is_the_stock_one(method):
    names = ("img2img", "controlnet")
    stock = [FAMILIES[name].pipeline()(**call(name))[0] for name in names]
    nodes = [couple.Trajectory(FAMILIES[name].pipeline(), **call(name)) for name in names]
    result = couple.sample(nodes, couple.pair(*nodes, weight=0), method=method(), max_batch=1, progress=False)
    for node, expected in zip(nodes, stock, strict=True):
        assert torch.equal(result[node][0], expected)


@functools.cache
def editor():
    return StableDiffusionControlNetPipeline(
        **{**FAMILIES["controlnet"].pipeline().components, "scheduler": seva.shared_scheduler()},
        requires_safety_checker=False,
    )


def scene(views=3):
    """A multi-view model and an editor of all its pictures, from one draw of noise."""
    noise = torch.randn(views, 4, seva.LATENT, seva.LATENT, generator=torch.Generator().manual_seed(7))
    several = couple.Trajectory(
        FAMILIES["seva"].pipeline(), name="views",
        **{**seva.call(0, 1, views - 1), "latents": noise, "generator": torch.Generator().manual_seed(0)},
    )  # fmt: skip
    edits = couple.Trajectory(
        editor(), name="editor", prompt=[PROMPTS[0]] * views, image=[picture(k, seva.SIDE) for k in range(views)],
        latents=noise, height=seva.SIDE, width=seva.SIDE, num_inference_steps=3, output_type="latent",
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    return several, edits


@functools.cache
def alone():
    return [node.pipeline(**node.call_kwargs)[0] for node in scene()]


@methods
def test_a_multi_view_model_and_an_editor_agree_on_the_views_they_share(method):
    several, edits = scene()
    edges = [couple.Edge(several[k], edits[k], weight=1) for k in (1, 2)]
    result = couple.sample([several, edits], edges, method=method(), progress=False)
    a, b = result[several][0], result[edits][0]
    assert a.shape == b.shape and a.isfinite().all()
    assert torch.allclose(a[1:], b[1:], atol=1e-6)
    assert not torch.allclose(a[0], b[0], atol=1e-2)
    assert all(not torch.allclose(a[1:], other[1:], atol=1e-2) for other in alone())


def test_a_pipeline_in_half_precision_shares_a_state_carried_in_full():
    parts = FAMILIES["sd21"].pipeline().components
    halves = {name: part for name, part in parts.items() if name not in ("unet", "text_encoder", "vae")}
    for name in ("unet", "text_encoder", "vae"):
        halves[name] = copy.deepcopy(parts[name]).to(torch.bfloat16)
    half = StableDiffusionPipeline(**halves, requires_safety_checker=False)
    half.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(7))
    outputs = {}
    for name, pipes in {
        "mixed": (FAMILIES["sd21"].pipeline(), half),
        "full": (FAMILIES["sd21"].pipeline(),) * 2,
    }.items():
        nodes = [
            couple.Trajectory(pipe, **call("sd21", latents=noise.to(pipe.unet.dtype), name=f"{name} {k}"))
            for k, pipe in enumerate(pipes)
        ]
        result = couple.sample(nodes, couple.pair(*nodes, weight=1), method=ScoreAverage(), progress=False)
        outputs[name] = [result[node][0].float() for node in nodes]
    assert (outputs["mixed"][0] - outputs["full"][0]).norm() < 0.05 * outputs["full"][0].norm()
    assert torch.equal(outputs["mixed"][0].bfloat16().float(), outputs["mixed"][1])


def test_another_sampler_on_the_same_levels_may_lead():
    """DDIM beside DDPM: what is shared takes the steps of the trajectory created first."""
    pipe = FAMILIES["controlnet"].pipeline()
    parts = {**pipe.components, "scheduler": DDIMScheduler.from_config(pipe.scheduler.config, set_alpha_to_one=True)}
    ddim = StableDiffusionControlNetPipeline(**parts, requires_safety_checker=False)
    ddim.set_progress_bar_config(disable=True)
    stock = ddim(**call("controlnet"))[0]
    first, second = (couple.Trajectory(p, **call("controlnet")) for p in (ddim, pipe))
    result = couple.sample([second, first], couple.pair(first, second, weight=1), method=ScoreAverage(), progress=False)
    assert torch.equal(result[first][0], result[second][0])
    assert (result[first][0] - stock).norm() < 1e-4 * stock.norm()
