"""From a recipe to trajectories and edges."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import couple
from couple import Edge, Trajectory, energies, weights
from couple.backends import flux
from couple.recipe import faults, models
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
                f"{where}: `{key}` is {value!r:.60}; {cls.__name__} takes a {type(default).__name__}, e.g. "
                f"{str(default).lower() if isinstance(default, bool) else default!r}."
            )
    images = {key: picture(recipe, name, key) for key in trajectory.images}
    return {**models.defaults(recipe.contents.models[trajectory.model]), **given, **trajectory.call, **images}


def picture(recipe: Recipe, name: str, key: str) -> Any:
    """A picture that a trajectory is given, in colour."""
    where = recipe.where("trajectories", name, "images", key)
    return _read(recipe, recipe.contents.trajectories[name].images[key], key, where).convert("RGB")


def picture_size(call: Mapping[str, Any]) -> tuple[int, int] | None:
    """The (height, width) that a call makes, in pixels: as it says, or of the picture that it edits; or None."""
    if isinstance(call.get("height"), int) and isinstance(call.get("width"), int):
        return call["height"], call["width"]
    edited = call.get("image")
    return (edited.height, edited.width) if isinstance(edited, Image.Image) else None


def inputs(recipe: Recipe) -> list[Path]:
    """The pictures and masks that the recipe names."""
    images = [text for one in recipe.contents.trajectories.values() for text in one.images.values()]
    masks = [edge.mask for edge in recipe.contents.edges if edge.mask is not None]
    return [recipe.home / text for text in dict.fromkeys([*images, *masks])]


def edges(recipe: Recipe, nodes: Mapping[str, Trajectory]) -> list[Edge]:
    """The edges between trajectories, by name."""
    made: list[Edge] = []
    for k, edge in enumerate(recipe.contents.edges):
        ends = [_view(text, nodes) for text in edge.between]
        options: dict[str, Any] = {"weight": law(edge.weight), "energy": energy(edge.energy)}
        options["directed"] = edge.directed
        if edge.mask is not None:
            options["mask"] = _mask(recipe, k, edge.mask, nodes[faults.end(edge.between[0])[0]])
        if edge.graph == "pair":
            made += couple.pair(*ends, **options)
        elif edge.graph == "star":
            made += couple.star(ends[0], ends[1:], **options, normalize=edge.normalize)
        else:
            made += getattr(couple, edge.graph)(ends, **options, normalize=edge.normalize)
    return made


def law(asked: written.Law) -> weights.Law:
    """The weight law that is asked for."""
    more = {} if asked.decay is None else {"decay": asked.decay}
    made = getattr(weights, asked.law)(asked.strength, **more)
    return made if asked.window is None else weights.window(made, *asked.window)


def energy(asked: written.Energy) -> Any:
    """The energy that is asked for."""
    if asked.name == "huber":
        return energies.huber(asked.delta or 1.0)
    if asked.name == "low_pass":
        return energies.low_pass(asked.size or 1)
    return getattr(energies, asked.name)


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


def _read(recipe: Recipe, text: str, key: str, where: str) -> Any:
    path = within(recipe.home, text, key, where)
    try:
        return read_picture(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"{where}: {error}") from error


def _mask(recipe: Recipe, k: int, text: str, node: Trajectory) -> Tensor:
    """The mask in the layout of a trajectory's state, shape (1, 1, h, w), or (1, S, 4C) for tokens, in [0, 1]."""
    where = recipe.where("edges", k, "mask")
    pipeline, size = node.pipeline, picture_size(node.call_kwargs)
    if size is None or not hasattr(pipeline, "vae_scale_factor"):
        raise ValueError(
            f"{where}: how a mask fits {node.name!r} is known for pictures of a stated size; write height and width in "
            "its call."
        )
    grey = _read(recipe, text, "mask", where).convert("L")
    scale, tokens = pipeline.vae_scale_factor, hasattr(pipeline, "_pack_latents")
    height, width = (side // (scale * 2) * 2 if tokens else side // scale for side in size)
    pixels = torch.frombuffer(bytearray(grey.tobytes()), dtype=torch.uint8).reshape(1, 1, grey.height, grey.width)
    mask = torch.nn.functional.interpolate(pixels.float() / 255, (height, width), mode="area")
    if not tokens:
        return mask
    return flux.pack(mask.expand(1, pipeline.transformer.config.in_channels // 4, height, width))
