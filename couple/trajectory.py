"""Trajectories and views: the nodes of a coupling.

A `Trajectory` is one call of a stock pipeline, written down and not yet made: the pipeline and the keyword
arguments its `__call__` will get. A `View` is the part of a trajectory's clean prediction x0 that an edge
compares: a row of its batch, a frame of its video, or any differentiable map of it. Both are frozen and hash
by identity, so they can key dictionaries; neither runs anything.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, NoReturn

import torch

from couple import maps

_created = itertools.count()


class Frozen:
    """Attributes are set once, by `__init__`; equality and hash are by identity."""

    __slots__ = ()

    def _set(self, **attributes: Any) -> None:
        for name, value in attributes.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is frozen; make a new one instead of setting `{name}`.")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is frozen; `{name}` cannot be deleted.")


class Trajectory(Frozen):
    """One call of a pipeline: `pipeline(**call_kwargs)`, to be made by `couple.sample`.

    Args:
        pipeline: any diffusers pipeline, or an object with a `scheduler` whose `__call__` calls
            `self.scheduler.step` once a step.
        name: what messages and progress bars call it; the prompt or the pipeline's class if not given.
        **call_kwargs: what `pipeline.__call__` takes. Give each trajectory a generator of its own.

    Attributes:
        pipeline: as given.
        name: a string.
        call_kwargs: a read-only mapping.
        serial: how many trajectories were made before it; settles the order of sums between equal names.

    Raises:
        TypeError: if `pipeline` is a class or cannot be called.

    Example:
        >>> a = Trajectory(print, prompt="a pink star", num_inference_steps=4)
        >>> a.name, a[0].label, a.frames(3).label
        ('a pink star', 'a pink star[0]', 'a pink star.frames(3)')
    """

    __slots__ = ("__weakref__", "call_kwargs", "name", "pipeline", "serial")
    pipeline: Any
    name: str
    call_kwargs: Mapping[str, Any]
    serial: int

    def __init__(self, pipeline: Any, /, *, name: str | None = None, **call_kwargs: Any):
        """Write the call down."""
        if isinstance(pipeline, type):
            raise TypeError(
                f"`pipeline` is the class {pipeline.__name__}, not a pipeline. "
                f"Load one first, e.g. {pipeline.__name__}.from_pretrained(path)."
            )
        if not callable(pipeline):
            raise TypeError(f"`pipeline` must be a pipeline, which can be called; got {pipeline!r:.80}.")
        name = str(name) if name is not None else _default_name(pipeline, call_kwargs)
        kwargs = MappingProxyType(dict(call_kwargs))
        self._set(pipeline=pipeline, name=name, call_kwargs=kwargs, serial=next(_created))

    def __getitem__(self, k: int) -> View:
        """View row `k` of the batch, as a batch of one; negative `k` counts from the end."""
        return View(self, (maps.row(_index(k, self.name)),), f"{self.name}[{k}]")

    # Indexing alone would make a trajectory an endless sequence to `for` and `in`.
    __iter__ = None
    __contains__ = None

    def frames(self, k: int, dim: int = 2) -> View:
        """View latent frame `k` along axis `dim` (2 in diffusers' (B, C, F, H, W)); the frame axis goes."""
        return View(self, (maps.frame(_index(k, self.name), dim),), f"{self.name}.frames({k})")

    def through(self, map: Callable[[torch.Tensor], torch.Tensor]) -> View:
        """View x0 through a differentiable map, such as those of `couple.maps`."""
        return view(self).through(map)

    def __repr__(self) -> str:
        """Name the trajectory and its pipeline."""
        return f"<Trajectory {self.name!r} of {type(self.pipeline).__name__}>"


class View(Frozen):
    """What an edge compares of a trajectory's x0; made by `a[k]`, `a.frames(k)` and `a.through(map)`.

    Attributes:
        trajectory: whose x0 it looks at.
        maps: what is applied to x0, in order; empty for the whole of it.
        label: how messages write it, e.g. `clip.frames(3)`.

    Example:
        >>> a = Trajectory(print, name="a")
        >>> a[1].through(maps.low_pass(8)).label
        'a[1] through low_pass(8)'
        >>> a[1](torch.arange(3)).tolist()
        [1]
    """

    __slots__ = ("__weakref__", "label", "maps", "trajectory")
    trajectory: Trajectory
    maps: tuple[Callable[[torch.Tensor], torch.Tensor], ...]
    label: str

    def __init__(self, trajectory: Trajectory, maps: tuple = (), label: str | None = None):
        """Look at `trajectory` through `maps`."""
        self._set(trajectory=trajectory, maps=maps, label=trajectory.name if label is None else label)

    def __call__(self, x0: torch.Tensor) -> torch.Tensor:
        """Apply the maps to x0, shape (B, ...).

        Raises:
            TypeError: a map returns no tensor.
            ValueError: a map of places gets a state that has none.
        """
        for map in self.maps:
            maps.check_axes(f"view '{self.label}'", map, x0.ndim)
            with noted(f"in {maps.call(map)}, a map of view '{self.label}'"):
                x0 = map(x0)
            if not isinstance(x0, torch.Tensor):
                raise TypeError(
                    f"view '{self.label}': {maps.call(map)} returned a {type(x0).__name__}; a map returns a tensor. "
                    "Compute it with torch operations, which can be differentiated."
                )
        return x0

    def check(self, ndim: int) -> int | None:
        """Refuse maps of places on a state without, before any map is applied.

        Args:
            ndim: how many axes the state has.

        Returns:
            How many axes the view has; None if that cannot be told, because a map is not one of `couple.maps`.

        Raises:
            ValueError: a map does not fit.
        """
        for map in self.maps:
            maps.check_axes(f"view '{self.label}'", map, ndim)
            if not getattr(map, "keeps_space", False):
                return None
            ndim -= isinstance(map, maps.frame)
        return ndim

    def through(self, map: Callable[[torch.Tensor], torch.Tensor]) -> View:
        """View this view through one more map."""
        if isinstance(map, type):
            example = getattr(map, "example", f"{map.__name__}()")
            raise TypeError(f"`map` is the class {map.__name__}, not a map. Did you mean {example}?")
        if not callable(map):
            raise TypeError(f"`map` must be a callable from a tensor to a tensor; got {map!r:.80}.")
        return View(self.trajectory, (*self.maps, map), f"{self.label} through {maps.call(map)}")

    def __repr__(self) -> str:
        """Write the label."""
        return f"<View {self.label!r}>"


def view(end: Trajectory | View) -> View:
    """Return a view of the whole trajectory, or the view itself."""
    return end if isinstance(end, View) else View(end)


@contextmanager
def noted(where: str) -> Iterator[None]:
    """Add to an error of a function of the user's whose it is."""
    try:
        yield
    except Exception as error:
        error.add_note(where)
        raise


def _index(k: Any, name: str) -> int:
    try:
        return operator.index(k)
    except TypeError:
        raise TypeError(
            f"{name}[k] is one row of the batch, and {name}.frames(k) one frame, for a whole number k; got {k!r:.80}. "
            f"For several give each its own edge: couple.pair({name}[0], ...), couple.pair({name}[1], ...)."
        ) from None


def _default_name(pipeline: Any, call_kwargs: Mapping[str, Any]) -> str:
    prompt = call_kwargs.get("prompt")
    return prompt if isinstance(prompt, str) and prompt else type(pipeline).__name__
