"""Two prompts with exact denoisers: what coupling aligns when there is no training error.

The first prompt is a pastel circle, the second a pastel star of another colour, each at 9 x 9 places and 2 sizes on a
dark ground. `relax(1)` brings the two sprites within a pixel under three samplers while each sample stays a picture
of its own prompt; the paper's constant law needs another weight for each.
"""

import functools

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler

import couple
from couple import energies, weights

PAIRS, SIZE, STEPS = 24, 32, 20
PLACES = [(x, y) for x in range(8, 25, 2) for y in range(8, 25, 2)]
RADII = (5.0, 7.0)
GROUND, PINK, BLUE = (np.array(c) / 127.5 - 1 for c in ((30, 30, 38), (255, 170, 180), (150, 205, 255)))


def circle(x, y, radius):
    return np.hypot(x, y) <= radius


def star(x, y, radius):
    """Five points; between a point and the notch beside it the edge is a straight line."""
    wedge = np.pi / 5
    angle = np.abs((np.arctan2(x, -y) + wedge) % (2 * wedge) - wedge)
    notch = 0.45 * np.array([np.cos(wedge), np.sin(wedge)])
    along, across = np.hypot(x, y) * np.cos(angle) / radius, np.hypot(x, y) * np.sin(angle) / radius
    return (notch[0] - 1) * across - notch[1] * (along - 1) >= 0


def draw(shape, colour):
    """All pictures of one prompt, shape (2 x 81, 3, 32, 32) in [-1, 1], antialiased by 3 x 3 points a pixel."""
    axis = (np.arange(3 * SIZE) + 0.5) / 3
    grid_y, grid_x = np.meshgrid(axis, axis, indexing="ij")
    pictures = []
    for radius in RADII:
        for x, y in PLACES:
            inside = shape(grid_x - x, grid_y - y, radius).reshape(SIZE, 3, SIZE, 3).mean((1, 3))
            pictures.append(GROUND[:, None, None] + inside * (colour - GROUND)[:, None, None])
    return torch.from_numpy(np.stack(pictures)).float()


@functools.cache
def prompts():
    return draw(circle, PINK), draw(star, BLUE)


STABLE_DIFFUSION = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
SCHEDULERS = {
    "flow Euler": FlowMatchEulerDiscreteScheduler,
    "DDIM": lambda: DDIMScheduler(set_alpha_to_one=False, steps_offset=1, **STABLE_DIFFUSION),
    "DDPM": lambda: DDPMScheduler(**STABLE_DIFFUSION),
}


def distance_of(scheduler, **edge):
    """Mean distance in pixels between the sprites of 24 pairs; every sample must be a picture of its own prompt."""
    sets = prompts()
    nodes = [
        couple.Trajectory(
            couple.DenoiserPipeline(couple.ExactDenoiser.pictures(pictures), SCHEDULERS[scheduler]()),
            shape=(PAIRS, 3, SIZE, SIZE), num_inference_steps=STEPS, generator=torch.Generator().manual_seed(seed),
        )
        for seed, pictures in enumerate(sets)
    ]  # fmt: skip
    result = couple.sample(nodes, couple.pair(*nodes, **edge) if edge else (), progress=False)
    centres = []
    for i, node in enumerate(nodes):
        sample = result[node].flatten(1)
        nearest = torch.cdist(sample, torch.cat(sets).flatten(1)).argmin(1)
        assert (nearest // len(sets[i]) == i).all(), "a sample became a picture of the other prompt"
        centres.append(torch.tensor(PLACES, dtype=torch.float32)[nearest % len(PLACES)])
    return float((centres[0] - centres[1]).norm(dim=1).mean())


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_uncoupled_sprites_are_far_apart(scheduler):
    assert distance_of(scheduler) > 6


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_one_relax_law_aligns_the_sprites_under_every_sampler(scheduler):
    assert distance_of(scheduler, weight=weights.relax(1.0)) <= 1.0


@pytest.mark.parametrize(
    ("scheduler", "best", "too_strong"), [("flow Euler", 0.1, 1.0), ("DDIM", 0.1, 1.0), ("DDPM", 0.3, 1.0)]
)
def test_a_constant_law_needs_a_weight_for_each_sampler_and_comes_apart_above_it(scheduler, best, too_strong):
    assert distance_of(scheduler, weight=best) < 1.5 < distance_of(scheduler, weight=too_strong)


def test_a_luminance_energy_aligns_too():
    luminance = energies.feature(lambda x: 3**0.5 * x.mean(dim=1))
    aligned = distance_of("flow Euler", weight=weights.relax(4.0), energy=luminance)
    assert aligned < distance_of("flow Euler") / 3
