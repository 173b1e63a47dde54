"""The state convention x = alpha x0 + sigma eps, and what a network's output says about x0 in it.

Whatever a network predicts, the prediction m, the state x and the clean sample x0 obey one linear relation
`a x0 = b x + c m`. `relation` writes it down for each kind of prediction; `x0_of` and `output_of` solve it for x0
and for m. Nothing here knows diffusers.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

Relation = tuple[float | Tensor, float | Tensor, float | Tensor]


@dataclass(frozen=True)
class Levels:
    """Where one scheduler step starts and where it lands, with x = alpha x0 + sigma eps at both ends.

    The numbers are in the state's own convention (VE: alpha = 1; flow: alpha = 1 - sigma) and are Python floats, or
    tensors that broadcast against the state where the scheduler steps each token from a level of its own.

    Attributes:
        alpha: factor of the clean sample in the state that is handed to `step`.
        sigma: standard deviation of the noise in that state.
        alpha_next: factor of the clean sample in the state that `step` returns.
        sigma_next: standard deviation of the noise in the state that `step` returns; 0 for a finished sample.
        prediction: what the network's output is: "epsilon", "sample", "v_prediction" (of the state scaled to unit
            variance), "flow" (eps - x0), "flow_reversed" (x0 - eps), "trigflow", or "preconditioned" (EDM and
            consistency models: an output that only the scheduler's own coefficients turn into x0).
        completes: False for an inner stage (first half of a Heun step and the like), whose result the scheduler
            throws away when the step completes, so that a change to it would be lost.
    """

    alpha: float | Tensor
    sigma: float | Tensor
    alpha_next: float | Tensor
    sigma_next: float | Tensor
    prediction: str
    completes: bool = True


def relation(prediction: str, alpha: float | Tensor, sigma: float | Tensor) -> Relation:
    """The coefficients (a, b, c) of `a x0 = b x + c m` for a state x = alpha x0 + sigma eps and an output m.

    Args:
        prediction: "epsilon", "sample", "v_prediction", "flow" or "flow_reversed".
        alpha: factor of the clean sample in the state.
        sigma: standard deviation of the noise in the state.

    Raises:
        ValueError: `prediction` is none of these.
    """
    match prediction:
        case "epsilon":
            return alpha, 1.0, -sigma
        case "sample":
            return 1.0, 0.0, 1.0
        case "v_prediction":
            # v = (alpha eps - sigma x0) / r with r the state's scale: Salimans & Ho 2022 for r = 1, k-diffusion for VE.
            square = alpha * alpha + sigma * sigma
            return square, alpha, -sigma * square**0.5
        case "flow":
            return 1.0, 1.0, -sigma
        case "flow_reversed":
            return 1.0, 1.0, sigma
    raise ValueError(f"prediction {prediction!r} has no relation to x0 that alpha and sigma alone can tell")


def x0_of(output: Tensor, sample: Tensor, coefficients: Relation) -> Tensor:
    """Solve `a x0 = b x + c m` for x0, in float32 (float64 if either tensor is); at most two tensor operations more."""
    a, b, c = coefficients
    skip, scale = _ratio(b, a), _ratio(c, a)
    if isinstance(skip, Tensor) or isinstance(scale, Tensor):
        return _wide(sample) * skip + output * scale
    if skip == 0.0:
        return _wide(output) if scale == 1.0 else _wide(output) * scale
    if skip == 1.0:
        return torch.add(_wide(sample), output, alpha=scale)
    return torch.add(_wide(sample) * skip, output, alpha=scale)


def output_of(x0: Tensor, sample: Tensor, coefficients: Relation) -> Tensor:
    """Solve `a x0 = b x + c m` for the network's output m; 0 where c is 0 and the output has no say."""
    a, b, c = coefficients
    if isinstance(a, Tensor) or isinstance(b, Tensor) or isinstance(c, Tensor):
        solved = (_wide(x0) * a - sample * b) / c
        return torch.where(torch.as_tensor(c) == 0, torch.zeros_like(solved), solved)
    if c == 0.0:
        return torch.zeros_like(_wide(x0))
    return torch.add(_wide(x0) * (a / c), sample, alpha=-b / c)


def _ratio(numerator: float | Tensor, denominator: float | Tensor) -> float | Tensor:
    """Quotient that is NaN where x0 is undefined (epsilon at alpha = 0), as it is in diffusers, and never raises."""
    if isinstance(denominator, float) and denominator == 0.0:
        return math.nan
    return numerator / denominator


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
