"""State as plain values and tensors: copied off an object, packed for a file, and put back.

What can be kept is None, booleans, numbers, strings, tensors, arrays, and lists, tuples and dictionaries of them.
Attributes of other kinds (functions, samplers, configurations) are left alone: whoever puts a state back does so on an
object of the same making, which has its own. Tensors that are one object stay one object.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

PLAIN = (bool, int, float, str)


class Unkept(TypeError):
    """A value of a kind that is not kept."""


def copied(value: Any, memo: dict[int, Any] | None = None) -> Any:
    """Copy a value; tensors are detached clones on their device.

    Raises:
        Unkept: it is, or holds, what is not kept.
    """
    memo = {} if memo is None else memo
    if value is None or type(value) in PLAIN:
        return value
    if isinstance(value, Tensor):
        if id(value) not in memo:
            memo[id(value)] = value.detach().clone()
        return memo[id(value)]
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.hasobject:
            raise Unkept
        return value.copy()
    if type(value) in (list, tuple):
        return type(value)(copied(item, memo) for item in value)
    if type(value) is dict and all(type(key) in (str, int) for key in value):
        return {key: copied(item, memo) for key, item in value.items()}
    raise Unkept(type(value).__name__)


def taken(owner: Any, memo: dict[int, Any] | None = None) -> dict[str, Any]:
    """Copy what can be kept of an object's attributes, also of diffusers' objects inside it."""
    memo = {} if memo is None else memo
    state: dict[str, Any] = {}
    for name, value in vars(owner).items():
        try:
            state[name] = copied(value, memo)
        except Unkept:
            if _has_state(value):
                state[name] = {"attributes of": type(value).__name__, "kept": taken(value, memo)}
    return state


def put(owner: Any, state: dict[str, Any], memo: dict[int, Any] | None = None) -> None:
    """Put a state back on an object of the same making. The state itself is not handed out."""
    memo = {} if memo is None else memo
    for name, value in state.items():
        inner = vars(owner).get(name)
        if _has_state(inner) and isinstance(value, dict) and "attributes of" in value:
            put(inner, value["kept"], memo)
        else:
            # Not by setattr: schedulers warn about, and copies intercept, what looks like an edit.
            vars(owner)[name] = copied(value, memo)


def _has_state(value: Any) -> bool:
    if isinstance(value, nn.Module | dict | list | tuple | type) or not hasattr(value, "__dict__"):
        return False
    return type(value).__module__.startswith("diffusers.")


def packed(value: Any) -> tuple[Any, dict[str, Tensor]]:
    """Take a copied value apart into what JSON can hold and tensors by name, on the CPU and contiguous."""
    tensors: dict[str, Tensor] = {}
    names: dict[int, tuple[str, Tensor]] = {}  # with the tensors themselves, or their ids would be given again

    def add(tensor: Tensor) -> str:
        name, _ = names.setdefault(id(tensor), (str(len(names)), tensor))
        if name not in tensors:
            tensors[name] = tensor.permute(_order(tensor)).contiguous().cpu()
        return name

    def pack(value: Any) -> Any:
        if isinstance(value, Tensor):
            return {"tensor": add(value), "device": str(value.device), "order": _order(value)}
        if isinstance(value, np.ndarray | np.generic):
            return {type(value).__name__ if isinstance(value, np.ndarray) else "number": add(torch.as_tensor(value))}
        if isinstance(value, list):
            return [pack(item) for item in value]
        if isinstance(value, tuple):
            return {"tuple": [pack(item) for item in value]}
        if isinstance(value, dict):
            return {"dict": [[key, pack(item)] for key, item in value.items()]}
        return value

    return pack(value), tensors


def unpacked(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """Undo `packed`.

    Raises:
        ValueError, KeyError, TypeError, RuntimeError: the tree is not one that `packed` made.
    """
    made: dict[tuple[str, str], Tensor] = {}

    def tensor(name: str, device: str, order: list[int]) -> Tensor:
        if (name, device) not in made:
            inverse = [order.index(axis) for axis in range(len(order))]
            made[name, device] = tensors[name].permute(inverse).to(torch.device(device))
        return made[name, device]

    def unpack(tree: Any) -> Any:
        if isinstance(tree, list):
            return [unpack(item) for item in tree]
        if not isinstance(tree, dict):
            return tree
        match tree:
            case {"tensor": name, "device": device, "order": order}:
                return tensor(name, device, order)
            case {"ndarray": name}:
                return tensors[name].numpy()
            case {"number": name}:
                return tensors[name].numpy()[()]
            case {"tuple": items}:
                return tuple(unpack(item) for item in items)
            case {"dict": items}:
                return {key: unpack(item) for key, item in items}
        raise ValueError(f"unknown entry {sorted(tree)}")

    return unpack(tree)


def _order(tensor: Tensor) -> list[int]:
    """The axes from the outermost in memory to the innermost: networks in channels_last give such states."""
    return sorted(range(tensor.ndim), key=lambda axis: -tensor.stride(axis))


def digest(value: Any) -> str:
    """SHA-256 of a copied value, tensors by their bytes; where they lie does not count."""
    found = hashlib.sha256()

    def feed(value: Any) -> None:
        if isinstance(value, np.ndarray | np.generic):
            value = torch.as_tensor(value)
        if isinstance(value, Tensor):
            found.update(f"{value.dtype} {tuple(value.shape)}".encode())
            found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        elif isinstance(value, list | tuple):
            found.update(f"{type(value).__name__} {len(value)}".encode())
            for item in value:
                feed(item)
        elif isinstance(value, dict):
            found.update(f"dict {len(value)}".encode())
            for key, item in sorted(value.items(), key=lambda pair: str(pair[0])):
                feed(key)
                feed(item)
        else:
            found.update(f"{type(value).__name__} {value!r};".encode())

    feed(value)
    return found.hexdigest()
