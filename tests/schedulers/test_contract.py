"""What holds for every supported scheduler in every setting: levels, clean predictions and their inverse."""

import copy
import math

import pytest
import torch
from torch import Tensor

from couple.schedulers import check, from_x0, predict_x0
from tests.schedulers.cases import CASES
from tests.schedulers.loop import Case, levels_of, network, run, take_step, timestep_of, timesteps_of

EXACT = [case for case in CASES if case.kind == "ode"]
NOISY = [case for case in CASES if case.kind in ("sde", "renoise")]

REPORTING = (
    "DDPM",
    "DDPMParallel",
    "DDIM",
    "DDIMParallel",
    "CogVideoXDDIM",
    "CogVideoXDPM",
    "UnCLIP",
    "RePaint",
    "SCM",
)
REPORTING += ("EulerDiscrete", "EulerAncestralDiscrete", "LMSDiscrete", "HeunDiscrete", "EDMEuler")
REPORTING += ("KDPM2Discrete", "KDPM2AncestralDiscrete", "DPMSolverSDE")
CONVERTING = ("DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep", "SASolver", "Helios")
CONVERTING += ("EDMDPMSolverMultistep", "CosineDPMSolverMultistep")
CONVERTING = tuple(name + "Scheduler" for name in CONVERTING)


def tells_x0(case: Case) -> bool:
    """Whether the scheduler itself says what it takes for x0, in what its step returns or in a method."""
    into_noise = case.config.get("algorithm_type") in ("dpmsolver", "sde-dpmsolver", "noise_prediction")
    converts = case.name in CONVERTING and not into_noise and case.config.get("predict_x0", True)
    return converts or case.name.removesuffix("Scheduler") in REPORTING


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def outputs_like(case: Case, scheduler, sample: Tensor, seed: int) -> Tensor:
    """A random network output of the shape that the scheduler expects."""
    shape = list(sample.shape)
    if case.config.get("variance_type") == "learned_range":
        shape[1] *= 2
    if case.name == "PiflowScheduler":
        shape[-1] *= scheduler.n_grid
    return drawn(seed, *shape)


def changes_x0(case: Case) -> bool:
    """Whether the step clips or thresholds x0."""
    config = case.scheduler(None).config
    ignored = case.name.startswith(("CogVideoX", "TCD"))
    return not ignored and any(config.get(key) for key in ("clip_sample", "thresholding", "clip_denoised"))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_x0_of_a_network_that_knows_it_is_the_clean_sample(case):
    scheduler, x0 = case.scheduler(), drawn(0, 2, 3, 8, 8).clamp(-0.7, 0.7)
    check(scheduler)

    def compare(i, levels, x, output, following, reported):
        unit = max(1.0, float(levels.sigma) / max(float(levels.alpha), 1e-9)) if levels.prediction == "epsilon" else 1.0
        worst = (predictions[i] - x0).abs().max().item()
        assert worst < 2e-5 * max(unit, float(levels.sigma)), (i, levels, worst)

    predictions = {}

    def denoiser(x, alpha, sigma):
        i = len(predictions)
        output = network(case, scheduler, i, x0, x, alpha, sigma)
        levels = levels_of(case, scheduler, i, x)
        predictions[i] = predict_x0(scheduler, output, timestep_of(scheduler, i, x), x, levels)
        return x0

    first = levels_of(case, scheduler, 0, x0)
    run(case, scheduler, denoiser, first.alpha * x0 + first.sigma * drawn(1, 2, 3, 8, 8), on_step=compare)
    assert predictions


@pytest.mark.parametrize("case", [case for case in CASES if tells_x0(case)], ids=str)
def test_x0_of_any_output_is_the_one_the_scheduler_reports_or_converts_to(case):
    scheduler, x = case.scheduler(), drawn(0, 2, 3, 8, 8)
    if case.name in ("EulerDiscreteScheduler", "EDMEulerScheduler"):
        x = x.float()  # they report in float32
    generator, memory = torch.Generator().manual_seed(0), {}
    for i in range(len(timesteps_of(scheduler))):
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(x, timestep_of(scheduler, i, x))
        output = outputs_like(case, scheduler, x, i).to(x.dtype)
        mine = predict_x0(scheduler, output, timestep_of(scheduler, i, x), x, levels_of(case, scheduler, i, x))
        if case.name in CONVERTING:
            twin = copy.deepcopy(scheduler)
            twin._step_index = i
            theirs = twin.convert_model_output(output, sample=x)
        x, reported = take_step(case, scheduler, output, i, x, generator, memory)
        if case.name not in CONVERTING:
            theirs = reported
        x = x.clamp(-20, 20)
        tolerance = 1e-4 * max(1.0, mine.abs().max().item())
        torch.testing.assert_close(mine, theirs.to(mine.dtype), rtol=2e-5, atol=tolerance)


@pytest.mark.parametrize("case", EXACT, ids=str)
def test_a_deterministic_step_lands_exactly_on_the_next_level(case):
    scheduler, x0, noise = case.scheduler(), drawn(0, 2, 3, 8, 8), drawn(1, 2, 3, 8, 8)
    first = levels_of(case, scheduler, 0, x0)

    def compare(i, levels, x, output, following, reported):
        eps = (x - levels.alpha * x0) / levels.sigma
        expected = levels.alpha_next * x0 + levels.sigma_next * eps
        assert (following - expected).abs().max().item() < 3e-4 * max(1.0, levels.sigma), (i, levels)

    run(case, scheduler, lambda x, alpha, sigma: x0, first.alpha * x0 + first.sigma * noise, on_step=compare)


