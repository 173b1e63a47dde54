"""How `couple` listens to objects it does not own, and leaves them as they were.

Networks are hooked in place while sampling, since they are shared and cannot be copied: each gets a subclass of its
own class that has the same name, module and documentation. `isinstance` checks, signature sniffing, `config` and
`save_pretrained` keep working, and giving the old class back undoes everything. Pipelines and schedulers are private
copies.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def subclass(cls: type, members: dict[str, Any]) -> type:
    """Return a subclass of `cls` with `members` that presents itself under the same name."""
    disguise = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    return type(cls.__name__, (cls,), {**disguise, **members})


@contextmanager
def swapped(objects: Iterable[Any], make: Callable[[type], type]) -> Iterator[None]:
    """Swap the class of each object for `make(class)` and give the old class back at the end, whatever happens."""
    owners: list[tuple[Any, type]] = []
    try:
        for obj in objects:
            owners.append((obj, type(obj)))
            obj.__class__ = make(type(obj))
        yield
    finally:
        for obj, cls in reversed(owners):
            obj.__class__ = cls


def is_scheduler_name(name: str) -> bool:
    """Tell whether a pipeline attribute of this name holds a scheduler by diffusers' naming convention."""
    return name == "scheduler" or name.endswith("_scheduler")


def is_guider_name(name: str) -> bool:
    """Tell whether a pipeline attribute of this name holds a guider: they count steps and remember past ones."""
    return name == "guider" or name.endswith("_guider")


def parts(pipeline: Any) -> Iterator[tuple[Any, str, Any]]:
    """Yield (owner, attribute, value) for the attributes of a pipeline and of the pipelines inside it."""
    seen: set[int] = set()
    queue = [pipeline]
    while queue:
        owner = queue.pop()
        if id(owner) in seen:
            continue
        seen.add(id(owner))
        for name, value in list(getattr(owner, "__dict__", {}).items()):
            yield owner, name, value
            if _is_pipeline(value):
                queue.append(value)


def _is_pipeline(value: Any) -> bool:
    return not isinstance(value, nn.Module) and hasattr(value, "scheduler") and callable(value)


def main_schedulers(pipeline: Any) -> list[Any]:
    """Return the schedulers whose steps are meetings: `pipeline.scheduler`, or all of them where there is no such.

    Pipelines of several stages without a main one (UnCLIP: prior, decoder, super-resolution) meet in each stage.
    """
    main = getattr(pipeline, "scheduler", None)
    if main is not None:
        return [main]
    found = {id(v): v for _, name, v in parts(pipeline) if is_scheduler_name(name) and v is not None}
    return list(found.values())


def networks(pipeline: Any) -> list[nn.Module]:
    """Return the networks of a pipeline whose forwards can be meetings.

    Text and image encoders (`transformers`) run once and are left alone; autoencoders never meet because pipelines
    call their `encode` and `decode`, not their forward.
    """
    found = {
        id(value): value
        for _, _, value in parts(pipeline)
        if isinstance(value, nn.Module) and type(value).__module__.partition(".")[0] != "transformers"
    }
    return list(found.values())


def private_copy(pipeline: Any, hook: Callable[[Any], None]) -> Any:
    """Copy a pipeline so that it owns what remembers a run, its schedulers and guiders, and shares everything else.

    Args:
        pipeline: the user's object, not changed.
        hook: called with the private copy of each main scheduler.

    Returns:
        A shallow copy (pipelines inside it are copied too) with deep copies of the schedulers. A scheduler held
        under several names stays one object.
    """
    mains = {id(scheduler) for scheduler in main_schedulers(pipeline)}
    copies: dict[int, Any] = {}

    def own(value: Any) -> Any:
        if id(value) not in copies:
            copies[id(value)] = copy.deepcopy(value)
            if id(value) in mains:
                hook(copies[id(value)])
        return copies[id(value)]

    def clone(owner: Any) -> Any:
        if id(owner) in copies:
            return copies[id(owner)]
        twin = copies[id(owner)] = copy.copy(owner)
        # Written through __dict__: the pipelines' own __setattr__ would re-register the component in the config.
        for name, value in list(vars(owner).items()):
            if (is_scheduler_name(name) or is_guider_name(name)) and value is not None:
                twin.__dict__[name] = own(value)
            elif _is_pipeline(value):
                twin.__dict__[name] = clone(value)
        if "scheduler" not in vars(owner) and getattr(owner, "scheduler", None) is not None:
            twin.scheduler = own(owner.scheduler)
        twin.__dict__["_progress_bar_config"] = {"disable": True}
        return twin

    return clone(pipeline)


class Processors:
    """The attention processors of some networks, which pipelines may exchange in the middle of a call (PAG does)."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        """Remember every sub-module that has a `processor`, and which one it has now."""
        self._layers = list(
            {id(layer): layer for m in modules for layer in m.modules() if hasattr(layer, "processor")}.values()
        )

    def now(self) -> tuple[Any, ...]:
        """Return the processors in place, in a fixed order of layers."""
        return tuple(layer.processor for layer in self._layers)

    def put(self, processors: tuple[Any, ...]) -> None:
        """Put processors taken by `now` back where they were."""
        for layer, processor in zip(self._layers, processors, strict=True):
            if layer.processor is not processor:
                # As diffusers does: a processor with weights is a sub-module, and must leave before a plain one comes.
                layer._modules.pop("processor", None)
                layer.processor = processor


def version(tensor: torch.Tensor) -> int | None:
    """Return the in-place edit counter of a tensor, None for inference tensors, which have none."""
    return None if tensor.is_inference() else tensor._version
