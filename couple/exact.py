"""Denoisers known in closed form: of a finite set of pictures, of a Gaussian, of a mixture of Gaussians.

The best possible prediction of x0 from `x = alpha x0 + sigma eps` is the mean of x0 given x. For a mixture of
Gaussians, of which a finite set of pictures is the limit of zero width, that mean is a formula. So there is no
training error, and sampling with it shows what a sampler or a coupling does and nothing else. `DenoiserPipeline`
makes it a pipeline, with any scheduler and any prediction type.
"""

from __future__ import annotations

import torch
from torch import Tensor


class ExactDenoiser:
    """The posterior mean of x0 when x0 is drawn from a mixture of Gaussians with diagonal covariances.

    Args:
        means: shape (M, ...): one mean for each of the M components, floating.
        stds: standard deviations, 0 or more, of a shape that broadcasts to that of `means`: a number, one for each
            component as shape (M, 1, ...), or one for each element.
        weights: shape (M,): how often each component is drawn, up to a factor; equally often if None.

    Raises:
        ValueError: shapes do not fit, a standard deviation or weight is negative, or all weights are 0.

    Example:
        >>> coin = ExactDenoiser(torch.tensor([[-1.0], [1.0]]), 0.0)
        >>> coin.x0(torch.tensor([[0.0], [0.9]]), alpha=1.0, sigma=0.1).round(decimals=3)
        tensor([[0.],
                [1.]])
    """

    def __init__(self, means: Tensor, stds: Tensor | float, weights: Tensor | None = None):
        """Check the mixture and keep it in float64."""
        means = torch.as_tensor(means).to(torch.float64)
        if means.ndim < 1 or not len(means):
            raise ValueError(f"`means` must have shape (M, ...) with M of 1 or more; got {tuple(means.shape)}.")
        stds = torch.as_tensor(stds, dtype=torch.float64, device=means.device)
        weights = means.new_ones(len(means)) if weights is None else torch.as_tensor(weights).to(means)
        if weights.shape != (len(means),):
            raise ValueError(f"`weights` must have shape ({len(means)},), one a component; got {tuple(weights.shape)}.")
        if not bool((weights >= 0).all() and weights.sum() > 0):
            raise ValueError("`weights` must be 0 or more, and not all 0.")
        if not bool((stds >= 0).all()):
            raise ValueError("`stds` must be 0 or more.")
        self.shape = means.shape[1:]
        variances = stds.square().expand(means.shape)
        self._mixture = (
            means.reshape(len(means), -1),
            variances.reshape(len(means), -1),
            (weights / weights.sum()).log(),
        )

    @classmethod
    def gaussian(cls, mean: Tensor, std: Tensor | float) -> ExactDenoiser:
        """Return the denoiser of one Gaussian.

        Args:
            mean: any shape, that of one sample.
            std: a number, or a tensor that broadcasts to the shape of `mean`.

        Example:
            >>> ExactDenoiser.gaussian(torch.tensor([2.0]), 0.5).x0(torch.zeros(1, 1), alpha=0.0, sigma=1.0)
            tensor([[2.]])
        """
        return cls(torch.as_tensor(mean)[None], std)

    @classmethod
    def pictures(cls, pictures: Tensor, weights: Tensor | None = None) -> ExactDenoiser:
        """Return the denoiser of a finite set of pictures: their average, weighted by a softmax of the distances.

        Args:
            pictures: shape (M, ...).
            weights: shape (M,): how often each is drawn; equally often if None.
        """
        return cls(pictures, 0.0, weights)

    def x0(self, sample: Tensor, alpha: float, sigma: float) -> Tensor:
        """Return the mean of x0 given `sample = alpha x0 + sigma eps`.

        Both ends are limits: at alpha = 0 the mean of the mixture, at sigma = 0 the sample over alpha (for pictures:
        the nearest one).

        Args:
            sample: shape (B, ...), the shape of one sample after the batch axis; floating.
            alpha: 0 or more.
            sigma: 0 or more.

        Returns:
            Shape of `sample`, float32, or float64 if it is. Computed in float64.
        """
        if sample.shape[1:] != self.shape:
            raise ValueError(f"the sample has shape {tuple(sample.shape)}; it must be (B, *{tuple(self.shape)}).")
        means, variances, log_weights = (kept.to(sample.device) for kept in self._mixture)
        x = sample.to(torch.float64).reshape(len(sample), -1)
        # The floor turns the limit sigma = 0 of pictures into a softmax that is all on the nearest.
        spread = (alpha**2 * variances + sigma**2).clamp_min(1e-24)
        centres = alpha * means
        # log N(x; centres, spread), with the square multiplied out: (B, M, D) never exists. Weights come in after the
        # largest is taken off, or they would drown in it near sigma = 0.
        logits = x @ (centres / spread).T - x.square() @ (1 / spread).T / 2
        logits = logits - (centres.square() / spread + spread.log()).sum(1) / 2
        logits = logits - logits.amax(1, keepdim=True) + log_weights
        share = logits.softmax(1)
        gain = alpha * variances / spread
        x0 = share @ (means - gain * centres) + x * (share @ gain)
        dtype = torch.float64 if sample.dtype == torch.float64 else torch.float32
        return x0.reshape(sample.shape).to(dtype)
