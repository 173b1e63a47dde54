"""What every method keeps, and what the methods of averages refuse."""

import copy
import functools
import itertools

import diffusers
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
)
from double import float64_schedulers  # noqa: F401

import couple
from couple import energies, maps, schedulers, weights
from couple.methods import Coupled, MultiDiffusion, ScoreAverage, ScoreAverageMCMC, SyncTweedies
from tests.methods import gaussians

STEPS = 5


def seed(k):
    return torch.Generator().manual_seed(k)


def corrections(**settings):
    return ScoreAverageMCMC(**{"generator": seed(9), "steps": 2, **settings})


METHODS = {
    "ScoreAverage": ScoreAverage,
    "ULA": functools.partial(corrections, step_size=0.01),
    "UHA": functools.partial(corrections, sampler="uha", step_size=0.1),
    "SyncTweedies": SyncTweedies,
    "MultiDiffusion": MultiDiffusion,
}
methods = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def node(k, scheduler=DDPMScheduler, noise=0, shape=(2, 3, 4), **changes):
    denoiser = couple.ExactDenoiser.gaussian(torch.linspace(-1, 1, 12).reshape(3, 4).roll(k), 0.1 + 0.2 * k)
    settings = {} if scheduler is FlowMatchEulerDiscreteScheduler else {"clip_sample": False}
    return couple.Trajectory(
        couple.DenoiserPipeline(denoiser, scheduler(**settings)),
        **{"name": f"t{k}", "shape": shape, "num_inference_steps": STEPS, "generator": seed(noise), **changes},
    )


def sample(nodes, edges, method, **options):
    result = couple.sample(nodes, edges, method=method, progress=False, **options)
    return {n.name: result[n] for n in nodes}


@methods
def test_permuting_trajectories_and_edges_changes_no_bit(method):
    found = []
    for order in itertools.permutations(range(3)):
        nodes = [node(k) for k in range(3)]
        edges = [*couple.pair(nodes[0][1], nodes[1][0], weight=1), *couple.pair(nodes[1], nodes[2], weight=1)]
        if method is not MultiDiffusion and method is not SyncTweedies:
            edges = couple.star(nodes[2], nodes[:2], weight=1)
        found.append(sample([nodes[k] for k in order], edges[:: 1 if order[0] else -1], method()))
    for other in found[1:]:
        assert all(torch.equal(other[name], found[0][name]) for name in other)


@methods
def test_trajectories_without_an_edge_are_untouched(method):
    alone = node(3).pipeline(**node(3).call_kwargs)
    nodes = [node(k) for k in range(4)]
    assert torch.equal(sample(nodes, couple.pair(*nodes[:2], weight=1), method())["t3"], alone)
    nodes = [node(k) for k in (2, 3)]
    assert torch.equal(sample(nodes, couple.pair(*nodes, weight=0), method())["t3"], alone)
    nodes = [node(k) for k in (2, 3)]
    nothing = couple.pair(*nodes, weight=1, mask=torch.zeros(3, 4))
    if method in (SyncTweedies, MultiDiffusion):
        assert torch.allclose(sample(nodes, nothing, method())["t3"], alone, atol=1e-5)


@methods
def test_components_have_clocks_of_their_own(method):
    def pairs():
        nodes = [node(0), node(1), node(2, num_inference_steps=3), node(3, num_inference_steps=3)]
        return nodes, [couple.pair(*nodes[:2], weight=1), couple.pair(*nodes[2:], weight=1)]

    if isinstance(method, functools.partial):
        method = functools.partial(method, step_size=0)  # the noise of corrections comes from one generator for all
    nodes, (one, other) = pairs()
    together = sample(nodes, one + other, method())
    nodes, (one, other) = pairs()
    apart = sample(nodes[:2], one, method()) | sample(nodes[2:], other, method())
    assert all(torch.equal(together[name], apart[name]) for name in apart)


@methods
def test_what_the_user_gave_is_as_it_was(method):
    nodes = [node(k) for k in range(2)]
    before = [(type(n.pipeline.scheduler), dict(vars(n.pipeline.scheduler))) for n in nodes]
    sample(nodes, couple.pair(*nodes, weight=1), method())
    for n, (kind, members) in zip(nodes, before, strict=True):
        assert type(n.pipeline.scheduler) is kind
        assert vars(n.pipeline.scheduler).keys() == members.keys()
        assert all(vars(n.pipeline.scheduler)[name] is member for name, member in members.items())


