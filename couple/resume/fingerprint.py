"""What makes two runs the same, written in words: pipelines, schedulers, arguments, edges, method, versions.

Weights of networks are not read, which would take longer than many steps; a run that goes on from a checkpoint compares
what its networks give instead (`replay`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from importlib.metadata import version
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import couple
from couple import hooks
from couple.graph import Edge
from couple.resume import states
from couple.trajectory import Trajectory

#: Differences named in one message.
NAMED = 4


def described(
    trajectories: Sequence[Trajectory], edges: Sequence[Edge], method: Any, max_batch: int | None
) -> dict[str, str]:
    """Describe a run, one line for each thing that could differ from another."""
    found = {
        "the version of couple": couple.__version__,
        "the version of torch": torch.__version__,
        "the version of diffusers": version("diffusers"),
        "the number of trajectories": str(len(trajectories)),
        "the number of edges": str(len(edges)),
        "max_batch": str(max_batch),
        "the method": _made(method, vars(method)),
    }
    for number, trajectory in enumerate(trajectories, 1):
        who = f"trajectory {number}"
        found[f"the name of {who}"] = repr(trajectory.name)
        found[f"the pipeline of {who}"] = type(trajectory.pipeline).__qualname__
        for _, name, part in hooks.parts(trajectory.pipeline):
            if isinstance(part, nn.Module) or hooks.is_scheduler_name(name) or hooks.is_guider_name(name):
                found[f"`{name}` of {who}"] = _part(part)
        for name, value in trajectory.call_kwargs.items():
            found[f"`{name}` of {who}"] = _written(value)
    for number, edge in enumerate(edges, 1):
        parts = [edge.label, _written(edge.weight), _written(edge.energy), _written(edge.mask), str(edge.directed)]
        parts += [_written(map) for end in (edge.a, edge.b) for map in end.maps]
        found[f"edge {number}"] = ", ".join(parts)
    return found


def difference(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Say what differs between two described runs; empty if nothing does."""
    differing = [what for what in dict.fromkeys([*now, *then]) if then.get(what) != now.get(what)]
    told = [
        f"{what} (then {_short(then.get(what), now.get(what))}, now {_short(now.get(what), then.get(what))})"
        for what in differing[:NAMED]
    ]
    if len(differing) > NAMED:
        told.append(f"{len(differing) - NAMED} more")
    return ", ".join(told)


def _short(text: str | None, other: str | None) -> str:
    """A text, or of a long one what is around the first place where it is not as the other."""
    if text is None:
        return "not given"
    if len(text) <= 60:
        return text
    start = max(len(os.path.commonprefix([text, other or ""])) - 20, 0)
    return "..." * (start > 0) + text[start : start + 54] + "..." * (start + 54 < len(text))


def _part(part: Any) -> str:
    config: Any = getattr(part, "config", {})
    config = config.to_dict() if hasattr(config, "to_dict") else config
    public = {k: v for k, v in config.items() if not k.startswith("_")} if isinstance(config, Mapping) else {}
    words = [type(part).__qualname__, _written(public)]
    weight = next(part.parameters(), None) if isinstance(part, nn.Module) else None
    if weight is not None:
        words.append(f"{weight.dtype} on {weight.device}")
    return " ".join(words)


def _written(value: Any) -> str:
    """Write a value so that it reads the same in another process; long contents by their SHA-256."""
    if value is None or isinstance(value, bool | int | float | str | PurePath | torch.dtype | torch.device):
        return repr(str(value)) if isinstance(value, str | PurePath) else str(value)
    if isinstance(value, torch.Generator):
        return f"generator of seed {value.initial_seed()} on {value.device}"
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return f"{type(value).__name__} {tuple(value.shape)} {value.dtype} {states.digest(value)[:12]}"
    if hasattr(value, "tobytes") and hasattr(value, "mode"):  # a PIL picture
        return f"picture {value.size} {value.mode} {hashlib.sha256(value.tobytes()).hexdigest()[:12]}"
    if isinstance(value, Trajectory):
        return f"trajectory {value.name!r}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_written(key)}: {_written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(map(_written, value)) if isinstance(value, set | frozenset) else map(_written, value)
        return f"[{', '.join(items)}]"
    if is_dataclass(value) and not isinstance(value, type):
        return _made(value, {field.name: getattr(value, field.name) for field in fields(value)})
    return getattr(value, "__qualname__", type(value).__qualname__)


def _made(value: Any, attributes: Mapping[str, Any]) -> str:
    public = (f"{name}={_written(item)}" for name, item in attributes.items() if not name.startswith("_"))
    return f"{type(value).__qualname__}({', '.join(public)})"
