"""From a recipe to trajectories and edges."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import couple
from couple import Edge, Trajectory, energies, weights
from couple.recipe import faults, models, states
from couple.recipe import schema as written
from couple.recipe.paths import within
from couple.recipe.reading import Recipe
from couple.scenes.pictures import read_picture


def arguments(recipe: Recipe, name: str, pipeline: Any) -> dict[str, Any]:
    """What the call of a trajectory is given beside its generator.

    Args:
        recipe: which has a trajectory of that name.
        name: the trajectory.
        pipeline: its pipeline, or the class of it.

    Raises:
        ValueError: the pipeline takes no argument of some name, or takes another type; or a picture cannot be read.
    """
    trajectory = recipe.contents.trajectories[name]
    cls = pipeline if inspect.isclass(pipeline) else type(pipeline)
    takes = inspect.signature(cls.__call__).parameters
    given = {"prompt": trajectory.prompt} if trajectory.prompt is not None else {}
    for key, value in {**given, **trajectory.call, **trajectory.images}.items():
        place = ("images",) if key in trajectory.images else ("call",) if key in trajectory.call else ()
        where = recipe.where("trajectories", name, *place, key)
        if key not in takes:
            near = difflib.get_close_matches(key, takes, 1)
            fix = f"did you mean {near[0]}?" if near else "remove it."
            raise ValueError(f"{where}: {cls.__name__} takes no `{key}`; {fix}")
        default = takes[key].default
        if key in trajectory.call and not _fits(value, default):
            raise ValueError(
                f"{where}: `{key}` is {value!r:.60}; {cls.__name__} takes {_kind(default)}, e.g. "
                f"{str(default).lower() if isinstance(default, bool) else default!r}."
            )
    images = {key: picture(recipe, name, key) for key in trajectory.images}
    return {**models.defaults(recipe.contents.models[trajectory.model]), **given, **trajectory.call, **images}


def picture(recipe: Recipe, name: str, key: str) -> Any:
    """A picture that a trajectory is given, in colour."""
    where = recipe.where("trajectories", name, "images", key)
    return _read(recipe, recipe.contents.trajectories[name].images[key], key, where).convert("RGB")


def mask(recipe: Recipe, k: int) -> Any:
    """The mask of an edge, a grey picture; None if it has none."""
    text, where = recipe.contents.edges[k].mask, recipe.where("edges", k, "mask")
    return None if text is None else _read(recipe, text, "mask", where).convert("L")


def inputs(recipe: Recipe) -> list[Path]:
    """The pictures and masks that the recipe names."""
    images = [text for one in recipe.contents.trajectories.values() for text in one.images.values()]
    masks = [edge.mask for edge in recipe.contents.edges if edge.mask is not None]
    return [recipe.home / text for text in dict.fromkeys([*images, *masks])]


def edges(recipe: Recipe, nodes: Mapping[str, Trajectory]) -> list[Edge]:
    """The edges between trajectories, by name.

    Energies of pictures see the picture where a state is tokens.

    Raises:
        ValueError: equal numbers in two states that an edge joins are different pictures; the layout of a state is not
            known where it matters; or a mask cannot be read.
    """
    made: list[Edge] = []
    for k, edge in enumerate(recipe.contents.edges):
        asked = energy(edge.energy)
        as_pictures = hasattr(asked, "state_axes")
        joined = [nodes[faults.end(text)[0]] for text in edge.between]
        _comparable(recipe.where("edges", k, "between"), edge.between, joined, as_pictures)
        ends = [_view(text, nodes) for text in edge.between]
        if as_pictures:
            shown = [states.picture_of(node, recipe.where("edges", k, "energy")) for node in joined]
            ends = [end if map is None else end.through(map) for end, map in zip(ends, shown, strict=True)]
        options: dict[str, Any] = {"weight": law(edge.weight), "energy": asked}
        options["directed"] = edge.directed
        if (grey := mask(recipe, k)) is not None:
            options["mask"] = states.masked(joined[0], grey, as_pictures, recipe.where("edges", k, "mask"))
        if edge.graph == "pair":
            made += couple.pair(*ends, **options)
        elif edge.graph == "star":
            made += couple.star(ends[0], ends[1:], **options, normalize=edge.normalize)
        else:
            made += getattr(couple, edge.graph)(ends, **options, normalize=edge.normalize)
    return made


def law(asked: written.Law) -> weights.Law:
    """The weight law that is asked for."""
    more = [] if asked.end is None else [asked.end]
    more += [] if asked.decay is None else [asked.decay]
    made = getattr(weights, asked.law)(asked.strength, *more)
    return made if asked.window is None else weights.window(made, *asked.window)


def energy(asked: written.Energy) -> Any:
    """The energy that is asked for."""
    if asked.name == "huber":
        return energies.huber(asked.delta or 1.0)
    if asked.name == "low_pass":
        return energies.low_pass(asked.size or 1)
    return getattr(energies, asked.name)


def _comparable(where: str, between: Sequence[str], joined: Sequence[Trajectory], as_pictures: bool) -> None:
    for text, node in zip(between, joined, strict=True):
        if found := states.differences(joined[0].pipeline, node.pipeline, as_pictures):
            raise ValueError(
                f"{where}: equal numbers of {between[0]!r} and {text!r} are different pictures "
                f"({', '.join(found)}); join trajectories of one `model`."
            )


def _view(text: str, nodes: Mapping[str, Trajectory]) -> couple.Trajectory | couple.View:
    name, what, number = faults.end(text)
    if what == "whole":
        return nodes[name]
    return nodes[name][number] if what == "row" else nodes[name].frames(number)


def _fits(value: Any, default: Any) -> bool:
    """Whether a value is of the type of a default; where a default says nothing, anything does."""
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) == isinstance(value, bool) or not isinstance(default, int | float | str)
    if isinstance(default, int):
        return isinstance(value, int)
    if isinstance(default, float):
        return isinstance(value, int | float)
    return isinstance(value, str) or not isinstance(default, str)


def _kind(default: Any) -> str:
    if isinstance(default, bool):
        return "true or false"
    return "an int" if isinstance(default, int) else "a float" if isinstance(default, float) else "a string"


def _read(recipe: Recipe, text: str, key: str, where: str) -> Any:
    path = within(recipe.home, text, key, where)
    try:
        return read_picture(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"{where}: {error}") from error
