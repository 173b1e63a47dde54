"""What a recipe can get wrong although every part of it is what it should be: names, counts, and what goes together."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from couple.recipe.lines import Place
from couple.recipe.schema import BLENDS, MAX_RUNS, RESERVED, Contents, Edge, Law

#: The number that an energy takes, and one that it may be.
_NUMBERS = {"huber": ("delta", "1.0"), "low_pass": ("size", "4")}
#: Arguments of calls that count something, and a number that each may be.
_COUNTS = {"num_inference_steps": 24, "num_frames": 13, "num_images_per_prompt": 1, "num_videos_per_prompt": 1}


def find(contents: Contents) -> Iterator[tuple[Place, str]]:
    """Yield where something is wrong, and what, with the fix."""
    yield from _models(contents)
    yield from _trajectories(contents)
    for k, edge in enumerate(contents.edges):
        yield from _edge(k, edge, contents)
    yield from _sweep(contents)


def end(text: str) -> tuple[str, str, int]:
    """Take the end of an edge apart: a name, and "row", "frame" or "whole" with its number.

    Example:
        >>> end("cat"), end("cat[2]"), end("cat.frames(3)")
        (('cat', 'whole', 0), ('cat', 'row', 2), ('cat', 'frame', 3))
    """
    name, number = re.split(r"\[|\.frames\(", text)[0], re.findall(r"(?:\[|\.frames\()(\d+)", text)
    if not number:
        return name, "whole", 0
    return name, "row" if text.endswith("]") else "frame", int(number[0])


def _models(contents: Contents) -> Iterator[tuple[Place, str]]:
    for name, model in contents.models.items():
        place: Place = ("models", name)
        given = [key for key in ("bundled", "folder", "hub") if getattr(model, key) is not None]
        if len(given) != 1:
            got = " and ".join(given) or "none"
            yield place, f'model {name!r} has {got} of bundled, folder and hub; write one, bundled = "text_to_image".'
        elif model.revision is not None and model.hub is None:
            yield (*place, "revision"), 'a revision goes with hub = "owner/name"; remove it.'


def _trajectories(contents: Contents) -> Iterator[tuple[Place, str]]:
    seen: dict[str, str] = {}
    for name, trajectory in contents.trajectories.items():
        place: Place = ("trajectories", name)
        other = seen.setdefault(name.lower(), name)
        if other != name:
            yield place, f"{name!r} and {other!r} would be one file on some disks; rename one."
        if trajectory.model not in contents.models:
            known = ", ".join(map(repr, contents.models))
            yield (*place, "model"), f"there is no model {trajectory.model!r}; choose from {known}, or add it."
        for key in trajectory.call:
            if key in RESERVED or key.startswith("callback"):
                fix = f'write {key} = "..." beside call' if key == "prompt" else "remove it"
                yield (*place, "call", key), f"`{key}` is not for a call to set; {fix}."
            value = trajectory.call[key]
            if key in _COUNTS and isinstance(value, int | float) and value < 1:
                yield (*place, "call", key), f"`{key}` is {value}; write 1 or more, e.g. {key} = {_COUNTS[key]}."
            if key in trajectory.images:
                yield (*place, "call", key), f"`{key}` stands in images too; remove one."


def _edge(k: int, edge: Edge, contents: Contents) -> Iterator[tuple[Place, str]]:
    place: Place = ("edges", k)
    for text in edge.between:
        if end(text)[0] not in contents.trajectories:
            known = ", ".join(map(repr, contents.trajectories))
            yield (*place, "between"), f"there is no trajectory {end(text)[0]!r}; choose from {known}, or add it."
    if len(set(edge.between)) < len(edge.between):
        yield (*place, "between"), "one end is named twice; name each once."
    if edge.graph == "pair" and len(edge.between) != 2:
        count = len(edge.between)
        yield (*place, "between"), f'a pair joins two, got {count}; write graph = "complete", "chain" or "star".'
    if edge.normalize and edge.graph == "pair":
        yield (*place, "normalize"), "a pair has nothing to normalize; remove it."
    yield from _weight((*place, "weight"), edge.weight)
    law, energy = edge.weight, edge.energy
    for name, (number, example) in _NUMBERS.items():
        given = getattr(energy, number) is not None
        if energy.name == name and not given:
            fix = f'{{ name = "{name}", {number} = {example} }}'
            yield (*place, "energy"), f"{name} needs a {number}, e.g. energy = {fix}."
        elif energy.name != name and given:
            yield (*place, "energy"), f"{energy.name} has no {number}; remove it."
    if law.law == "implicit" and (energy.name != "squared_distance" or edge.mask is not None):
        yield (*place, "weight"), 'implicit solves plain squared distances only; write law = "relax".'


def _weight(place: Place, law: Law) -> Iterator[tuple[Place, str]]:
    if law.decay is not None and law.law != "relax":
        yield place, f'{law.law} has no decay; write law = "relax" or remove decay.'
    if law.window is not None and law.window[0] >= law.window[1]:
        yield place, f"the window {law.window} is empty; write e.g. window = [0.0, 0.2]."
    if law.law in BLENDS and law.end is None:
        yield place, f"{law.law} goes from `strength` to `end`; write the strength at the end too, e.g. end = 0.0."
    if law.law not in BLENDS and law.end is not None:
        yield place, f'{law.law} has no end; write law = "linear" or remove end.'


def _sweep(contents: Contents) -> Iterator[tuple[Place, str]]:
    for key, values in contents.sweep.items():
        if not 1 <= len(values) <= MAX_RUNS:
            yield ("sweep", key), f"{key!r} has {len(values)} values; write 1 to {MAX_RUNS}, e.g. [0.1, 0.3]."
        if key.split(".")[0] == "sweep":
            yield ("sweep", key), "a sweep does not sweep itself; name a key of models, trajectories, edges or output."
    runs = math.prod(len(values) for values in contents.sweep.values())
    if contents.sweep and runs > MAX_RUNS:
        yield ("sweep",), f"the sweep has {runs} runs, more than {MAX_RUNS}; shorten its lists."
