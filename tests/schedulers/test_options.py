"""Levels where `step` is called in less usual ways: mid-schedule starts, tokens with levels of their own, and so on."""

import diffusers
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from couple.schedulers import from_x0, levels, predict_x0
from tests.schedulers.cases import CASES
from tests.schedulers.loop import Case, timestep_of

SHAPE = (1, 3, 8, 8)
INDEXED = ["EulerDiscrete", "UniPCMultistep", "DPMSolverMultistep", "FlowMatchEulerDiscrete", "LCM", "EDMEuler"]


class Counter(TorchDispatchMode):
    """Counts dispatched tensor operations."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls.append(str(function))
        return function(*args, **(kwargs or {}))


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("begins", [True, False])
@pytest.mark.parametrize("name", INDEXED)
def test_a_run_that_starts_in_the_middle_has_the_levels_of_the_middle(name, begins):
    case = Case(name + "Scheduler")
    scheduler, x0, eps = case.scheduler(10), drawn(0, *SHAPE), drawn(1, *SHAPE)
    if begins:
        scheduler.set_begin_index(4)
    t = scheduler.timesteps[4]
    here = levels(scheduler, t)
    x = here.alpha * x0 + here.sigma * eps
    output = from_x0(scheduler, x0, t, x)
    if name == "LCM":
        assert here.sigma == pytest.approx((1 - scheduler.alphas_cumprod[t].item()) ** 0.5)
        return
    following = scheduler.step(output, t, x).prev_sample
    torch.testing.assert_close(following.double(), here.alpha_next * x0 + here.sigma_next * eps, rtol=1e-4, atol=1e-4)


def test_the_second_of_two_equal_timesteps_is_meant_as_in_diffusers():
    scheduler = diffusers.EulerDiscreteScheduler()
    scheduler.set_timesteps(timesteps=[900, 500, 500, 100])
    sigma = scheduler.sigmas.tolist()
    here = levels(scheduler, scheduler.timesteps[1])
    assert (here.sigma, here.sigma_next) == (sigma[2], sigma[3])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_steps_beyond_the_schedule_have_levels(case):
    scheduler, x = case.scheduler(), torch.zeros(1, 3, 4, 4)
    if hasattr(scheduler, "_step_index"):
        scheduler._step_index = len(scheduler.timesteps) + 3
    last = levels(scheduler, timestep_of(scheduler, -1, x), **case.step)
    assert last.sigma >= 0.0 and last.sigma_next >= 0.0


def test_a_device_read_timestep_and_a_number_give_the_same_levels():
    scheduler = diffusers.DDIMScheduler()
    scheduler.set_timesteps(10)
    t = scheduler.timesteps[3]
    assert levels(scheduler, t) == levels(scheduler, int(t))


def test_unclip_lands_on_the_timestep_that_step_is_given():
    scheduler = diffusers.UnCLIPScheduler()
    scheduler.set_timesteps(10)
    t, landing = scheduler.timesteps[3], scheduler.timesteps[4]
    squares = scheduler.alphas_cumprod.tolist()
    assert levels(scheduler, t).alpha_next == pytest.approx(squares[t - 1] ** 0.5)
    assert levels(scheduler, t, prev_timestep=landing).alpha_next == pytest.approx(squares[landing] ** 0.5)


def test_a_flow_map_lands_on_the_timestep_that_step_is_given():
    scheduler = diffusers.FlowMapEulerDiscreteScheduler()
    scheduler.set_timesteps(4)
    t, x0, eps = scheduler.timesteps[1], drawn(0, *SHAPE), drawn(1, *SHAPE)
    for target in (scheduler.timesteps[3], torch.tensor(123.0)):
        here = levels(scheduler, t, r_timestep=target)
        assert here.sigma_next == pytest.approx(target.item() / 1000)
        x = here.alpha * x0 + here.sigma * eps
        end = scheduler.step(from_x0(scheduler, x0, t, x, here), t, x, r_timestep=target).prev_sample
        torch.testing.assert_close(end, here.alpha_next * x0 + here.sigma_next * eps)
    with pytest.raises(ValueError, match="123.0 is not on the schedule.*r_timestep"):
        levels(scheduler, torch.tensor(123.0))


def test_tokens_with_timesteps_of_their_own_have_levels_of_their_own():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0)
    scheduler.set_timesteps(6)
    t, x0, eps = scheduler.timesteps[2], drawn(0, 2, 4, 8), drawn(1, 2, 4, 8)
    tokens = t.expand(2, 4).clone()
    tokens[:, 0], tokens[1, 1] = 0.0, scheduler.timesteps[4]
    here = levels(scheduler, t, per_token_timesteps=tokens)
    assert here.sigma.shape == here.sigma_next.shape == (2, 4, 1)
    assert here.sigma_next[:, 0].eq(0).all()
    x = here.alpha * x0 + here.sigma * eps
    output = from_x0(scheduler, x0, t, x, here)
    torch.testing.assert_close(predict_x0(scheduler, output, t, x, here), torch.where(here.sigma > 0, x0, x))
    torch.testing.assert_close(output[:, 1:], (x0 - eps)[:, 1:], rtol=1e-5, atol=1e-5)
    following = scheduler.step(output, t, x, per_token_timesteps=tokens).prev_sample
    torch.testing.assert_close(
        following.double(), here.alpha_next.double() * x0 + here.sigma_next.double() * eps, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", ["DDPM", "UnCLIP", "DPMSolverMultistep", "DPMSolverSinglestep", "SASolver"])
def test_learned_variance_is_left_out_of_x0_and_kept_by_its_inverse(name):
    scheduler = getattr(diffusers, name + "Scheduler")(variance_type="learned_range")
    scheduler.set_timesteps(8)
    t, x = scheduler.timesteps[2], drawn(0, *SHAPE)
    output = drawn(1, 1, 6, 8, 8)
    here = levels(scheduler, t)
    plain = predict_x0(scheduler, output[:, :3], t, x, here)
    assert torch.equal(predict_x0(scheduler, output, t, x, here), plain)
    again = from_x0(scheduler, plain, t, x, here, model_output=output)
    assert torch.equal(again[:, 3:], output[:, 3:])
    assert from_x0(scheduler, plain, t, x).shape == output.shape


def test_a_repaint_schedule_that_jumps_back_has_levels_at_every_step():
    scheduler = diffusers.RePaintScheduler()
    scheduler.set_timesteps(12, jump_length=3, jump_n_sample=2)
    seen = [levels(scheduler, t) for t in scheduler.timesteps]
    assert len(seen) > 12
    assert all(here.sigma > here.sigma_next for here in seen)


def test_a_table_that_changes_is_read_again():
    scheduler = diffusers.EulerDiscreteScheduler()
    scheduler.set_timesteps(6)
    scheduler.scale_model_input(torch.zeros(1), scheduler.timesteps[0])
    before = levels(scheduler, scheduler.timesteps[0])
    scheduler.sigmas *= 2.0
    after = levels(scheduler, scheduler.timesteps[0])
    assert (after.sigma, after.sigma_next) == (2 * before.sigma, 2 * before.sigma_next)


def test_tables_made_in_inference_mode_are_read():
    scheduler = diffusers.EulerDiscreteScheduler()
    with torch.inference_mode():
        scheduler.set_timesteps(6)
        assert levels(scheduler, scheduler.timesteps[0]).sigma == scheduler.sigmas[0]


@pytest.mark.parametrize("name", INDEXED)
def test_levels_of_a_scheduler_that_knows_its_place_cost_no_tensor_operation(name):
    scheduler = Case(name + "Scheduler").scheduler(6)
    scheduler._step_index = 2
    t = scheduler.timesteps[2]
    levels(scheduler, t)
    with Counter() as counter:
        levels(scheduler, t)
    reads = [call for call in counter.calls if "_local_scalar_dense" not in call and "view" not in call]
    assert not reads


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [*INDEXED, "DDPM", "HeunDiscrete"])
def test_x0_costs_at_most_two_tensor_operations(name, dtype):
    config = {"clip_sample": False} if name == "DDPM" else {}
    scheduler = Case(name + "Scheduler", config).scheduler(6)
    t, x = scheduler.timesteps[2], torch.randn(SHAPE, dtype=dtype)
    here = levels(scheduler, t)
    with Counter() as counter:
        x0 = predict_x0(scheduler, x, t, x, here)
    assert len(counter.calls) <= 2 and x0.dtype == dtype


def test_x0_of_half_precision_is_float32():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(6)
    t, x = scheduler.timesteps[2], torch.randn(SHAPE)
    for sample, output in ((x.bfloat16(), x.bfloat16()), (x, x.bfloat16()), (x.half(), x)):
        x0 = predict_x0(scheduler, output, t, sample)
        assert x0.dtype == torch.float32
        here = levels(scheduler, t)
        torch.testing.assert_close(x0, sample.float() - here.sigma * output.float())


def test_flow_euler_on_edm_sigmas_steps_a_variance_exploding_state():
    # Cosmos 2: sigmas from 80 down, a state x0 + sigma eps, the noise as output.
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=[80.0, 8.0, 0.5])
    found = levels(scheduler, scheduler.timesteps[0])
    assert (found.alpha, found.alpha_next) == (1.0, 1.0)
    assert (found.sigma, found.sigma_next) == pytest.approx((80.0, 8.0))
    x0, noise = torch.tensor([0.3, -0.7]), torch.tensor([1.1, 0.2])
    state = x0 + 80 * noise
    assert torch.allclose(predict_x0(scheduler, noise, scheduler.timesteps[0], state), x0, atol=1e-4)
    landed = scheduler.step(noise, scheduler.timesteps[0], state, return_dict=False)[0]
    assert torch.allclose(landed, x0 + 8 * noise, atol=1e-4)
