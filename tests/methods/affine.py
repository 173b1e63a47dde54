"""What the methods do to Gaussians, in numpy and float64, from the papers' equations. Imports nothing from `couple`.

A Gaussian's clean prediction is affine in the state, and so are a sampler's step, an average and a move of a Langevin
chain. So states can be followed one by one where nothing is drawn, and mean and covariance of all samples where noise
is. In every convention a deterministic step is x' = alpha' x0 + sigma' eps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BETAS = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
PRODUCTS = np.cumprod(1 - BETAS)


@dataclass
class Gaussian:
    """x0 ~ N(mean, cov) over the last axis."""

    mean: np.ndarray
    cov: np.ndarray

    def prediction(self, alpha, sigma):
        """Return (G, o) with E[x0 | x] = G x + o."""
        gain = alpha * self.cov @ np.linalg.inv(alpha**2 * self.cov + sigma**2 * np.eye(len(self.mean)))
        return gain, self.mean - alpha * gain @ self.mean

    def x0(self, x, alpha, sigma):
        """E[x0 | x] for x of shape (..., d)."""
        gain, offset = self.prediction(alpha, sigma)
        return x @ gain.T + offset


def product(gaussians, shares):
    """The normalised geometric mean of Gaussians: precisions add up, weighted by shares that sum to 1."""
    precisions = [share * np.linalg.inv(g.cov) for g, share in zip(gaussians, shares, strict=True)]
    cov = np.linalg.inv(sum(precisions))
    return Gaussian(cov @ sum(p @ g.mean for p, g in zip(precisions, gaussians, strict=True)), cov)


def averaged(values, groups, shares):
    """Replace the pieces of each group by their mean. A group is a list of (trajectory, index); nothing overlaps."""
    values = [value.copy() for value in values]
    for group in groups:
        total = sum(shares[i] for i, _ in group)
        mean = sum(shares[i] * values[i][index] for i, index in group) / total
        for i, index in group:
            values[i][index] = mean
    return values


def follow(average, gaussians, levels, starts, groups, shares):
    """Follow states under a deterministic sampler.

    Args:
        average: "x0" (SyncTweedies; ScoreAverage from equal starts) or "state" (MultiDiffusion).
        gaussians: one per trajectory.
        levels: for each trajectory (alphas, sigmas), K + 1 entries each.
        starts: initial states, one per trajectory, shape (..., d).
        groups: what is shared, see `averaged`.
        shares: one per trajectory.
    """
    states = [np.array(start, dtype=np.float64) for start in starts]
    for k in range(len(levels[0][0]) - 1):
        here = [(alphas[k], sigmas[k]) for alphas, sigmas in levels]
        x0s = [g.x0(x, *level) for g, x, level in zip(gaussians, states, here, strict=True)]
        if average == "x0":
            x0s = averaged(x0s, groups, shares)
        epsilons = [(x - a * x0) / s for x, x0, (a, s) in zip(states, x0s, here, strict=True)]
        landing = [(alphas[k + 1], sigmas[k + 1]) for alphas, sigmas in levels]
        states = [a * x0 + s * eps for x0, eps, (a, s) in zip(x0s, epsilons, landing, strict=True)]
        if average == "state":
            states = averaged(states, groups, shares)
    return states


def moments(gaussians, shares, squares, step, corrections=None):
    """Mean and covariance of all samples of one state under the averaged prediction, from N(0, I).

    Args:
        gaussians: the models.
        shares: weights of their predictions, sum 1.
        squares: alpha^2 at every level from noise, and where the last step lands (VP).
        step: "ddim" or "ddpm".
        corrections: None, or a function (A, b, h) -> list of moves made at each level, see `langevin`, `hamiltonian`;
            and the step size at each level, as a pair.
    """
    size = len(gaussians[0].mean)
    mean, cov, eye = np.zeros(size), np.eye(size), np.eye(size)
    for square, landing in zip(squares[:-1], squares[1:], strict=True):
        alpha, sigma = np.sqrt(square), np.sqrt(1 - square)
        predictions = [g.prediction(alpha, sigma) for g in gaussians]
        gain = sum(share * g for share, (g, _) in zip(shares, predictions, strict=True))
        offset = sum(share * o for share, (_, o) in zip(shares, predictions, strict=True))
        if corrections is not None:
            chain, size_of = corrections
            # score = -eps / sigma = -(x - alpha x0) / sigma^2 = A x + b
            mean, cov = chain((alpha * gain - eye) / sigma**2, alpha * offset / sigma**2, size_of(square), mean, cov)
        if step == "ddim":
            keep = np.sqrt(1 - landing) / sigma
            jump, noise = np.sqrt(landing) - keep * alpha, 0.0
        else:  # Ho et al. 2020, Eq. 7, with beta the noise between the two levels
            beta = 1 - square / landing
            jump = np.sqrt(landing) * beta / (1 - square)
            keep = np.sqrt(1 - beta) * (1 - landing) / (1 - square)
            noise = beta * (1 - landing) / (1 - square)
        matrix = keep * eye + jump * gain
        mean, cov = matrix @ mean + jump * offset, matrix @ cov @ matrix.T + noise * eye
    return Gaussian(mean, cov)


def langevin(count):
    """Unadjusted Langevin moves x' = x + h (A x + b) + sqrt(2 h) n."""

    def chain(A, b, h, mean, cov):
        matrix = np.eye(len(mean)) + h * A
        for _ in range(count):
            mean, cov = matrix @ mean + h * b, matrix @ cov @ matrix.T + 2 * h * np.eye(len(mean))
        return mean, cov

    return chain


def hamiltonian(count, leapfrog, damping):
    """Moves of (x, v): v' = c v + sqrt(1 - c^2) n, then leapfrog steps of unit mass; v starts at N(0, I)."""

    def chain(A, b, h, mean, cov):
        size = len(mean)
        eye, none = np.eye(size), np.zeros((size, size))
        kick, push = np.block([[eye, none], [h / 2 * A, eye]]), np.concatenate([np.zeros(size), h / 2 * b])
        drift = np.block([[eye, h * eye], [none, eye]])
        refresh = np.block([[eye, none], [none, damping * eye]])
        noise = np.block([[none, none], [none, (1 - damping**2) * eye]])
        mean, cov = np.concatenate([mean, np.zeros(size)]), np.block([[cov, none], [none, eye]])
        for _ in range(count):
            mean, cov = refresh @ mean, refresh @ cov @ refresh.T + noise
            for _ in range(leapfrog):
                for matrix, shift in ((kick, push), (drift, 0.0), (kick, push)):
                    mean, cov = matrix @ mean + shift, matrix @ cov @ matrix.T
        return mean[:size], cov[:size, :size]

    return chain


def deviations(samples, expected):
    """How many standard errors sample mean and covariance are off a Gaussian: the largest of all entries."""
    count = len(samples)
    diagonal = np.diag(expected.cov)
    mean = np.abs(samples.mean(0) - expected.mean) / np.sqrt(diagonal / count)
    errors = np.sqrt((np.outer(diagonal, diagonal) + expected.cov**2) / count)
    return max(mean.max(), (np.abs(np.cov(samples.T) - expected.cov) / errors).max())
