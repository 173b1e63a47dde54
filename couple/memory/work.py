"""What the calls of a run work with together, from the estimate of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from couple import hooks
from couple.memory.estimates import SIZES, Estimate, estimate
from couple.trajectory import Trajectory

#: Denoisers that are asked a second time at a step if an argument of the call is above 1, and its default.
_GUIDED: Mapping[str, tuple[str, float]] = {
    "FluxTransformer2DModel": ("true_cfg_scale", 1.0),
    "WanTransformer3DModel": ("guidance_scale", 5.0),
}


@dataclass(frozen=True)
class Work:
    """Bytes beside the weights.

    Attributes:
        running: of each denoiser, for one forward and what is kept from step to step.
        waiting: of each denoiser, streamed by layers or not, for the forwards that wait beside that one.
        decoding: of one sample.
        unknown: whether something could not be counted.
    """

    running: dict[nn.Module, int]
    waiting: dict[tuple[nn.Module, bool], int]
    decoding: int
    unknown: bool


def together(trajectories: Sequence[Trajectory], denoisers: Sequence[nn.Module], max_batch: int | None) -> Work:
    """Count what calls work with.

    Args:
        trajectories: the calls.
        denoisers: their networks that run at every step.
        max_batch: how many calls one forward may serve.
    """
    known: dict[Any, Estimate] = {}
    users: dict[nn.Module, list[tuple[Estimate, int]]] = {module: [] for module in denoisers}
    latents = 0
    for trajectory in trajectories:
        pipeline = trajectory.pipeline
        sizes = {name: trajectory.call_kwargs.get(name) for name in SIZES}
        key = (id(pipeline), *sizes.values())
        if key not in known:
            has_parts = hasattr(pipeline, "components")
            known[key] = estimate(pipeline, **sizes) if has_parts else Estimate({}, None, 0, None)
        latents += 4 * known[key].latents  # state, x0, network output, pull
        own = {id(part) for _, _, part in hooks.parts(pipeline)}
        for module in denoisers:
            if id(module) in own:
                users[module].append((known[key], _forwards(trajectory, module)))
    running, waiting = {}, {}
    for module, calls in users.items():
        served = min(len(calls), max_batch or len(calls))
        running[module] = sum(one.activations or 0 for one, _ in calls) // len(calls) * served + latents
        forwards = sum(count for _, count in calls)
        for leaves in (False, True):
            # Between layers a forward may be anywhere in a block.
            held = sum(count * ((one.activations or 0) if leaves else one.between) for one, count in calls)
            waiting[module, leaves] = held - held // forwards * served
    decoding = max((one.decoding or 0 for one in known.values()), default=0)
    return Work(running, waiting, decoding, any(one.activations is None for one in known.values()))


def _forwards(trajectory: Trajectory, denoiser: nn.Module) -> int:
    argument, default = _GUIDED.get(type(denoiser).__name__, ("", 1.0))
    scale = trajectory.call_kwargs.get(argument, default)
    return 2 if isinstance(scale, (int, float)) and scale > 1 else 1
