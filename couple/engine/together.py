"""Forwards that run side by side, and answers that are computed when somebody looks at them.

Both serve one end: the weights of a network that live elsewhere are brought once for everyone. `side_by_side` runs
each forward in a greenlet; `pause`, called where a block's weights would leave the device, lets the others come to
the same place first. `Promised` is an output that is not computed yet: a pipeline that evaluates a network twice in
a step, with and without its condition, hands in its second question before it looks at the first answer, so both
are answered by one passage of the weights.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Sequence
from typing import Any

import greenlet
import torch
from torch import Tensor
from torch.utils import _pytree as pytree


class _Side(greenlet.greenlet):
    """A forward that takes turns with others of the same network."""


def pause() -> None:
    """Let the forwards beside this one come as far; outside of `side_by_side` do nothing."""
    side = greenlet.getcurrent()
    if isinstance(side, _Side) and side.parent is not None:
        side.parent.switch()


def side_by_side(forwards: Sequence[Callable[[], None]]) -> None:
    """Run all forwards to their end, each as far as its next `pause` before the first goes on.

    An error in one is raised here and ends the others where they are.
    """
    sides = [_Side(forward) for forward in forwards]
    for side in sides:
        side.gr_context = contextvars.copy_context()
    try:
        while not all(side.dead for side in sides):
            for side in sides:
                if not side.dead:
                    side.switch()
    finally:
        for side in sides:
            if side:
                side.throw()


class Promised(Tensor):
    """A tensor that is asked for when an operation, or anything but its identity, is wanted of it."""

    _look: Callable[[], Tensor]

    @classmethod
    def of(cls, look: Callable[[], Tensor]) -> Promised:
        """Stand for the tensor that `look()` returns."""
        promise = Tensor._make_subclass(cls, torch.empty(0))
        promise._look = look
        return promise

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do on the tensors what was asked of their promises."""
        args, kwargs = pytree.tree_map(kept, (args, kwargs or {}))
        return func(*args, **kwargs)


def kept(value: Any) -> Any:
    """Return the tensor that a promise stands for; anything else as it is."""
    return value._look() if isinstance(value, Promised) else value
