"""`plan`: what a recipe would run, and what that takes, without loading or fetching a weight.

The time is that of the steps; text encoders and autoencoders are left out of it.
"""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from couple import Trajectory
from couple.cli.machine import choose_device, choose_dtype, quiet_libraries
from couple.memory import estimates
from couple.recipe import calls, fitting, forecast, models, states
from couple.recipe.reading import Recipe
from couple.recipe.sweeping import expand

_SHOWN = 12
#: Largest number in a call that is rehearsed: a plan must not take as long, or as much, as the run.
_MOST = 4096


def plan(recipe: Recipe, device: str | None = None) -> str:
    """Say what a recipe would do: its runs, their trajectories and edges, steps, forwards, memory of weights and time.

    Args:
        recipe: as it was read.
        device: where it would run, as torch spells it; None for a GPU if there is one.

    Raises:
        ValueError: as running it would, of what can be known without the weights.
    """
    runs, chosen = expand(recipe), choose_device(device)
    quiet_libraries()
    fitting.check_runs([one for _, one in runs], fetch=False)
    first = runs[0][1]
    said = [f"{recipe.file}: {len(runs)} run{'s' if len(runs) > 1 else ''}"]
    if len(runs) > 1:
        said += [f"  {name}" for name, _ in runs[:_SHOWN]] + ["  ..."] * (len(runs) > _SHOWN)
    classes, networks = {}, {}
    for name in models.used(first):
        home = models.folder(first, name, fetch=False)
        if home is None:
            said.append(f"model {name}: not on this machine; hf download {first.contents.models[name].hub}")
            continue
        classes[name] = models.pipeline_class(first, name, home)
        networks[name], needs = _needs(first, name, classes[name], home, chosen)
        said.append(f"model {name}: {classes[name].__name__}, {needs}")
    steps = {name: _told(first, name, classes) for name in first.contents.trajectories}
    for name, one in first.contents.trajectories.items():
        count = "its pipeline's" if steps[name] is None else steps[name]
        said.append(f"trajectory {name}: {one.prompt!r:.80} on {one.model}, seed {one.seed}, steps: {count}")
    if not first.contents.edges:
        said.append("edges: none; nothing is coupled")
    for edge in first.contents.edges:
        arrow = " -> " if edge.directed else " - "
        ends = arrow.join(edge.between)
        said.append(f"edges ({edge.graph}): {ends}, {edge.energy.name}, weight {calls.law(edge.weight)!r}")
    said.append(f"network calls: {_calls(first, steps)}")
    time = _time(first, classes, networks, chosen)
    said.append(f"time: {time}{f', for the first of {len(runs)} runs' if len(runs) > 1 else ''}")
    return "\n".join(said)


def _told(recipe: Recipe, name: str, classes: dict[str, Any]) -> int | None:
    """The steps of a trajectory, after a check of its call."""
    cls = classes.get(recipe.contents.trajectories[name].model)
    if cls is None:
        return None
    given = calls.arguments(recipe, name, cls)
    default = inspect.signature(cls.__call__).parameters.get("num_inference_steps")
    found = given.get("num_inference_steps", None if default is None else default.default)
    return found if isinstance(found, int) else None


def _needs(recipe: Recipe, name: str, cls: Any, home: Path, device: torch.device) -> tuple[dict[str, nn.Module], str]:
    """The networks of a model without weights, and the memory that they take with them."""
    model = recipe.contents.models[name]
    dtype = choose_dtype(model.dtype, device, bundled=model.bundled is not None)
    given = next(calls.arguments(recipe, k, cls) for k, t in recipe.contents.trajectories.items() if t.model == name)
    sizes: dict[str, Any] = dict(zip(("height", "width"), states.picture_size(given) or (), strict=False))
    if isinstance(given.get("num_frames"), int):
        sizes["num_frames"] = given["num_frames"]
    try:
        networks = estimates.skeletons(home, dtype)
        needed = estimates.estimate(networks, **sizes)
    except Exception as error:
        # A config that is not one fails in as many ways as there are networks.
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise ValueError(
            f"{recipe.where('models', name)}: the networks in {home} cannot be made ({reason})."
        ) from error
    held = sum(needed.weights.values()) / 2**20
    work = "unknown" if needed.activations is None else f"{needed.activations / 2**20:.4g} MiB"
    return networks, (
        f"{held:.4g} MiB of weights in {str(dtype).removeprefix('torch.')}, {work} to work with for each prediction"
    )


def _time(
    recipe: Recipe, classes: Mapping[str, Any], networks: Mapping[str, Mapping[str, nn.Module]], device: torch.device
) -> str:
    """How long denoising will take on a device, in words, with what it is made of."""
    contents = recipe.contents
    asked = {
        name: calls.arguments(recipe, name, classes[one.model])
        for name, one in contents.trajectories.items()
        if one.model in classes
    }
    if len(asked) < len(contents.trajectories):
        return "unknown, as a model is not on this machine"
    if any(isinstance(value, int) and value > _MOST for given in asked.values() for value in given.values()):
        return f"unknown, as a number in a call is above {_MOST}"
    try:
        pipelines = {}
        for name, cls in classes.items():
            home: Any = models.folder(recipe, name, fetch=False)
            pipelines[name] = models.unloaded(cls, home, networks[name])
        nodes = [
            Trajectory(
                pipelines[contents.trajectories[name].model],
                generator=torch.Generator().manual_seed(contents.trajectories[name].seed),
                output_type="latent",
                **given,
            )
            for _ in contents.rows
            for name, given in asked.items()
        ]
        work = forecast.rehearsed(nodes, contents.max_batch)
    except Exception as error:
        # Pipelines of any kind, whose networks have no weights, fail in as many ways as there are.
        return f"unknown, as the calls cannot be rehearsed ({' '.join(str(error).split())[:200].rstrip('.')})"
    rates = forecast.measured(device, work.flops)
    parts = [f"{_si(count)}FLOP at {_si(rates.flops[dtype])}FLOP/s" for dtype, count in work.flops.items()]
    parts.append(f"{float(f'{work.operations:.2g}'):,.0f} operations at {_si(rates.operation)}s")
    return f"about {_span(rates.seconds(work))} of denoising here ({', '.join(parts)})"


def _si(value: float) -> str:
    """A quantity with three digits and the prefix of its unit, e.g. "1.61 T"."""
    place = max(min(math.floor(math.log10(value) / 3), 5), -4) if value > 0 else 0
    return f"{value / 1000**place:.3g} {['p', 'n', 'u', 'm', '', 'k', 'M', 'G', 'T', 'P'][place + 4]}"


def _span(seconds: float) -> str:
    """A time with two digits."""
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{float(f'{seconds / size:.2g}'):g} {unit}"
    return f"{seconds:.2g} s"


def _calls(recipe: Recipe, steps: dict[str, int | None]) -> str:
    """How often networks are asked, and in how many forwards at the best."""
    contents = recipe.contents
    if None in steps.values():
        return "unknown, as a number of steps is"
    alike = Counter((contents.trajectories[name].model, count or 0) for name, count in steps.items())
    copies = len(contents.rows)
    asked = sum(copies * number * count for (_, count), number in alike.items())
    most = contents.max_batch or copies * len(steps)
    merged = sum(math.ceil(copies * number / most) * count for (_, count), number in alike.items())
    return (
        f"{asked} predictions, in {merged} forwards if all that can be merged are; where guidance is a forward of its "
        "own, twice that"
    )
