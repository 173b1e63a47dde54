"""Several evaluations of a network at each level: a schedule that hands out every timestep more than once.

A pipeline's loop over `scheduler.timesteps` is the only thing that knows how to evaluate its networks, so a method
that needs the prediction at several states of one level makes that loop go round more often. The pipeline sees a
repeated schedule, of an `order` that says so, as it does of a Heun scheduler; the stock scheduler behind it keeps its
own schedule and its place in it.
"""

import functools
from typing import Any

import torch

from couple.hooks import main_schedulers, subclass
from couple.schedulers import multistage
from couple.schedulers.refusals import support
from couple.schedulers.support import FLOW, VE

_SINGLE_STAGE = {FLOW: "FlowMatchEulerDiscreteScheduler", VE: "EulerDiscreteScheduler"}


def repeat(scheduler: Any, times: int) -> Any:
    """Make a scheduler hand out each of its timesteps `times` times over.

    Args:
        scheduler: changed in place: it becomes a front that passes everything on to the scheduler behind it.
        times: how often each timestep is handed out, 2 or more.

    Returns:
        The stock scheduler behind the front, on the stock schedule. Its `step` is to be called once in `times`.
    """
    stock = object.__new__(type(scheduler))
    vars(stock).update(vars(scheduler))
    vars(scheduler).clear()
    vars(scheduler)["_behind"] = stock, times
    scheduler.__class__ = _front_class(type(scheduler))
    return stock


@functools.cache
def _front_class(cls: type) -> type:
    def __getattribute__(self: Any, name: str) -> Any:
        if name == "__class__":
            return object.__getattribute__(self, name)
        stock, times = object.__getattribute__(self, "__dict__")["_behind"]
        if name == "_behind":
            return stock
        value = getattr(stock, name)
        if name == "timesteps":
            return value.repeat_interleave(times)
        if name == "sigmas":
            # Some pipelines look up the level of entry i of `timesteps`; the last is where the last step lands.
            return torch.cat([value[:-1].repeat_interleave(times), value[-1:]])
        if name == "order":
            return value * times
        if name == "set_begin_index":
            # Image-to-image pipelines count it in entries of `timesteps`.
            return lambda begin_index=0: value(begin_index // times)
        return value

    def __setattr__(self: Any, name: str, value: Any) -> None:
        setattr(object.__getattribute__(self, "__dict__")["_behind"][0], name, value)

    return subclass(cls, {"__getattribute__": __getattribute__, "__setattr__": __setattr__})


def behind(scheduler: Any) -> Any:
    """The stock scheduler behind a front made by `repeat`; any other scheduler itself."""
    return getattr(scheduler, "_behind", scheduler)


def check_repeatable(pipeline: Any) -> None:
    """Refuse a pipeline whose scheduler needs its predictions at states that the schedule alone decides.

    Raises:
        NotImplementedError: a scheduler takes several stages a step, or is told timesteps other than its own.
    """
    for scheduler in main_schedulers(pipeline):
        name = type(scheduler).__name__
        instead = _SINGLE_STAGE.get(support(scheduler).convention, "DDIMScheduler")
        if support(scheduler).levels.__module__ == multistage.__name__:
            reason = "takes its steps in stages of its own"
        elif any(base.__name__ == "CogVideoXDPMScheduler" for base in type(scheduler).__mro__):
            reason, instead = "is told the previous entry of the schedule by its pipeline", "CogVideoXDDIMScheduler"
        else:
            continue
        raise NotImplementedError(
            f"{name} {reason}, so its timesteps cannot be repeated for further evaluations at a level. "
            f"Use {instead}.from_config(scheduler.config)."
        )
