"""The noise levels are the official ones, and both schedulers drive through them."""

import json

import pytest
import torch
from diffusers import EulerDiscreteScheduler

from couple import schedulers
from couple.backends.seva import native_scheduler, native_sigmas, shared_scheduler
from couple.backends.seva.schedule import SIGMAS, nearest_index
from tests.golden import DATA

OFFICIAL = json.loads((DATA / "seva_schedule.json").read_text())
NATIVE = OFFICIAL["seva_discretization"]
SD = OFFICIAL["sd_scaled_linear"]["sigmas_1000"]


def test_the_table_is_the_official_one():
    assert list(SIGMAS) == pytest.approx(NATIVE["sigmas_1000"], rel=1e-12)


def test_fifty_steps_are_the_official_ones():
    sigmas = native_sigmas(50)
    assert sigmas == pytest.approx([*NATIVE["sigmas_50"], 0], rel=1e-12)
    assert [nearest_index(sigma) for sigma in sigmas[:-1]] == NATIVE["timesteps_50"]


@pytest.mark.parametrize(
    ("schedule", "tolerance"), [({"num_inference_steps": 50}, 3e-6), ({"sigmas": native_sigmas(50)}, 1e-7)]
)
def test_the_native_scheduler_takes_the_official_steps(schedule, tolerance):
    scheduler = native_scheduler()
    scheduler.set_timesteps(**schedule)
    assert type(scheduler) is EulerDiscreteScheduler
    assert scheduler.sigmas.tolist() == pytest.approx([*NATIVE["sigmas_50"], 0], rel=tolerance)
    assert scheduler.timesteps.tolist() == pytest.approx(NATIVE["timesteps_50"], abs=1e-3)


def test_the_shared_scheduler_walks_stable_diffusions_levels():
    scheduler = shared_scheduler()
    scheduler.set_timesteps(50)
    for timestep in scheduler.timesteps:
        level = schedulers.levels(scheduler, timestep)
        assert level.sigma / level.alpha == pytest.approx(SD[int(timestep)], rel=1e-4)
    x0 = schedulers.predict_x0(scheduler, torch.zeros(1, 4), scheduler.timesteps[0], torch.full((1, 4), 9.0))
    assert (x0 > 100).all()  # latents are not clipped to [-1, 1]


def test_the_numbers_the_shared_scheduler_is_explained_with():
    assert sum(sigma > SD[-1] for sigma in native_sigmas(50)) == 19
    assert max(SD) == pytest.approx(14.6, abs=0.05)
    assert nearest_index(SD[999]) == 620


@pytest.mark.parametrize("sigma", [0.0, 0.03, 1.2345, 14.6146, 84.9, 1000.0])
def test_the_nearest_level_is_the_nearest(sigma):
    distances = [abs(level - sigma) for level in SIGMAS]
    assert distances[nearest_index(sigma)] == min(distances)
