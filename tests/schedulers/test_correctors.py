"""UniPC's and SA-Solver's correctors keep a pull that was carried, and run the stock code without one."""

import copy
import inspect

import pytest
import torch
from torch import Tensor

from couple.schedulers import carry, carrying_class, levels
from tests.schedulers.loop import STABLE_DIFFUSION, Case, run


class Deterministic:
    """SA-Solver without noise; named, so that the tests' ids are the same in every process."""

    def __call__(self, t):
        return 0

    def __repr__(self):
        return "0"


FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
CORRECTED = [
    Case("UniPCMultistepScheduler", STABLE_DIFFUSION),
    Case("UniPCMultistepScheduler", FLOW),
    Case("UniPCMultistepScheduler", {"solver_order": 3, **STABLE_DIFFUSION}),
    Case("SASolverScheduler", {"tau_func": Deterministic(), **STABLE_DIFFUSION}),
    Case("HeliosScheduler", {"stages": 1}),
]
PLAIN_VP = Case("DPMSolverMultistepScheduler", STABLE_DIFFUSION)
PLAIN_FLOW = Case("DPMSolverMultistepScheduler", FLOW)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def carrying(case: Case, steps: int):
    scheduler = case.scheduler(steps)
    scheduler.__class__ = carrying_class(type(scheduler))
    return scheduler


def gap(case: Case, steps: int, weight: float, carries: bool) -> float:
    """Distance of the means of data N(-1, 1/2) and N(+1, 1/2), pulled together with a constant weight."""
    scheduler = carrying(case, steps) if carries else case.scheduler(steps)
    mean, std = torch.tensor([-1.0, 1.0], dtype=torch.float64).reshape(2, 1, 1, 1), 0.5

    def denoiser(x, alpha, sigma):
        keep = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
        return mean + keep * (x - alpha * mean)

    class Pulls(dict):
        def __contains__(self, i):
            return weight > 0

        def __getitem__(self, i):
            x0, here = latest
            return here.sigma_next * weight * (x0.flip(0) - x0)

    def keep(i, here, x, output, following, reported):
        nonlocal latest
        latest = denoiser(x, here.alpha, here.sigma), here

    latest = None
    first = levels(scheduler, scheduler.timesteps[0])
    start = (drawn(0, 1, 1, 4, 4) * (first.sigma**2 + (first.alpha * std) ** 2) ** 0.5 + first.alpha * mean).clone()
    end = run(case, scheduler, denoiser, start, nudge=Pulls({0: None}), on_step=keep)
    return (end[1] - end[0]).mean().item()


@pytest.mark.parametrize("case", CORRECTED, ids=str)
def test_without_a_pull_the_carrying_class_samples_bit_for_bit_as_the_stock_one(case):
    x = drawn(0, 1, 3, 8, 8)

    def sample(scheduler):
        return run(case, scheduler, lambda x, alpha, sigma: torch.tanh(x) * 0.5, x)

    assert torch.equal(sample(carrying(case, 10)), sample(case.scheduler(10)))


@pytest.mark.parametrize(
    ("case", "plain"),
    [(case, PLAIN_FLOW if "use_flow_sigmas" in case.config else PLAIN_VP) for case in CORRECTED[:4]],
    ids=[str(case) for case in CORRECTED[:4]],
)
@pytest.mark.parametrize("weight", [0.02, 0.05])
def test_a_carried_pull_closes_the_gap_as_much_as_under_dpm_solver(case, plain, weight):
    assert gap(case, 20, 0.0, True) == pytest.approx(2.0, rel=0.06)
    closed = 2.0 - gap(plain, 20, weight, False)
    assert 2.0 - gap(case, 20, weight, True) == pytest.approx(closed, rel=0.1)
    assert 2.0 - gap(case, 20, weight, False) < 0.6 * closed


def test_a_pull_of_an_earlier_run_is_not_added_to_a_later_one():
    case, x = CORRECTED[0], drawn(0, 1, 3, 8, 8)

    def denoiser(x, alpha, sigma):
        return torch.tanh(x) * 0.5

    used = carrying(case, 6)
    run(case, used, denoiser, x, nudge={k: torch.ones_like(x) for k in range(6)})
    case.set_timesteps(used, 10)
    assert torch.equal(run(case, used, denoiser, x), run(case, case.scheduler(10), denoiser, x))


def test_where_the_corrector_is_off_the_pull_is_added_once():
    config = {"disable_corrector": list(range(20)), **STABLE_DIFFUSION}
    case, x = Case("UniPCMultistepScheduler", config), drawn(0, 1, 3, 8, 8)
    nudge = {3: torch.full_like(x, 0.1)}

    def sample(scheduler):
        return run(case, scheduler, lambda x, alpha, sigma: 0.5 * x, x, nudge=nudge)

    assert torch.equal(sample(carrying(case, 8)), sample(case.scheduler(8)))


def test_the_carrying_class_passes_for_the_class_it_carries():
    case = CORRECTED[0]
    scheduler, stock = carrying(case, 8), type(case.scheduler(8))
    cls = type(scheduler)
    assert isinstance(scheduler, stock) and cls.__name__ == stock.__name__ and cls is not stock
    assert carrying_class(stock) is cls and carrying_class(cls) is cls
    assert inspect.signature(scheduler.step) == inspect.signature(case.scheduler(8).step)
    assert type(copy.deepcopy(scheduler)) is cls
    assert stock.from_config(scheduler.config).config == scheduler.config


def test_a_subclass_is_carried_and_a_scheduler_without_corrector_is_left_alone():
    class Mine(type(CORRECTED[0].scheduler(None))):
        pass

    plain = PLAIN_FLOW.scheduler(4)
    before = dict(plain.__dict__)
    carry(plain, torch.ones(1))
    assert plain.__dict__.keys() == before.keys()
    assert carrying_class(type(plain)) is type(plain)
    assert carrying_class(Mine) is not Mine and issubclass(carrying_class(Mine), Mine)
