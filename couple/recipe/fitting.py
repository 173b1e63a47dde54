"""What a recipe asks of its models that they cannot do, found before a weight is loaded.

Pipelines are made with networks that have no weights, and asked: for the sizes that they make, and by their own check
of what they are called with.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from couple.backends import flux
from couple.memory import estimates
from couple.recipe import calls, faults, models, states
from couple.recipe.reading import Recipe
from couple.recipe.schema import Model

#: Arguments that say how many samples a call makes.
_COUNTS = ("num_images_per_prompt", "num_videos_per_prompt")


def check_runs(runs: Sequence[Recipe], *, fetch: bool) -> None:
    """Check the runs of a recipe.

    Args:
        runs: as `expand` returns them.
        fetch: whether models that are not on this machine are fetched; else nothing of theirs is checked.

    Raises:
        ValueError: a model, picture or mask is not there, or something asked for cannot be; named with its file, its
            line and the fix.
    """
    made: dict[Model, Any] = {}
    for recipe in runs:
        for name in models.used(recipe):
            model = recipe.contents.models[name]
            if model not in made:
                made[model] = _unloaded(recipe, name, fetch=fetch)
        check(recipe, {name: made[recipe.contents.models[name]] for name in models.used(recipe)})


def check(recipe: Recipe, pipelines: Mapping[str, Any]) -> None:
    """Check one run.

    Args:
        recipe: without a sweep.
        pipelines: by model, with or without weights; None for one of which nothing is known.

    Raises:
        ValueError: as for `check_runs`.
    """
    asked: dict[str, dict[str, Any]] = {}
    for name, one in recipe.contents.trajectories.items():
        if (pipeline := pipelines.get(one.model)) is not None:
            asked[name] = calls.arguments(recipe, name, pipeline)
            _check_sides(recipe, name, pipeline)
            _check_call(recipe, name, pipeline, asked[name])
    for k, edge in enumerate(recipe.contents.edges):
        calls.mask(recipe, k)
        known = [text for text in edge.between if faults.end(text)[0] in asked]
        ends = {text: _End(recipe, k, text, pipelines, asked) for text in known}
        for text in known[1:]:
            if difference := ends[known[0]].differs(ends[text]):
                raise ValueError(f"{recipe.where('edges', k, 'between')}: {difference}")


class _End:
    """What is compared at one end of an edge, as far as it is known."""

    def __init__(
        self, recipe: Recipe, k: int, text: str, pipelines: Mapping[str, Any], asked: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Look at the call.

        Raises:
            ValueError: there is no such row or frame.
        """
        name, what, number = faults.end(text)
        pipeline, call = pipelines[recipe.contents.trajectories[name].model], asked[name]
        takes = inspect.signature(type(pipeline).__call__).parameters
        film = "num_frames" in takes
        self.text, self.name = text, name
        self.size = states.made_size(pipeline, call)
        self.latent = states.latent_size(pipeline, call) if self.size is not None else None
        self.frames = call.get("num_frames", takes["num_frames"].default) if film and what != "frame" else None
        count = next((call.get(key, takes[key].default) for key in _COUNTS if key in takes), None)
        self.rows = 1 if what == "row" else count
        where = recipe.where("edges", k, "between")
        if what == "frame" and not film:
            raise ValueError(f"{where}: {name!r} is a picture, which has no frames; write {name!r}.")
        if what == "row" and isinstance(count, int) and number >= count:
            raise ValueError(
                f"{where}: {text!r} is none of the {count} that {name!r} makes, which are counted from 0; write "
                f'"{name}[{count - 1}]".'
            )

    def differs(self, other: _End) -> str | None:
        """Say what keeps the two from being compared, and what to write."""
        film, picture = (self, other) if self.frames is not None else (other, self)
        if (self.frames is None) != (other.frames is None):
            return f'{film.text!r} is a video and {picture.text!r} is none; join a frame, "{film.name}.frames(0)".'
        if self.frames != other.frames:
            return (
                f"{self.text!r} has {self.frames} frames and {other.text!r} {other.frames}; write one num_frames in "
                f'their calls, or join frames, "{self.name}.frames(0)".'
            )
        if self.rows != other.rows and self.rows and other.rows:
            larger = self if self.rows > other.rows else other
            return f'{self.text!r} is {self.rows} and {other.text!r} {other.rows}; join one, "{larger.name}[0]".'
        if self.latent and other.latent and self.latent != other.latent:
            alike = self.size == other.size
            shown = (self.latent, other.latent) if alike else (self.size, other.size)
            one, two = (" x ".join(map(str, size)) for size in shown if size)
            unit = "latent pixels" if alike else "pixels"
            return (
                f"{self.text!r} is {one} {unit} and {other.text!r} {two}; write a height and width in both calls that "
                "make one size, or give them images of one size."
            )
        return None


def _check_sides(recipe: Recipe, name: str, pipeline: Any) -> None:
    """Refuse a height or a width that the autoencoder and the patches of a model do not make."""
    if not hasattr(pipeline, "vae_scale_factor"):
        return
    multiple = flux.size_multiple(pipeline)
    for key in ("height", "width"):
        side = recipe.contents.trajectories[name].call.get(key)
        if isinstance(side, int) and (side < 1 or side % multiple):
            below, above = side // multiple * multiple, -(-max(side, 1) // multiple) * multiple
            fix = f"{key} = {below} or {above}" if below > 0 else f"{key} = {above}"
            raise ValueError(
                f"{recipe.where('trajectories', name, 'call', key)}: `{key}` of {name!r} is {side}, and "
                f"{type(pipeline).__name__} makes multiples of {multiple} here; write {fix}."
            )


def _check_call(recipe: Recipe, name: str, pipeline: Any, call: Mapping[str, Any]) -> None:
    """Let the pipeline check what it will be called with, as it does itself at the beginning of a call."""
    if not hasattr(pipeline, "check_inputs"):
        return
    takes = inspect.signature(type(pipeline).__call__).parameters
    size = states.made_size(pipeline, call)
    given = dict(call) | (dict(zip(("height", "width"), size, strict=True)) if size else {})
    known = {
        key: given.get(key, one.default) for key, one in takes.items() if one.default is not one.empty or key in given
    }
    wanted = inspect.signature(pipeline.check_inputs).parameters.values()
    named = [one for one in wanted if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    try:
        pipeline.check_inputs(
            **{one.name: known.get(one.name) for one in named if one.name in known or one.default is one.empty}
        )
    except ValueError as error:
        written = recipe.contents.trajectories[name].call
        key = next((key for key in written if f"`{key}`" in str(error)), None)
        where = recipe.where("trajectories", name, *(() if key is None else ("call", key)))
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"{where}: {name!r} is refused by {type(pipeline).__name__}: {reason:.400}.") from error
    except Exception:
        # What it would have been given is worked out in its call; then the call itself finds what is wrong.
        return


def _unloaded(recipe: Recipe, name: str, *, fetch: bool) -> Any:
    """The pipeline of a model without weights; None if it is not here, or cannot be made so."""
    home = models.folder(recipe, name, fetch=fetch)
    if home is None:
        return None
    cls = models.pipeline_class(recipe, name, home)
    try:
        return models.unloaded(cls, home, estimates.skeletons(home, torch.float32))
    except Exception:
        # Networks cannot be made without weights for as many reasons as there are; loading them is what decides.
        return None
