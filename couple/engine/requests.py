"""A call that waits at a network's forward: what it gave, taken apart so that others can be laid beside it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from couple.engine.modes import Modes
from couple.engine.together import kept
from couple.hooks import version

#: Arguments whose matrices are (tokens, axes): a small picture may have as many tokens as the batch has rows.
UNBATCHED = frozenset({"img_ids", "txt_ids", "image_rotary_emb"})


@dataclass(eq=False)
class Request:
    """One call waiting at a network's forward, with the tree of its arguments taken apart.

    `forward(*args, **kwargs)` runs the network itself, under the torch modes and the attention processors that were
    in place when the call began to wait. `alone` keeps it from being merged.
    """

    module: nn.Module
    forward: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    modes: Modes
    processors: tuple[Any, ...]
    alone: bool = False
    leaves: list[Any] = field(init=False)
    spec: Any = field(init=False)
    rows: int = field(init=False)
    batched: list[bool] = field(init=False)
    key: Hashable = field(init=False)

    def __post_init__(self) -> None:
        leaves, self.spec = pytree.tree_flatten((self.args, self.kwargs))
        self.leaves = list(map(kept, leaves))
        places = {id(leaf) for name in UNBATCHED & self.kwargs.keys() for leaf in pytree.tree_leaves(self.kwargs[name])}
        tensors = [leaf for leaf in self.leaves if isinstance(leaf, Tensor) and leaf.ndim > 1]
        self.rows = tensors[0].shape[0] if tensors else 0
        self.batched = [
            self._has_batch(leaf, id(given) in places) for leaf, given in zip(self.leaves, leaves, strict=True)
        ]
        shapes = tuple(map(self._shape, self.batched, self.leaves))
        self.key = (id(self.module), self.modes, tuple(map(id, self.processors)), shapes)

    def _has_batch(self, leaf: Any, is_place: bool) -> bool:
        if not isinstance(leaf, Tensor) or leaf.ndim == 0 or leaf.shape[0] != self.rows:
            return False
        return not (is_place and leaf.ndim == 2)

    @staticmethod
    def _shape(batched: bool, leaf: Any) -> Hashable:
        if isinstance(leaf, Tensor):
            return (leaf.shape[1:] if batched else leaf.shape, leaf.dtype, leaf.device)
        return type(leaf)


@dataclass(eq=False)
class Answer:
    """The output of a request, once its forward has run.

    Attributes:
        edits: how often each tensor of the request had been edited when it was asked.
    """

    request: Request
    edits: list[int | None]
    output: Any = None
    done: bool = False


class Equality:
    """Equality of unbatched arguments, remembered for tensors: comparing them would make a GPU wait at every step."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._known: dict[tuple[Any, ...], tuple[Any, Any, bool]] = {}

    def __call__(self, a: Any, b: Any) -> bool:
        """Tell whether two arguments are equal."""
        if a is b:
            return True
        if not isinstance(a, Tensor) or not isinstance(b, Tensor):
            return _same(a, b)
        if a._base is not None and b._base is not None and _place(a) == _place(b):
            # `for t in timesteps` hands out views: if the whole tables are equal, so are equal places in them.
            if self._tensors(a._base, b._base):
                return True
        return self._tensors(a, b)

    def _tensors(self, a: Tensor, b: Tensor) -> bool:
        if a is b:
            return True
        key = (id(a), version(a), id(b), version(b))
        if key in self._known:
            first, second, equal = self._known[key]
            if first() is a and second() is b:
                return equal
        equal = a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
        self._known[key] = (weakref.ref(a), weakref.ref(b), equal)
        return equal


def edits(request: Request) -> list[int | None]:
    """How often each tensor of a request has been edited in place."""
    return [version(leaf) for leaf in request.leaves if isinstance(leaf, Tensor)]


def form(request: Request) -> Hashable:
    """What decides of what form an output is: the shapes and switches of a call."""
    return request.key, tuple(leaf for leaf in request.leaves if isinstance(leaf, bool))


def can_take_turns(first: Request, other: Request) -> bool:
    """Tell whether two forwards may take turns: neither then finds the other's modes or attention processors."""
    same = first.modes == other.modes and tuple(map(id, first.processors)) == tuple(map(id, other.processors))
    return same and not first.alone and not other.alone


def _place(view: Tensor) -> tuple[Any, ...]:
    return view.storage_offset(), view.shape, view.stride()


def _same(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except (RuntimeError, ValueError, TypeError):
        return False
