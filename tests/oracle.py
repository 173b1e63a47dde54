"""The coupled recursion of Gaussian denoisers, in numpy and float64, written from the equations.

When every x0 is Gaussian with a diagonal covariance, its prediction is affine in the state, a deterministic sampler's
step is affine in state and prediction, and so is the pull. Per element of the state, the N coupled trajectories
therefore follow `x' = A x + b` with an N x N matrix A for each step. Imports nothing from `couple`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Gaussian:
    """x0 ~ N(mean, diag(std^2)); shapes broadcast to the state's."""

    mean: np.ndarray
    std: np.ndarray

    def prediction(self, alpha: float, sigma: float) -> tuple[np.ndarray, np.ndarray]:
        """Return (gain, offset) with E[x0 | x] = gain x + offset for x = alpha x0 + sigma eps."""
        gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
        return gain, self.mean - gain * alpha * self.mean


@dataclass
class Schedule:
    """A deterministic sampler and its levels; entry k is the level before step k, the last is where it ends."""

    sampler: str
    alphas: np.ndarray
    sigmas: np.ndarray

    def step(self, k: int) -> tuple[float, float]:
        """Return (keep, jump) with stock step x' = keep x + jump x0."""
        alpha, sigma = self.alphas[k], self.sigmas[k]
        alpha_next, sigma_next = self.alphas[k + 1], self.sigmas[k + 1]
        if self.sampler == "ddim":  # Song et al. 2021, Eq. 12 with eta = 0: alpha' x0 + sigma' eps
            return sigma_next / sigma, alpha_next - sigma_next * alpha / sigma
        # dx = (sigma' - sigma) (x - x0) / sigma, Karras et al. 2022 Alg. 1 for VE; the velocity eps - x0 for flow.
        if self.sampler in ("ve_euler", "flow_euler"):
            return 1 + (sigma_next - sigma) / sigma, -(sigma_next - sigma) / sigma
        raise ValueError(self.sampler)


@dataclass
class Link:
    """An edge: ends by number, weight at each end as a function of the step, mask of the state's shape or None."""

    a: int
    b: int
    weight_a: np.ndarray
    weight_b: np.ndarray
    mask: np.ndarray | None = None
    directed: bool = False


def vp_levels(betas: np.ndarray, timesteps: np.ndarray, stride: int, final: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (alphas, sigmas) of DDIM along `timesteps`, ending at cumulative product `final`."""
    products = np.cumprod(1 - betas)
    after = timesteps[-1] - stride
    visited = np.append(products[timesteps], products[after] if after >= 0 else final)
    return np.sqrt(visited), np.sqrt(1 - visited)


def run(
    priors: list[Gaussian], schedules: list[Schedule], starts: list[np.ndarray], links: list[Link]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Follow the coupled recursion.

    Args:
        priors: one per trajectory.
        schedules: one per trajectory, all with K steps.
        starts: initial states, one per trajectory, all of one shape.
        links: the coupling.

    Returns:
        The final states, shape (N, ...), and a list of all x0 predictions, K arrays of that shape.
    """
    shape = starts[0].shape
    state = np.stack([start.reshape(-1) for start in starts]).astype(np.float64)
    count, size = state.shape
    predictions = []
    for k in range(len(schedules[0].sigmas) - 1):
        gains, offsets = np.empty((count, size)), np.empty((count, size))
        keeps, jumps = np.empty(count), np.empty(count)
        for i, (prior, schedule) in enumerate(zip(priors, schedules, strict=True)):
            gain, offset = prior.prediction(schedule.alphas[k], schedule.sigmas[k])
            gains[i] = np.broadcast_to(gain, shape).reshape(-1)
            offsets[i] = np.broadcast_to(offset, shape).reshape(-1)
            keeps[i], jumps[i] = schedule.step(k)
        predictions.append((gains * state + offsets).reshape(count, *shape))
        # mix[d, i, j]: how x0_j enters x'_i at element d. Paper Eq. 8: minus sigma' times the gradient of Eq. 9.
        mix = np.zeros((size, count, count))
        mix[:, range(count), range(count)] = jumps
        for link in links:
            mask = np.ones(size) if link.mask is None else np.broadcast_to(link.mask, shape).reshape(-1)
            ends = [(link.b, link.a, link.weight_b[k])]
            if not link.directed:
                ends.append((link.a, link.b, link.weight_a[k]))
            for end, other, weight in ends:
                force = schedules[end].sigmas[k + 1] * weight * mask
                mix[:, end, end] -= force
                mix[:, end, other] += force
        matrix = mix * gains.T[:, None, :]
        matrix[:, range(count), range(count)] += keeps
        shift = np.einsum("dij,jd->id", mix, offsets)
        state = np.einsum("dij,jd->id", matrix, state) + shift
    return state.reshape(count, *shape), predictions
