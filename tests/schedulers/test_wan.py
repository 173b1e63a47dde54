"""UniPC, which Wan ships with, closes a gap between two coupled videos as far as DPM-Solver++ does."""

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler, WanPipeline

import couple
from couple import weights
from tests.tiny import FAMILIES

FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}


def gap(scheduler, weight):
    """The distance between the latents of two coupled videos."""
    family = FAMILIES["wan"]
    pipeline = WanPipeline(**{**family.pipeline().components, "scheduler": scheduler})
    changes = {"num_inference_steps": 10, "output_type": "latent"}
    a, b = (couple.Trajectory(pipeline, **{**family.arguments(k), **changes}) for k in (0, 1))
    result = couple.sample([a, b], couple.pair(a, b, weight=weight), progress=False)
    return float((torch.as_tensor(result[a][0]) - torch.as_tensor(result[b][0])).norm())


@pytest.mark.parametrize("law", [0.05, 0.1, weights.relax(0.3)], ids=str)
def test_unipc_closes_the_gap_of_a_wan_pair_as_far_as_dpm_solver(law):
    left = [
        gap(cls(**FLOW), law) / gap(cls(**FLOW), 0.0) for cls in (UniPCMultistepScheduler, DPMSolverMultistepScheduler)
    ]
    assert left[1] < 0.5
    assert 1 - left[0] == pytest.approx(1 - left[1], rel=0.03)
    assert left[0] == pytest.approx(left[1], rel=0.1)