@methods
def test_a_method_can_be_used_again(method):
    made = method()
    found = []
    for _ in range(2):
        if isinstance(made, ScoreAverageMCMC):
            made.generator.manual_seed(9)
        nodes = [node(k) for k in range(2)]
        found.append(sample(nodes, couple.pair(*nodes, weight=1), made))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_every_evaluation_is_counted_and_shown():
    nodes = [node(k) for k in range(3)]
    method, seen = corrections(sampler="uha", step_size=0.1), []
    assert method.evaluations == 2 * 3 + 1
    result = couple.sample(
        nodes, couple.pair(*nodes[:2], weight=1), method=method, progress=False, callback=seen.append
    )
    assert [result.steps[n] for n in nodes] == [STEPS * 7, STEPS * 7, STEPS]
    assert [info.progress for info in seen] == [k / (7 * STEPS) for k in range(7 * STEPS)]
    assert [info.levels[nodes[0]].progress for info in seen] == [k // 7 / STEPS for k in range(7 * STEPS)]


@pytest.mark.usefixtures("float64_schedulers")
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("settings", [{}, {"sampler": "uha"}], ids=["ULA", "UHA"])
def test_corrections_are_the_same_for_every_convention(settings):
    models = gaussians.diagonal(2, 4)
    start = torch.randn(3, 4, generator=seed(1), dtype=torch.float64).numpy()
    found = []
    for build, schedule, (alphas, sigmas) in gaussians.matched(STEPS).values():
        scale = (alphas[0] ** 2 + sigmas[0] ** 2) ** 0.5
        nodes = [gaussians.exact(m, build, schedule, start * scale, str(k)) for k, m in enumerate(models)]
        found.append(sample(nodes, couple.pair(*nodes, weight=1), corrections(**settings))["0"])
    for other in found[1:]:
        assert (other - found[0]).abs().max() < 1e-9


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "SASolverScheduler", "LCMScheduler", "EulerAncestralDiscreteScheduler"])  # fmt: skip
def test_solvers_with_a_memory_take_their_stock_steps(name):
    found = []
    for method in (ScoreAverage(), corrections(step_size=0)):
        nodes = [
            couple.Trajectory(
                couple.DenoiserPipeline(gaussian_network(k), getattr(diffusers, name)(**gaussians.TABLE)), name=str(k),
                latents=torch.randn(4, 2, generator=seed(0)), num_inference_steps=STEPS, generator=seed(k),
            )
            for k in range(2)
        ]  # fmt: skip
        found.append(sample(nodes, couple.pair(*nodes, weight=1), method))
    plain, repeated = found
    assert torch.equal(plain["0"], plain["1"])
    assert torch.equal(plain["0"], repeated["0"])


def gaussian_network(k):
    return lambda x, t: torch.tanh(x + k) * 0.5


def test_corrections_survive_a_corrector():
    """UniPC integrates its last step again from where that step began; all that was added since must not be lost."""

    def last_but_one(*displacements):
        scheduler = diffusers.UniPCMultistepScheduler(**gaussians.TABLE)
        scheduler.__class__ = schedulers.carrying_class(type(scheduler))
        scheduler.set_timesteps(STEPS)
        state = torch.ones(2, 2)
        for t in scheduler.timesteps[:-1]:
            state = scheduler.step(gaussian_network(0)(state, t), t, state).prev_sample
            for displacement in displacements:
                state = state + displacement
                schedulers.carry(scheduler, torch.full_like(state, displacement))
        return state

    assert torch.allclose(last_but_one(0.25, 0.5), last_but_one(0.75), atol=1e-6)
    assert not torch.allclose(last_but_one(0.5), last_but_one(0.75), atol=0.1)


def refuse(message, error=ValueError):
    return pytest.raises(error, match=message)


@methods
def test_edges_that_do_not_say_what_is_shared_are_refused(method):
    a, b = node(0), node(1)
    for edge, message in [
        ({"directed": True}, r"no direction.*shares=\{a: 9.0, b: 1.0\}"),
        ({"energy": energies.huber(0.5)}, "element by element"),
        ({"mask": torch.full((3, 4), 0.5)}, "mask > 0.5"),
        ({"weight": weights.relax(1.0)}, r"a switch and not a law.*weights.window\(1, 0, 0.5\)"),
        ({"weight": weights.window(weights.constant(1.0), 0, 0.5)}, "a switch and not a law"),
    ]:
        with refuse(message):
            sample([a, b], couple.pair(a, b, **{"weight": 1, **edge}), method())
    with refuse(r"element by element.*couple.pair\(a\[0\], b\[0\], weight=1\)"):
        sample([a, b], couple.pair(a.through(maps.low_pass(2)), b, weight=1), method())
    small = node(2, shape=(1, 3, 4))
    with refuse(r"shapes \(2, 3, 4\) and \(1, 3, 4\)"):
        sample([a, small], couple.pair(a, small, weight=1), method())


