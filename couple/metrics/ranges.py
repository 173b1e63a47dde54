"""The one range that all metrics take pictures in, checked in one place."""

from __future__ import annotations

from torch import Tensor


def check_range(name: str, values: Tensor) -> None:
    """Raise ValueError, naming the argument, unless all its values are in [0, 1]."""
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(
            f"`{name}` has values from {values.min():.4g} to {values.max():.4g}; expected [0, 1], e.g. {name} / 255."
        )
