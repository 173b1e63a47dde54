"""Where weights are while calls run, and what happens when memory runs out.

There is one copy of a network's weights, however many trajectories share it. A `Placement` says where it is:
*resident*, whole on the device while it is used, or *streamed*, brought block by block at each step, once for all
trajectories and for both branches of their guidance. Text encoders and autoencoders come when they are called and
leave when they are done. `auto` counts what a run will take before anything is moved, takes what fits, and steps
down when it was wrong: every step is warned of and kept in the run's `Report`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from couple import hooks, sizes
from couple.autoencoders import is_autoencoder
from couple.engine.merging import Merger
from couple.trajectory import Trajectory


@dataclass(frozen=True)
class Placement:
    """Where the weights of a run are.

    Args:
        memory: "resident" keeps networks whole on the device while they are used, and lets those that do not fit
            together take turns; "stream" brings their blocks at each step; "auto" chooses, and steps down when
            memory runs out.
        budget: bytes on the device for weights and work, as a number or e.g. "12GB" or "8GiB". None: what is free
            ("auto"), nothing that need not be ("stream"), no limit ("resident").
        fp8: whether denoisers are stored as float8 (e4m3), half of bfloat16, and computed as before. Changes results.
        device: where networks run. None: the accelerator, or the CPU where there is none.

    Raises:
        ValueError: a setting is none of these, or the device is not there.

    Example:
        >>> Placement("stream", budget="12GB", device="cpu").budget
        12000000000
    """

    memory: Literal["resident", "stream", "auto"] = "auto"
    budget: int | str | None = None
    fp8: bool = False
    device: torch.device | str | None = None

    def __post_init__(self) -> None:
        """Check the settings; write the budget in bytes and the device as a `torch.device`."""
        if self.memory not in ("resident", "stream", "auto"):
            raise ValueError(f"`memory` must be 'resident', 'stream' or 'auto'; got {self.memory!r}.")
        if not isinstance(self.fp8, bool):
            raise ValueError(f"`fp8` must be True or False; got {self.fp8!r}.")
        object.__setattr__(self, "budget", _bytes(self.budget))
        object.__setattr__(self, "device", _device(self.device))


def _bytes(budget: Any) -> int | None:
    if budget is None:
        return None
    found = sizes.nbytes(budget) if isinstance(budget, str) else budget
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        got = budget if found is None else found
        raise ValueError(f"`budget` must be a number of bytes or a size such as '12GB' or '8GiB'; got {got!r}.")
    return found


def _device(device: Any) -> torch.device:
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    try:
        device = (accelerator or torch.device("cpu")) if device is None else device
        device = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"`device` must be a device such as 'cuda' or 'cpu'; got {device!r} ({error}).") from None
    if device.type != "cpu" and (accelerator is None or device.type != accelerator.type):
        raise ValueError(
            f"`device` is {str(device)!r}, which this torch does not see. Write device=None for what there is."
        )
    if device.index is not None and device.index >= torch.accelerator.device_count():
        raise ValueError(f"`device` is {str(device)!r}, but there are {torch.accelerator.device_count()} devices.")
    # With its number, as tensors name it.
    return torch.empty(0, device=device).device


@dataclass
class Report:
    """What a placement did.

    Attributes:
        plan: what was chosen and why, in one line.
        steps: what was given up when memory ran out, in order.
        moved: bytes of weights brought to the device.
    """

    plan: str
    steps: list[str] = field(default_factory=list)
    moved: int = 0

    def arrived(self, nbytes: int) -> None:
        """Count bytes that were brought."""
        self.moved += nbytes

    def stepped(self, step: str) -> None:
        """Note a step down, and warn of it."""
        self.steps.append(step)
        warnings.warn(f"out of memory: {step}.", RuntimeWarning, stacklevel=3)


@dataclass(frozen=True)
class Plan:
    """How the networks of a run are placed.

    Attributes:
        streams: whether denoisers are streamed.
        leaves: whether by single layers instead of blocks.
        space: bytes on the device for weights and work, None for no limit.
        keep: bytes of each streamed denoiser that stay.
        working: bytes each denoiser works with, beside its weights.
        decoding: bytes that decoding one sample takes.
        tiled: the autoencoders that decode in tiles.
        line: all this in one line.
    """

    streams: bool
    leaves: bool
    space: int | None
    keep: Mapping[nn.Module, int]
    working: Mapping[nn.Module, int]
    decoding: int
    tiled: Sequence[nn.Module]
    line: str


@contextmanager
def placed(placement: Placement | None, trajectories: Sequence[Trajectory], merger: Merger) -> Iterator[Report | None]:
    """Place the networks of a run; afterwards they are where and what they were, whatever happened.

    Args:
        placement: what is wanted; None leaves every network where it is.
        trajectories: whose networks.
        merger: what serves their forwards. It learns where the weights are.

    Yields:
        What has been done so far; None without a placement.

    Raises:
        ValueError: a network is already offloaded by other means.
    """
    if placement is None:
        yield None
        return
    # They bring in diffusers and accelerate, which only a run needs.
    from couple.engine.calls import hooked_network
    from couple.memory.residence import Residence

    networks = found(trajectories)
    _refuse_offloaded(networks)
    denoisers = [module for module in networks if denoises(module)]
    plan = planned(placement, trajectories, denoisers, merger.max_batch)
    assert isinstance(placement.device, torch.device)
    with ExitStack() as stack:
        # Every forward of a denoiser is served by the merger, which knows what is at hand and what to do without.
        stack.enter_context(hooks.swapped(denoisers, hooked_network))
        residence = Residence(placement, plan, networks, stack)
        merger.host = residence
        yield residence.report


def found(trajectories: Sequence[Trajectory]) -> list[nn.Module]:
    """Return every network of the pipelines, each once."""
    parts = (value for trajectory in trajectories for _, _, value in hooks.parts(trajectory.pipeline))
    return list({id(value): value for value in parts if isinstance(value, nn.Module)}.values())


def denoises(module: nn.Module) -> bool:
    """Tell whether a network runs at every step: it is no autoencoder and nothing of transformers."""
    foreign = any(cls.__module__.partition(".")[0] == "transformers" for cls in type(module).__mro__)
    return not foreign and not is_autoencoder(module)


def planned(
    placement: Placement, trajectories: Sequence[Trajectory], denoisers: Sequence[nn.Module], max_batch: int | None
) -> Plan:
    """Choose how to place networks, from what they and their calls take.

    Args:
        placement: what is wanted.
        trajectories: the calls.
        denoisers: their networks that run at every step.
        max_batch: how many calls one forward may serve.
    """
    from couple.memory.streaming import floor, size, tensors
    from couple.memory.work import Work, together

    networks = found(trajectories)
    space = placement.budget if isinstance(placement.budget, int) else None
    if placement.memory == "auto" and space is None:
        space = _free(placement.device, networks)
    weights = {module: size(tensors(module)) // (2 if placement.fp8 else 1) for module in denoisers}
    work = Work({}, {}, 0, False) if space is None else together(trajectories, denoisers, max_batch)
    working = work.running
    streams = placement.memory == "stream" or (
        placement.memory == "auto"
        and space is not None
        and sum(weights.values()) + max(working.values(), default=0) > space
    )
    leaves, keep, needed = False, dict.fromkeys(denoisers, 0), {}
    if streams and space is not None:
        efforts = {leaf: {m: work.running[m] + work.waiting[m, leaf] for m in denoisers} for leaf in (False, True)}
        needed = {
            leaf: max((floor(m, leaf) + effort[m] for m in effort), default=0) for leaf, effort in efforts.items()
        }
        leaves = needed[False] > space and needed[True] < needed[False]
        working = efforts[leaves]
        share = min(1.0, max(0, space - needed[leaves]) / max(1, sum(weights.values())))
        keep = {module: int(share * nbytes) for module, nbytes in weights.items()}
    tiled = [
        module
        for module in networks
        if space is not None and hasattr(module, "enable_tiling") and size(tensors(module)) + work.decoding > space
    ]
    kind = f"streamed by {'layers' if leaves else 'blocks'}" if streams else "resident"
    line = f"denoisers {kind} on {placement.device}: weights {gib(sum(weights.values()))}"
    line += " in float8" if placement.fp8 else ""
    line += f", at most {gib(sum(keep.values()))} of them stay" if any(keep.values()) else ""
    if space is None:
        line += ", no limit"
    else:
        effort = gib(max(working.values(), default=0))
        line += f", work {'at least ' if work.unknown else ''}{effort}, limit {gib(space)}"
        line += ", decoded in tiles, which changes pixels" if tiled else ""
        if streams and needed[leaves] > space:
            line += f" (too little: {gib(needed[leaves])} are needed at once)"
    return Plan(streams, leaves, space, keep, working, work.decoding, tiled, line)


def _free(device: Any, networks: Sequence[nn.Module]) -> int | None:
    """Return nine tenths of what is free on a device or held by these networks; None on the CPU."""
    from couple.memory.streaming import size, tensors

    if device.type != "cuda":
        return None
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    ours = {id(t): t for module in networks for t in tensors(module) if t.device == device}
    return int(0.9 * (torch.cuda.mem_get_info(device)[0] + cached + size(ours.values())))


def _refuse_offloaded(networks: Sequence[nn.Module]) -> None:
    for module in networks:
        for layer in module.modules():
            registry = getattr(layer, "_diffusers_hook", None)
            if hasattr(layer, "_hf_hook") or (registry is not None and "group_offloading" in registry.hooks):
                raise ValueError(
                    f"{type(module).__name__} is already offloaded, and a placement would do it again. Undo it, e.g. "
                    "pipe.remove_all_hooks(), or sample without `placement`."
                )


def gib(nbytes: int) -> str:
    """Write a number of bytes for people."""
    return f"{nbytes / 2**30:.2f} GiB" if nbytes >= 2**27 else f"{nbytes / 2**20:.2f} MiB"