@pytest.mark.parametrize("method", [ScoreAverage, SyncTweedies, MultiDiffusion], ids=lambda m: m.__name__)
def test_shares_are_refused_before_anything_runs(method):
    a, b = node(0), node(1)
    with refuse("`shares` must be like", TypeError):
        method(shares={"a": 1.0})
    for shares in (3, [1, 2]):
        with refuse(r"`shares` must map trajectories to numbers, like \{a: 2.0, b: 1.0\}; got", TypeError):
            method(shares=shares)
    with refuse("the share of 't0' must be finite"):
        method(shares={a: float("nan")})
    with refuse("names 't1', which is not among the trajectories"):
        sample([a], [], method(shares={b: 1.0}))
    with refuse("positive sum"):
        sample([a, b], couple.pair(a, b, weight=1), method(shares={a: -1.0}))


@pytest.mark.parametrize("method", ["ScoreAverage", "ULA", "MultiDiffusion"])
def test_levels_that_differ_are_refused(method):
    for other in (
        node(1, num_inference_steps=STEPS + 1),
        node(1, scheduler=FlowMatchEulerDiscreteScheduler),
        node(1, scheduler=functools.partial(DDIMScheduler, timestep_spacing="trailing")),
    ):
        a = node(0)
        with refuse("the same noise level, but.*'t0' steps from.*and 't1' .*from_config"):
            sample([a, other], couple.pair(a, other, weight=1), METHODS[method]())


def test_states_that_differ_are_refused_by_who_has_only_one():
    a, b = node(0, noise=0), node(1, noise=1)
    with refuse(
        r"one state for both ends, but theirs differ by up to .* before step 1/5. Start both from the same noise"
    ):
        sample([a, b], couple.pair(a, b, weight=1), ScoreAverage())
    a, b = node(0), node(1)
    with refuse(r"one state for both ends.*before step 3/5"):
        sample([a, b], couple.pair(a, b, weight=weights.window(1, 0.4, 1)), ScoreAverage())


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"generator": None}, TypeError, r"generator=torch.Generator\(\).manual_seed\(0\)"),
        ({"sampler": "mala"}, ValueError, "need the energy"),
        ({"steps": 0}, ValueError, "`steps` must be a whole number"),
        ({"leapfrog": 1.5}, ValueError, "`leapfrog` must be a whole number"),
        ({"damping": 1.0}, ValueError, r"`damping` must be in \[0, 1\)"),
        ({"step_size": -0.1}, ValueError, "finite, 0 or more; got -0.1"),
        ({"step_size": "large"}, TypeError, "must be a number or give one; got 'large'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_settings_of_corrections_are_refused(settings, error, message):
    with refuse(message, error):
        corrections(**settings)


def test_corrections_refuse_schedulers_that_cannot_repeat_a_timestep():
    for scheduler, instead in [(HeunDiscreteScheduler(), "EulerDiscreteScheduler"), (PNDMScheduler(), "DDIMScheduler")]:
        pipe = couple.DenoiserPipeline(gaussian_network(0), scheduler)
        a, b = (couple.Trajectory(pipe, shape=(2, 2), generator=seed(0)) for _ in range(2))
        with refuse(f"timesteps cannot be repeated.*Use {instead}.from_config", NotImplementedError):
            sample([a, b], couple.pair(a, b, weight=1), corrections())


def test_corrections_that_explode_are_named():
    a, b = node(0), node(1)
    with refuse("not finite before step .* lower step_size", FloatingPointError):
        sample([a, b], couple.pair(a, b, weight=1), corrections(steps=20, step_size=1e9))


def test_a_second_state_stepped_by_a_copy_of_the_scheduler_is_refused_by_corrections():
    class Two(couple.DenoiserPipeline):
        def __call__(self, shape, generator=None):
            copy.deepcopy(self.scheduler)
            return super().__call__(shape, generator=generator, num_inference_steps=STEPS)

    a, b = (
        couple.Trajectory(Two(gaussian_network(k), DDIMScheduler()), shape=(2, 2), generator=seed(0)) for k in range(2)
    )
    with refuse("steps a second state with a copy of its scheduler", NotImplementedError):
        sample([a, b], couple.pair(a, b, weight=1), corrections())


def test_the_default_is_the_coupling():
    nodes = [node(k) for k in range(2)]
    named = sample(nodes, couple.pair(*nodes, weight=0.1), Coupled())
    nodes = [node(k) for k in range(2)]
    default = couple.sample(nodes, couple.pair(*nodes, weight=0.1), progress=False)
    assert all(torch.equal(default[n], named[n.name]) for n in nodes)
