"""`expand`: the runs that a recipe's sweep asks for, one recipe each."""

from __future__ import annotations

import copy
import re
from itertools import product
from typing import Any

from couple.recipe.reading import Recipe, assign, checked, place_of


def expand(recipe: Recipe) -> list[tuple[str, Recipe]]:
    """Return a recipe for each combination of the values swept over, by the name of its folder.

    A recipe without a sweep is returned as it is, by its own name. Names begin with the number of the run, so that
    they sort as they ran, and say what was set.

    Raises:
        ValueError: a key to be swept over is not in the recipe, or takes a value that it cannot have; named with its
            line.
    """
    sweep = recipe.contents.sweep
    if not sweep:
        return [(recipe.name, recipe)]
    runs = []
    for number, values in enumerate(product(*sweep.values())):
        data = copy.deepcopy({key: value for key, value in recipe.written.items() if key != "sweep"})
        found = {place: line for place, line in recipe.lines.items() if place[0] != "sweep"}
        for key, value in zip(sweep, values, strict=True):
            assign(data, place_of(key), copy.deepcopy(value), recipe.where("sweep", key))
            # A fault of a value that was swept in is a fault of the line that says so.
            found[place_of(key)] = recipe.lines.get(("sweep", key), recipe.lines.get(("sweep",), -1))
        said = "-".join(f"{key.split('.')[-1]}-{_short(value)}" for key, value in zip(sweep, values, strict=True))
        name = f"{number:03d}-{re.sub(r'[^A-Za-z0-9.-]+', '-', said)[:60]}".rstrip("-.")
        runs.append((name, checked(data, recipe.file, recipe.home, found)))
    return runs


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "-".join(_short(inner) for inner in value.values())
    if isinstance(value, list):
        return "-".join(map(_short, value))
    return str(value)[:24]
