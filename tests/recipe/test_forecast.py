"""A forecast counts what the run does, exactly, and says what it makes of it."""

from pathlib import Path

import diffusers
import pytest
import torch
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

import couple
from benchmarks.harness import Operations
from couple import bundled, recipe
from couple.memory import estimates
from couple.recipe import forecast, planning
from couple.recipe.forecast import Rates, Work

RECIPES = Path(__file__).parents[2] / "recipes"
MODELS = {
    "FluxPipeline": (bundled.text_to_image, bundled.TEXT_TO_IMAGE_DEFAULTS, False),
    "WanPipeline": (bundled.text_to_video, bundled.TEXT_TO_VIDEO_DEFAULTS, False),
    "StableDiffusionInstructPix2PixPipeline": (bundled.instruct, bundled.INSTRUCT_DEFAULTS, True),
    "StableDiffusionControlNetPipeline": (bundled.restyle, bundled.RESTYLE_DEFAULTS, True),
}
DENOISERS = ("transformer", "unet", "controlnet")


def loaded(name, weights=True):
    """A bundled pipeline, or one whose networks are skeletons."""
    folder, _, _ = MODELS[name]
    networks = {} if weights else estimates.skeletons(folder(), torch.float32)
    return getattr(diffusers, name).from_pretrained(folder(), **networks)


def calls(name, pipeline, **changes):
    """Two calls of a pipeline, of two steps."""
    _, defaults, edits = MODELS[name]
    given = {**defaults, "num_inference_steps": 2, "output_type": "latent", **changes}
    if edits:
        given["image"] = Image.effect_noise((64, 64), 90).convert("RGB")
    prompts = ("a pink star", "a blue moon")
    return [
        couple.Trajectory(pipeline, prompt=prompt, generator=torch.Generator().manual_seed(k), **given)
        for k, prompt in enumerate(prompts)
    ]


class Watched:
    """Counts what the denoisers of a real pipeline do, each forward made once for each count."""

    def __init__(self, pipeline):
        self.flops = self.operations = self.forwards = 0
        self.last = {}
        for part in DENOISERS:
            if getattr(pipeline, part, None) is not None:
                network = getattr(pipeline, part)
                network.forward = self.counted(network, network.forward)

    def counted(self, network, forward):
        def counting(*args, **kwargs):
            # The counter does not know the fused attention of the CPU.
            with FlopCounterMode(display=False) as flops, sdpa_kernel(SDPBackend.MATH):
                forward(*args, **kwargs)
            with Operations() as operations:
                output = forward(*args, **kwargs)
            self.flops += flops.get_total_flops()
            self.operations += operations.count
            self.forwards += 1
            self.last[network] = args, kwargs
            return output

        return counting


@pytest.mark.parametrize("max_batch", [None, 1])
@pytest.mark.parametrize("name", MODELS)
def test_a_rehearsal_counts_what_the_networks_then_do(name, max_batch):
    real, twin = loaded(name), loaded(name, weights=False)
    watched = Watched(real)
    couple.sample(calls(name, real), max_batch=max_batch, progress=False)
    assert watched.forwards >= 2
    work = forecast.rehearsed(calls(name, twin), max_batch)
    assert work.flops == {torch.float32: watched.flops}
    # And what schedulers and guidance do between the forwards.
    assert watched.operations < work.operations < 1.3 * watched.operations + 300


@pytest.mark.parametrize("name", MODELS)
def test_the_operations_of_a_forward_are_counted_exactly(name):
    real, twin = loaded(name), loaded(name, weights=False)
    watched = Watched(real)
    couple.sample(calls(name, real)[:1], progress=False)
    for part in DENOISERS:
        network = getattr(real, part, None)
        if network is None:
            continue
        args, kwargs = watched.last[network]
        with Operations() as operations:
            expected = type(network).forward(network, *args, **kwargs)
        tally = forecast.Tally()
        tally.stand_in(getattr(twin, part))
        with tally:
            answer = getattr(twin, part)(*args, **kwargs)
        assert tally.work.operations == operations.count
        shapes = [[leaf.shape for leaf in pytree.tree_leaves(tree)] for tree in (answer, expected)]
        assert shapes[0] == shapes[1]
        assert all(leaf.isfinite().all() and leaf.device.type == "cpu" for leaf in pytree.tree_leaves(answer))


