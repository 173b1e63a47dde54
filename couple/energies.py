"""Energies: scalars that are low when two samples agree.

An energy is any callable `(a, b) -> scalar tensor`, summed (not averaged) over elements, differentiable in
both arguments; they have equal shapes. Its gradient with respect to the clean predictions is the direction of
the pull. Arguments are float32 (float64 if the states are), and nothing back-propagates through a network
that denoises. Squared distances have a closed form in `couple.coupling`; every other energy goes through
autograd.

With a mask, an energy sees `sqrt(mask) * a` and `sqrt(mask) * b`: for the squared distance this weighs each
element by the mask, and a boolean mask cuts a region out for any energy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from couple import maps


def squared_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """`1/2 ||a - b||^2`, summed over elements (paper Eq. 9). Gradient in a: `a - b`.

    Invariant under translations, rotations and permutations applied to both. Not under scale.

    Args:
        a: any shape, floating.
        b: the same shape.

    Returns:
        A scalar, 0 or more; 0 only where a equals b.

    Example:
        >>> squared_distance(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0]))
        tensor(12.5000)
    """
    return (a - b).square().sum() / 2


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """`n (1 - cos(a, b))` with the angle taken over all `n` elements of each batch row, and rows summed.

    Gradient in a: `n (cos(a, b) a / |a| - b / |b|) / |a|`, orthogonal to a. Invariant under positive scaling
    of either side, so contrast stays each sample's own. The factor n keeps the pull per element of the size
    of the squared distance's for states with unit variance. A row that is zero has no direction: energy n,
    gradient 0.

    Args:
        a: shape (B, ...), floating; a tensor of one axis counts as one row.
        b: the same shape.

    Returns:
        A scalar in [0, 2 n B].

    Example:
        >>> cosine(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 5.0]]))
        tensor(2.)
    """
    rows_a, rows_b = (x.reshape(x.shape[0] if x.ndim > 1 else 1, -1) for x in (a, b))
    return rows_a.shape[1] * (1 - (_unit(rows_a) * _unit(rows_b)).sum(1)).sum()


@dataclass(frozen=True)
class huber:
    """`sum of h(a - b)`, `h(r) = r^2 / 2` up to `|r| = delta`, then `delta (|r| - delta / 2)`.

    Gradient in a: `a - b` clamped to [-delta, delta], element by element: where the two samples plainly
    differ, they pull no harder than by delta. Invariant under translations of both.

    Args:
        delta: where the parabola becomes a line, in the units of x0; above 0.

    Example:
        >>> huber(1.0)(torch.tensor([0.5, 3.0]), torch.zeros(2))
        tensor(2.6250)
    """

    delta: float
    example: ClassVar[str] = "huber(1.0)"

    def __post_init__(self):
        """Refuse a delta that is not a positive number."""
        if not isinstance(self.delta, (int, float)) or not 0 < self.delta < math.inf:
            raise ValueError(f"huber: `delta` must be a number above 0, e.g. huber(1.0); got {self.delta!r:.80}.")

    def __call__(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Return the energy of two tensors of equal shape."""
        return torch.nn.functional.huber_loss(a, b, reduction="sum", delta=self.delta)


@dataclass(frozen=True)
class low_pass:
    """`1/2 ||P a - P b||^2` with P the mean over `size` x `size` blocks: layout agrees, detail is free.

    Gradient in a: `P (a - b)`. Equal to `squared_distance` for what is constant on blocks, 0 for what has
    zero mean on every block. Works on tensors of shape (..., H, W); borders cut blocks. An edge refuses it for
    states that are no pictures or videos, such as tokens.

    Args:
        size: edge of a block, in pixels of the state.

    Example:
        >>> low_pass(2)(torch.eye(2), torch.zeros(2, 2))
        tensor(0.5000)
    """

    size: int
    state_axes: ClassVar[tuple[int, ...]] = maps.low_pass.state_axes
    example: ClassVar[str] = "low_pass(8)"

    def __post_init__(self):
        """Refuse a size that is not a positive whole number."""
        maps.low_pass(self.size)

    def __call__(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Return the energy of two tensors of shape (..., H, W)."""
        return squared_distance(maps.low_pass(self.size)(a - b), torch.zeros((), dtype=a.dtype, device=a.device))


@dataclass(frozen=True)
class feature:
    """`1/2 ||fn(a) - fn(b)||^2`: two samples agree where their features do.

    Gradient in a: the adjoint of fn's derivative at a, applied to `fn(a) - fn(b)`; invariances and units are
    fn's.

    Args:
        fn: a differentiable callable from a tensor of the ends' shape to a tensor, e.g. luminance, a decoder
            followed by an image encoder. It gets float32 (or float64) and casts for itself if its weights are
            half precision.

    Example:
        >>> luminance = feature(lambda x: x.mean(dim=-3))
        >>> red, blue = torch.eye(3)[0].reshape(3, 1, 1), torch.eye(3)[2].reshape(3, 1, 1)
        >>> luminance(red, blue)
        tensor(0.)
    """

    fn: Callable[[torch.Tensor], torch.Tensor]
    example: ClassVar[str] = "feature(fn)"

    def __post_init__(self):
        """Refuse what is not a function."""
        if isinstance(self.fn, type) or not callable(self.fn):
            raise TypeError(f"feature: `fn` must be a function of one tensor; got {self.fn!r:.80}.")

    def __call__(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Return the energy of two tensors that fn takes."""
        return squared_distance(self.fn(a), self.fn(b))


def _unit(rows: torch.Tensor) -> torch.Tensor:
    # A zero row would divide 0 by 0; the mask keeps the value and the gradient at 0 instead of NaN.
    squares = rows.square().sum(1, keepdim=True)
    empty = squares == 0
    return torch.where(empty, 0.0, rows * torch.where(empty, 1.0, squares).rsqrt())
