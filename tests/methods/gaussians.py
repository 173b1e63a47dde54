"""Gaussian denoisers as pipelines, and the levels at which their schedulers step, from the published formulas."""

import numpy as np
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

import couple
from tests.methods import affine

TABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def network(gaussian):
    """A network that predicts epsilon for a Gaussian of any covariance, state of shape (B, d), on `TABLE`."""

    def predict(sample, timestep):
        square = affine.PRODUCTS[int(timestep)]
        x = sample.double().numpy()
        x0 = gaussian.x0(x, np.sqrt(square), np.sqrt(1 - square))
        return torch.from_numpy((x - np.sqrt(square) * x0) / np.sqrt(1 - square)).to(sample.dtype)

    return predict


def vp(gaussian, scheduler=DDIMScheduler):
    """A VP pipeline of a Gaussian over vectors."""
    return couple.DenoiserPipeline(network(gaussian), scheduler(clip_sample=False, steps_offset=1, **TABLE))


def squares(steps):
    """alpha^2 at the levels of `vp` with `steps` steps, and where it ends."""
    return np.append(affine.PRODUCTS[np.arange(steps)[::-1] * (1000 // steps) + 1], 1.0)


def matched(steps):
    """Settings of a VP, a VE and a flow scheduler that step over the same signal-to-noise ratios.

    Returns:
        By name, the scheduler class with its arguments, its `schedule`, and (alphas, sigmas) of its K + 1 levels.
    """
    products = squares(steps)
    noise = np.sqrt(1 / products - 1)
    flow = noise / (1 + noise)
    return {
        "VP": (
            lambda: DDIMScheduler(clip_sample=False, steps_offset=1, **TABLE),
            {"num_inference_steps": steps},
            (np.sqrt(products), np.sqrt(1 - products)),
        ),
        "VE": (
            lambda: EulerDiscreteScheduler(timestep_spacing="trailing", **TABLE),
            {"sigmas": noise.tolist()},
            (np.ones(steps + 1), noise),
        ),
        "flow": (FlowMatchEulerDiscreteScheduler, {"sigmas": flow[:-1].tolist()}, (1 - flow, flow)),
    }


def exact(gaussian, build, schedule, start, name):
    """A trajectory of an independent Gaussian for each element, in float64, from the state `start`."""
    denoiser = couple.ExactDenoiser.gaussian(
        torch.from_numpy(gaussian.mean), torch.from_numpy(np.sqrt(np.diag(gaussian.cov)))
    )
    scheduler = build()
    scheduler.set_timesteps(**schedule)
    scale = float(getattr(scheduler, "init_noise_sigma", 1.0))
    return couple.Trajectory(
        couple.DenoiserPipeline(denoiser, scheduler),
        latents=torch.from_numpy(start / scale),
        schedule=schedule,
        name=name,
    )


def diagonal(count, size, seed=0):
    """Gaussians of independent elements."""
    draw = np.random.default_rng(seed)
    return [affine.Gaussian(draw.normal(size=size), np.diag(draw.uniform(0.1, 1.5, size) ** 2)) for _ in range(count)]


#: Two Gaussians over the plane whose axes point in different directions.
PAIR = (
    affine.Gaussian(np.array([1.0, 0.0]), np.array([[0.5, 0.3], [0.3, 0.4]])),
    affine.Gaussian(np.array([-0.5, 0.8]), np.array([[0.3, -0.2], [-0.2, 0.6]])),
)
