"""What all metrics take: tensors, in one range; checked in one place."""

from __future__ import annotations

from torch import Tensor


def check_tensor(name: str, values: object) -> None:
    """Raise TypeError, naming the argument, unless it is a tensor."""
    if not isinstance(values, Tensor):
        raise TypeError(
            f"`{name}` must be a tensor; got {type(values).__name__}. Let the pipeline return tensors, "
            f'output_type="pt", or write torch.tensor(numpy.array({name})).permute(2, 0, 1)[None] / 255.'
        )


def check_range(name: str, values: Tensor) -> None:
    """Raise ValueError, naming the argument, unless all its values are in [0, 1]."""
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(
            f"`{name}` has values from {values.min():.4g} to {values.max():.4g}; expected [0, 1], e.g. {name} / 255."
        )