def test_what_a_call_says_counts():
    def flops(**changes):
        return forecast.rehearsed(calls("FluxPipeline", loaded("FluxPipeline", weights=False), **changes)).flops

    (once,) = flops(true_cfg_scale=1.0).values()
    (guided,) = flops().values()
    (longer,) = flops(num_inference_steps=5).values()
    (larger,) = flops(height=128).values()
    assert guided == 2 * once and longer == 2.5 * guided and larger > 1.8 * guided
    pipeline = loaded("FluxPipeline", weights=False)
    (both,) = forecast.rehearsed(
        [calls("FluxPipeline", pipeline)[0], calls("FluxPipeline", pipeline, height=128)[1]]
    ).flops.values()
    assert 2 * both == guided + larger


def test_nothing_is_drawn_from_the_common_generator():
    before = torch.get_rng_state()
    forecast.measured(torch.device("cpu"), [torch.float32])
    forecast.rehearsed(calls("FluxPipeline", loaded("FluxPipeline", weights=False)))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_time_is_that_of_the_arithmetic_and_of_the_operations():
    rates = Rates({torch.float32: 10.0, torch.bfloat16: 100.0}, 0.5)
    assert rates.seconds(Work({torch.float32: 20, torch.bfloat16: 300}, 4)) == 2 + 3 + 2
    assert rates.seconds(Work({}, 0)) == 0


def test_a_machine_has_rates():
    rates = forecast.measured(torch.device("cpu"), [torch.float32, torch.bfloat16])
    assert set(rates.flops) == {torch.float32, torch.bfloat16}
    assert all(rate > 0 for rate in (*rates.flops.values(), rates.operation))


def planned(*sets, file="pair"):
    return recipe.plan(recipe.read(RECIPES / f"{file}.toml", list(sets)), "cpu").splitlines()[-1]


STEPS = [f"trajectories.{name}.call.num_inference_steps=2" for name in ("star", "moon")]


def test_a_plan_says_the_time_and_what_it_is_made_of(monkeypatch):
    asked = []

    def rehearsed(nodes, max_batch):
        asked.append((len(nodes), max_batch))
        return Work({torch.float32: 16_100_000_000_000, torch.bfloat16: 2_000_000}, 12_345)

    monkeypatch.setattr(forecast, "rehearsed", rehearsed)
    rates = Rates({torch.float32: 34e9, torch.bfloat16: 1e6}, 6.04e-6)
    monkeypatch.setattr(forecast, "measured", lambda device, dtypes: rates)
    parts = "(16.1 TFLOP at 34 GFLOP/s, 2 MFLOP at 1 MFLOP/s, 12,000 operations at 6.04 us)"
    assert planned(*STEPS) == f"time: about 7.9 minutes of denoising here {parts}"
    assert (
        planned(*STEPS, file="weights") == f"time: about 7.9 minutes of denoising here {parts}, for the first of 6 runs"
    )
    planned("output.uncoupled=false", "max_batch=3")
    assert asked == [(4, None), (4, None), (2, 3)]
    for seconds, said in (
        (0.01234, "0.012 s"),
        (42.4, "42 s"),
        (130, "2.2 minutes"),
        (7200, "2 hours"),
        (2e6, "560 hours"),
    ):
        rates = Rates({torch.float32: 16.1e12 / seconds, torch.bfloat16: 1e30}, 0.0)
        assert planned(*STEPS).startswith(f"time: about {said} of denoising here")


def test_a_plan_forecasts_what_its_own_calls_take(monkeypatch):
    monkeypatch.setattr(forecast, "measured", lambda device, dtypes: Rates(dict.fromkeys(dtypes, 1e9), 0.0))
    pipeline = loaded("FluxPipeline", weights=False)
    nodes = [*calls("FluxPipeline", pipeline), *calls("FluxPipeline", pipeline)]
    (flops,) = forecast.rehearsed(nodes).flops.values()
    assert f"({flops / 1e9:.3g} GFLOP at 1 GFLOP/s" in planned(*STEPS)


def test_what_cannot_be_known_is_said_to_be_unknown(tmp_path, monkeypatch):
    many = "trajectories.star.call.num_inference_steps=100000"
    assert planned(many) == f"time: unknown, as a number in a call is above {planning._MOST}"
    wrong = planned(*STEPS, "trajectories.star.call.joint_attention_kwargs='none'")
    assert wrong.startswith("time: unknown, as the calls cannot be rehearsed (") and len(wrong) < 300
    monkeypatch.setattr(forecast, "_PATIENCE", 0.01)
    assert planned(*STEPS) == "time: unknown, as the calls cannot be rehearsed (it takes more than 0.01 seconds)"
    text = (RECIPES / "pair.toml").read_text().replace('bundled = "text_to_image"', 'hub = "nobody/nothing"')
    (tmp_path / "a.toml").write_text(text)
    assert recipe.plan(recipe.read(tmp_path / "a.toml")).endswith("time: unknown, as a model is not on this machine")
