"""Reading a scheduler's tables, its place in them and what it takes, without changing it or waiting for a device.

Tables (`sigmas`, `alphas_cumprod`, `timesteps`) are read once into lists of Python floats and kept for as long as the
tensor lives unchanged; the place is found the way the scheduler itself will find it.
"""

import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

_lists: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def numbers(table: Tensor | Sequence[float]) -> Sequence[float]:
    """The values of a one-dimensional table as Python numbers; a device tensor is read once, not once a step."""
    if not isinstance(table, Tensor):
        return table
    version = 0 if table.is_inference() else table._version
    kept = _lists.get(table)
    if kept is None or kept[0] != version:
        kept = _lists[table] = (version, table.tolist())
    return kept[1]


def at(table: Tensor | Sequence[float], index: int) -> float:
    """Entry `index` of a table, or its last one for steps taken beyond the end."""
    values = numbers(table)
    return float(values[min(index, len(values) - 1)])


def step_index(scheduler: Any, timestep: float | Tensor) -> int:
    """The index that `scheduler.step(..., timestep, ...)` will use; the scheduler may not have set it yet."""
    for index in (scheduler._step_index, scheduler._begin_index):
        if index is not None:
            return index
    if hasattr(scheduler, "index_for_timestep"):
        here = timestep.to(scheduler.timesteps.device) if isinstance(timestep, Tensor) else timestep
        return scheduler.index_for_timestep(here)
    # The rule of diffusers: the second of several equal timesteps, so that an image-to-image run skips no sigma.
    hits = [index for index, entry in enumerate(numbers(scheduler.timesteps)) if entry == number(timestep)]
    return hits[1] if len(hits) > 1 else hits[0]


def number(timestep: float | Tensor) -> float:
    """A timestep as a number; pipelines may pass one per batch row, all equal."""
    if not isinstance(timestep, Tensor):
        return timestep
    table = timestep._base
    if timestep.ndim == 0 and table is not None and table.ndim == 1 and table.is_contiguous():
        # `for t in timesteps` hands out views of the table, which is known: nothing to wait for.
        return numbers(table)[int(timestep.storage_offset() - table.storage_offset())]
    return timestep.item() if timestep.ndim == 0 else timestep.flatten()[0].item()


def step_options(scheduler: Any, **options: Any) -> dict[str, Any]:
    """Those of `options` (generator, eta) that `scheduler.step` takes; deterministic schedulers take none."""
    takes = inspect.signature(scheduler.step).parameters
    return {name: value for name, value in options.items() if name in takes}
