"""A shift of the state after a completed step reaches the final sample, and in the right measure.

The denoiser is exact for data N(0, S^2). A deterministic sampler then scales a shift by the ratio of the state's
standard deviations at the end and at the shift (probability flow), a stochastic one by the slope of E[x0 | x].
"""

import math

import pytest
import torch

from couple.schedulers import carrying_class
from tests.schedulers.cases import CASES
from tests.schedulers.loop import Case, levels_of, run

S = 0.5
RENOISING = [case for case in CASES if case.kind == "renoise"]
FORGETTING = ("CMStochasticIterativeScheduler", "LCMScheduler")
LASTING = [case for case in CASES if case.kind != "renoise" and case.name not in FORGETTING]


def gain(alpha: float, sigma: float) -> float:
    """d E[x0 | x] / dx."""
    return alpha * S * S / (alpha * alpha * S * S + sigma * sigma)


def shifts(case: Case, steps: int):
    """Levels of each step, and per completed step but the last the state's shift after every later step.

    Row k of a batch is shifted after step k; the same run without shifts is taken off, noise and all.
    """
    seen: list = []

    def sample(nudge):
        scheduler = case.scheduler(steps)
        scheduler.__class__ = carrying_class(type(scheduler))
        start = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        first = levels_of(case, scheduler, 0, start)
        start = start * math.sqrt((first.alpha * S) ** 2 + first.sigma**2)
        states: list = []
        levels: list = []

        def keep(i, here, x, output, following, reported):
            states.append(following)
            levels.append(here)

        start = start.expand(rows, -1, -1, -1)
        end = run(case, scheduler, lambda x, a, s: gain(a, s) * x, start, nudge=nudge, on_step=keep)
        seen[:] = levels
        return torch.stack([*states, end])

    rows = 1
    sample(None)
    rows = len(seen)
    size = [0.1 * levels.sigma_next * levels.completes for levels in seen]
    nudge = {k: torch.zeros(rows, 3, 4, 4, dtype=torch.float64) for k in range(rows)}
    for k in range(rows):
        nudge[k][k] = size[k]
    moved = (sample(nudge) - sample(None)).mean(dim=(2, 3, 4))
    return seen, {k: moved[:, k] / size[k] for k in range(rows - 1) if size[k] > 0}


@pytest.mark.parametrize("case", LASTING, ids=str)
def test_a_shift_after_any_completed_step_reaches_the_final_sample(case):
    levels, moved = shifts(case, 12)
    assert len(moved) >= 3
    for k, shift in moved.items():
        flow, slope = expected(levels, k)
        assert 0.1 * min(flow, slope) < shift[-1].item() < 5.0 * max(flow, slope), k


@pytest.mark.parametrize("case", RENOISING, ids=str)
def test_a_renoising_sampler_sees_a_shift_in_its_next_prediction(case):
    levels, moved = shifts(case, 6)
    assert moved
    for k, shift in moved.items():
        following = levels[k + 1]
        through = following.alpha_next * gain(following.alpha, following.sigma)
        assert shift[k + 1].item() > 0.7 * through, k


def expected(levels: list, k: int) -> tuple[float, float]:
    def variance(level):
        return (level.alpha_next * S) ** 2 + level.sigma_next**2

    here, end = levels[k], levels[-1]
    return math.sqrt(variance(end) / variance(here)), end.alpha_next * gain(here.alpha_next, here.sigma_next)


FINE = [
    Case("DDIMScheduler", {"clip_sample": False}),
    Case("EulerDiscreteScheduler"),
    Case("LMSDiscreteScheduler", {"use_karras_sigmas": True}),
    Case("HeunDiscreteScheduler"),
    Case("KDPM2DiscreteScheduler"),
    Case("EDMEulerScheduler"),
    Case("EDMDPMSolverMultistepScheduler"),
    Case("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    Case("DPMSolverSinglestepScheduler", {"use_karras_sigmas": True, "lower_order_final": True}),
    Case("DEISMultistepScheduler", {"use_karras_sigmas": True}),
    Case("UniPCMultistepScheduler", {"use_karras_sigmas": True}),
    Case("UniPCMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}),
    Case("PNDMScheduler", {"skip_prk_steps": True}),
    Case("CogVideoXDDIMScheduler"),
    Case("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    Case("FlowMatchHeunDiscreteScheduler", {"shift": 3.0}),
    Case("LTXEulerAncestralRFScheduler", {"eta": 0.0}),
    Case("FlowMapEulerDiscreteScheduler"),
    Case("MiniMaxH3Scheduler", {"shift": 3.0}),
    Case("HeliosScheduler", {"stages": 1}),
    Case("DDPMScheduler", {"clip_sample": False}, kind="sde"),
    Case("EulerAncestralDiscreteScheduler", kind="sde"),
    Case("KDPM2AncestralDiscreteScheduler", kind="sde"),
    Case("DPMSolverSDEScheduler", {"noise_sampler_seed": 0, "use_karras_sigmas": True}, kind="sde"),
    Case("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "solver_order": 1}, kind="sde"),
]


@pytest.mark.parametrize("case", FINE, ids=str)
def test_with_many_steps_the_shift_arrives_as_the_exact_flow_would_carry_it(case):
    levels, moved = shifts(case, 60)
    for k in [k for k in moved if k % 10 == 0]:
        flow, slope = expected(levels, k)
        assert moved[k][-1].item() == pytest.approx(slope if case.kind == "sde" else flow, rel=0.25), k
