"""Which views a forward sees: the network takes exactly T frames, a scene may have fewer or more.

A window is T view indices. Every window begins with all input views, so that all see the same first camera and the
same known content. Windows depend on the numbers of views alone, so trajectories over the same cameras share them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def windows(num_inputs: int, num_views: int, num_frames: int) -> Tensor:
    """Cover all views with windows of `num_frames` slots.

    Fewer views than slots: the last view is repeated. More: windows over consecutive targets, neighbours sharing at
    least half of them.

    Args:
        num_inputs: n, the input views are 0 to n - 1; fewer than `num_frames` if the views do not fit one window.
        num_views: V, inputs and targets.
        num_frames: T.

    Returns:
        View indices, shape (windows, T), int64.

    Example:
        >>> windows(1, 3, 5).tolist()
        [[0, 1, 2, 2, 2]]
        >>> windows(1, 8, 5).tolist()
        [[0, 1, 2, 3, 4], [0, 2, 3, 4, 5], [0, 4, 5, 6, 7]]
    """
    if num_views <= num_frames:
        return torch.arange(num_frames).clamp_max(num_views - 1)[None]
    length = num_frames - num_inputs
    travel = num_views - num_inputs - length
    moves = math.ceil(travel / max(length // 2, 1))
    starts = [num_inputs + travel * i // moves for i in range(moves + 1)]
    return torch.tensor([[*range(num_inputs), *range(start, start + length)] for start in starts])


def averaged(predictions: Sequence[Tensor], slots: Tensor, num_views: int) -> Tensor:
    """Average the predictions that windows make for the same view (MultiDiffusion, Bar-Tal et al. 2023).

    Repeats of a view that fill up a window do not count.

    Args:
        predictions: one tensor per window, shape (T, ...).
        slots: the windows, shape (windows, T).
        num_views: V.

    Returns:
        Shape (V, ...).
    """
    if len(slots) == 1:
        return predictions[0][:num_views]
    total = predictions[0].new_zeros(num_views, *predictions[0].shape[1:])
    count = total.new_zeros(num_views, *[1] * (total.ndim - 1))
    # One window after the other: a view is in a window once, so nothing depends on the order of parallel additions.
    for prediction, views in zip(predictions, slots, strict=True):
        total[views] += prediction
        count[views] += 1
    return total / count
