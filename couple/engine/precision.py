"""The float32 state behind a half-precision one.

A pull of a few thousandths is below bfloat16's resolution. Where a pipeline carries its state in half precision, the
state as it was computed is kept aside and taken up again at the next step, unless the pipeline has edited its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from couple import hooks

HALF = (torch.float16, torch.bfloat16)


class MasterState:
    """The float32 state behind the half-precision one that a pipeline carries from step to step."""

    def __init__(self) -> None:
        """Nothing is kept before the first pull."""
        self._master: Tensor | None = None
        self._given: Tensor | None = None
        self._edits: int | None = None

    @property
    def kept(self) -> bool:
        """Whether a pull has made this state differ from the pipeline's."""
        return self._master is not None

    @property
    def master(self) -> Tensor | None:
        """The state that is kept, None if nothing is."""
        return self._master

    def restore(self, master: Tensor | None, returned: Tensor) -> None:
        """Remember `master` as the state behind `returned`, which the pipeline is given."""
        self._master, self._given, self._edits = master, returned, hooks.version(returned)

    def behind(self, sample: Tensor) -> Tensor:
        """Return the float32 state for which the pipeline was given `sample`, if it has not edited it since."""
        if sample.dtype not in HALF:
            return sample
        if self._master is not None and sample is self._given and hooks.version(sample) == self._edits:
            return self._master
        return sample.float()

    def keep(self, landed: Tensor, dtype: torch.dtype) -> Tensor:
        """Return `landed` in the pipeline's dtype and, if that loses precision, remember it as it is."""
        returned = landed.to(dtype)
        if dtype in HALF:
            self._master, self._given, self._edits = landed, returned, hooks.version(returned)
        return returned