@pytest.mark.parametrize("case", NOISY, ids=str)
def test_a_stochastic_step_leaves_noise_of_the_next_level_around_the_clean_sample(case):
    scheduler, x0, noise = case.scheduler(), drawn(0, 4, 3, 48, 48), drawn(1, 4, 3, 48, 48)
    first = levels_of(case, scheduler, 0, x0)

    def compare(i, levels, x, output, following, reported):
        rest = following - levels.alpha_next * x0
        if levels.sigma_next == 0.0:
            assert rest.abs().max().item() < (0.05 if case.name == "DDPMWuerstchenScheduler" else 5e-3)
        else:
            assert rest.std().item() == pytest.approx(levels.sigma_next, rel=0.03), (i, levels)
            assert abs((rest * x0).mean().item()) < 0.03 * levels.sigma_next, (i, levels)

    run(case, scheduler, lambda x, alpha, sigma: x0, first.alpha * x0 + first.sigma * noise, on_step=compare)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_levels_of_one_step_meet_those_of_the_following_one(case):
    scheduler, x0, seen = case.scheduler(), drawn(0, 1, 3, 4, 4), []
    first = levels_of(case, scheduler, 0, x0)
    run(case, scheduler, lambda *_: x0, first.alpha * x0, on_step=lambda i, levels, *_: seen.append(levels))
    strides = case.name.startswith(("DDIM", "CogVideoX", "PNDM"))  # they land between two entries of `timesteps`
    for before, after in zip(seen, seen[1:], strict=False):
        if not (strides and case.config.get("timestep_spacing") in ("trailing", "linspace")):
            assert before.sigma_next == pytest.approx(after.sigma, rel=1e-2, abs=1e-2)
            assert before.alpha_next == pytest.approx(after.alpha, rel=1e-2, abs=1e-2)
    for levels in seen:
        assert all(isinstance(v, float) and math.isfinite(v) for v in (levels.alpha, levels.alpha_next))
    landings = [first.sigma, *(levels.sigma_next for levels in seen if levels.completes)]
    assert all(before >= after - 1e-9 >= -1e-9 for before, after in zip(landings, landings[1:], strict=False))
    assert seen[-1].completes


@pytest.mark.parametrize("case", CASES, ids=str)
def test_from_x0_is_the_inverse_of_predict_x0(case):
    scheduler, x = case.scheduler(), drawn(0, 2, 3, 8, 8)
    wanted = drawn(2, 2, 3, 8, 8).clamp(-0.7, 0.7) if changes_x0(case) else drawn(2, 2, 3, 8, 8)
    t = timestep_of(scheduler, 0, x)
    levels = levels_of(case, scheduler, 0, x)
    output = from_x0(scheduler, wanted, t, x, levels)
    assert output.shape == outputs_like(case, scheduler, x, 0).shape
    torch.testing.assert_close(predict_x0(scheduler, output, t, x, levels), wanted, rtol=1e-9, atol=1e-7)
    known = network(case, scheduler, 0, wanted, x, levels.alpha, levels.sigma)
    torch.testing.assert_close(output, known.to(x.dtype), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_reading_a_scheduler_leaves_it_and_its_samples_as_they_were(case):
    def sample(looks: bool) -> Tensor:
        torch.manual_seed(0)
        scheduler, x = case.scheduler(), drawn(0, 1, 3, 4, 4)
        generator, memory = torch.Generator().manual_seed(0), {}
        for i in range(len(timesteps_of(scheduler))):
            output = outputs_like(case, scheduler, x, i)
            if looks:
                t, before = timestep_of(scheduler, i, x), copy.deepcopy(scheduler.__dict__)
                levels = levels_of(case, scheduler, i, x)
                predict_x0(scheduler, output, t, x, levels)
                from_x0(scheduler, x, t, x, levels)
                assert same(scheduler.__dict__, before)
            if hasattr(scheduler, "scale_model_input"):
                scheduler.scale_model_input(x, timestep_of(scheduler, i, x))
            x, _ = take_step(case, scheduler, output, i, x, generator, memory)
        return x

    assert torch.equal(sample(True), sample(False))


def same(a, b) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.shape == b.shape and torch.allclose(a, b, rtol=0.0, atol=0.0, equal_nan=True)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if hasattr(a, "tolist"):
        return a.tolist() == b.tolist()
    return callable(a) or type(a).__module__.startswith(("torchsde", "diffusers")) or a == b


ONE_STEP = [
    case
    for case in CASES
    if case.kind != "rough" or case.name in ("PNDMScheduler", "IPNDMScheduler")
    # The stock scheduler cannot take a single step: it divides by N - 1, has no noise interval, or counts its steps.
    if case.name not in ("UnCLIPScheduler", "ConsistencyDecoderScheduler", "CosineDPMSolverMultistepScheduler")
    if not (case.name == "PNDMScheduler" and not case.config["skip_prk_steps"])
    if not any(case.config.get(f"use_{table}_sigmas") for table in ("karras", "exponential", "beta"))
    if not case.config.get("shift_terminal") and not case.config.get("use_lu_lambdas")
    if case.config.get("interpolation_type") != "log_linear"
]


@pytest.mark.parametrize("case", ONE_STEP, ids=str)
def test_a_schedule_of_one_step_has_levels_and_ends_clean(case):
    scheduler, x0 = case.scheduler(1), drawn(0, 1, 3, 8, 8)
    first = levels_of(case, scheduler, 0, x0)
    assert first.completes and first.sigma >= first.sigma_next >= 0.0
    end = run(case, scheduler, lambda *_: x0, first.alpha * x0 + first.sigma * drawn(1, 1, 3, 8, 8))
    if first.sigma_next == 0.0 and case.name != "IPNDMScheduler":
        assert (end - x0).abs().max().item() < 0.05
