"""Carrying a pull through the correctors of UniPC and SA-Solver.

These solvers begin a step by integrating the previous one again, from the state it started with and with the new
prediction, and drop the state they are handed: whatever was added to it after the previous step is lost, although the
prediction has seen it. `carrying_class` gives a subclass whose corrector adds the pull once more. A step for which no
pull was recorded runs the stock code on the stock numbers.
"""

import functools
from typing import Any

from torch import Tensor

from couple.hooks import subclass

CORRECTORS = {
    "UniPCMultistepScheduler": "multistep_uni_c_bh_update",
    "HeliosScheduler": "multistep_uni_c_bh_update",
    "SASolverScheduler": "stochastic_adams_moulton_update",
}


@functools.cache
def carrying_class(cls: type) -> type:
    """A subclass of a scheduler class, of the same name, whose corrector keeps the pull; `cls` itself if it has none.

    Swap an instance's `__class__` to it, then call `carry` after each step that was pulled.
    """
    corrector = next((CORRECTORS[base.__name__] for base in cls.__mro__ if base.__name__ in CORRECTORS), None)
    if corrector is None or hasattr(cls, "_carried"):
        return cls
    stock = getattr(cls, corrector)

    @functools.wraps(stock)
    def corrected(self: Any, *args: Any, **kwargs: Any) -> Tensor:
        sample = stock(self, *args, **kwargs)
        start, pull = self._carried
        # The start of the step to integrate again tells whether this pull belongs to it, also in a later run.
        return sample if pull is None or start is not self.last_sample else sample + pull.to(sample.dtype)

    return subclass(cls, {corrector: corrected, "_carried": (None, None)})


def carry(scheduler: Any, pull: Tensor) -> None:
    """Record the pull that was just added to the state `scheduler.step` returned; only a carrying class needs it.

    What is recorded between two steps adds up.

    Args:
        scheduler: instance of a `carrying_class`; any other scheduler is left alone.
        pull: the displacement, of the state's shape.
    """
    if hasattr(scheduler, "_carried"):
        start, before = scheduler._carried
        if before is not None and start is scheduler.last_sample:
            pull = before + pull
        scheduler._carried = (scheduler.last_sample, pull)
