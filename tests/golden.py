"""Golden values of official code (`tests/data/README.md`), and the closed formula behind their weights."""

import json
import math
import zlib
from pathlib import Path

import torch
from safetensors import safe_open

DATA = Path(__file__).parent / "data"


class Golden:
    """One `tests/data/*_golden_tiny.safetensors`: `golden["net.x"]` is a tensor, `golden.meta` the JSON header."""

    def __init__(self, name):
        with safe_open(DATA / name, "pt") as file:
            self.tensors = {key: file.get_tensor(key) for key in file.keys()}
            self.meta = {key: _parsed(value) for key, value in (file.metadata() or {}).items()}

    def __getitem__(self, key):
        return self.tensors[key]

    def under(self, prefix):
        """The tensors whose key begins with `prefix`, without it."""
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}


def _parsed(text):
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def weight(key, shape, dtype=torch.float32):
    """The weight of the state-dict key `key` by the rule of `tests/data/README.md`."""
    i = torch.arange(math.prod(shape), dtype=torch.float64)
    phase = (zlib.crc32(key.encode()) % 1000) / 10
    values = torch.sin(0.37 * i * i + 1.618 * i + phase).reshape(shape)
    if len(shape) > 1:
        values = values * 1.2 / math.sqrt(math.prod(shape[1:]))
    else:
        values = values * 0.1 + key.endswith(".weight")
    return values.to(dtype)


def weights(keys_shapes):
    """Weights by the rule for every key of `{key: shape}` or `[[key, shape], ...]`."""
    items = keys_shapes.items() if isinstance(keys_shapes, dict) else keys_shapes
    return {key: weight(key, tuple(shape)) for key, shape in items}


def relative_error(got, expected):
    """Largest difference over the largest expected value."""
    return float((got.double() - expected.double()).abs().max() / expected.double().abs().max())
