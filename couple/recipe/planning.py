"""`plan`: what a recipe would run, and what that takes, without loading or fetching a weight."""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from couple.memory import estimates
from couple.recipe import calls, models
from couple.recipe.reading import Recipe
from couple.recipe.sweeping import expand

_SHOWN = 12


def plan(recipe: Recipe) -> str:
    """Say what a recipe would do: its runs, their trajectories and edges, steps, forwards and the memory of weights.

    Raises:
        ValueError: as running it would, of what can be known without the weights.
    """
    runs = expand(recipe)
    first = runs[0][1]
    said = [f"{recipe.file}: {len(runs)} run{'s' if len(runs) > 1 else ''}"]
    if len(runs) > 1:
        said += [f"  {name}" for name, _ in runs[:_SHOWN]] + ["  ..."] * (len(runs) > _SHOWN)
    used = dict.fromkeys(one.model for one in first.contents.trajectories.values())
    classes = {}
    for name in used:
        home = models.folder(first, name, fetch=False)
        if home is None:
            said.append(f"model {name}: not on this machine; hf download {first.contents.models[name].hub}")
            continue
        classes[name] = models.pipeline_class(first, name, home)
        said.append(f"model {name}: {classes[name].__name__}, {_needs(first, name, classes[name], home)}")
    steps = {name: _told(first, name, classes) for name in first.contents.trajectories}
    for name, one in first.contents.trajectories.items():
        count = "its pipeline's" if steps[name] is None else steps[name]
        said.append(f"trajectory {name}: {one.prompt!r:.80} on {one.model}, seed {one.seed}, steps: {count}")
    for edge in first.contents.edges:
        arrow = " -> " if edge.directed else " - "
        ends = arrow.join(edge.between)
        said.append(f"edges ({edge.graph}): {ends}, {edge.energy.name}, weight {calls.law(edge.weight)!r}")
    said.append(f"network calls: {_calls(first, steps)}")
    said.append("time: unknown before a run; a finished one has it in the `seconds` of its run.json")
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


def _needs(recipe: Recipe, name: str, cls: Any, home: Path) -> str:
    """The memory of the weights, and the operations of one prediction, counted without a weight."""
    model = recipe.contents.models[name]
    dtype = getattr(torch, model.dtype or ("float32" if model.bundled else "bfloat16"))
    given = next(calls.arguments(recipe, k, cls) for k, t in recipe.contents.trajectories.items() if t.model == name)
    sizes: dict[str, Any] = dict(zip(("height", "width"), calls.picture_size(given) or (), strict=False))
    if isinstance(given.get("num_frames"), int):
        sizes["num_frames"] = given["num_frames"]
    try:
        networks = estimates.skeletons(home, dtype)
        needed = estimates.estimate(networks, **sizes)
        flops = _flops(networks, dtype, sizes)
    except Exception as error:
        # A config that is not one fails in as many ways as there are networks.
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise ValueError(
            f"{recipe.where('models', name)}: the networks in {home} cannot be made ({reason})."
        ) from error
    held = sum(needed.weights.values()) / 2**20
    work = "unknown" if needed.activations is None else f"{needed.activations / 2**20:.4g} MiB"
    operations = "unknown" if flops is None else f"{flops / 1e9:.4g} billion"
    return (
        f"{held:.4g} MiB of weights in {str(dtype).removeprefix('torch.')}, {work} to work with for each prediction, "
        f"operations of one prediction: {operations}"
    )


def _flops(networks: Mapping[str, Any], dtype: torch.dtype, sizes: dict[str, int]) -> int | None:
    """Floating-point operations of one call of the denoiser; None if it is not known how to call it."""
    denoiser = networks.get("transformer") or networks.get("unet")
    vae = networks.get("vae")
    inputs = estimates.INPUTS.get(type(denoiser).__name__)
    shape = estimates.state_shape(denoiser, vae, sizes)
    if denoiser is None or inputs is None or shape is None:
        return None
    state = torch.empty(shape, device="meta", dtype=dtype)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        denoiser(**inputs(denoiser.config, state))
    return counter.get_total_flops()


def _calls(recipe: Recipe, steps: dict[str, int | None]) -> str:
    """How often networks are asked, and in how many forwards at the best."""
    contents = recipe.contents
    if None in steps.values():
        return "unknown, as a number of steps is"
    alike = Counter((contents.trajectories[name].model, count or 0) for name, count in steps.items())
    copies = 2 if contents.edges and contents.output.uncoupled else 1
    asked = sum(copies * number * count for (_, count), number in alike.items())
    most = contents.max_batch or copies * len(steps)
    merged = sum(math.ceil(copies * number / most) * count for (_, count), number in alike.items())
    return (
        f"{asked} predictions, in {merged} forwards if all that can be merged are; where guidance is a forward of its "
        "own, twice that"
    )
