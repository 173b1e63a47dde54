"""Several forwards of one network as one: which calls fit together, how they are joined, and whether to trust it.

Calls that wait at the same network with the same shapes are concatenated along the batch axis and the output is cut
apart again. What has no batch axis (position ids, a scalar timestep, settings) must be equal. A merge is checked,
not trusted: layers that treat parts of a batch differently (perturbed-attention guidance splits it in three) would
give wrong numbers. Classes known to treat rows independently merge freely; for others the first merge is compared
with separate forwards, and if it differs the network is served one call at a time from then on.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from couple.hooks import Processors, version
from couple.modes import Modes

#: Networks whose calls do not look at each other: rows stay apart, or (multi-view networks) the rows of a call stay
#: together. Each is proven by a test that merges calls and compares.
ROW_INDEPENDENT = frozenset(
    {
        "CogVideoXTransformer3DModel",
        "ControlNetModel",
        "Flux2Transformer2DModel",
        "FluxTransformer2DModel",
        "LTXVideoTransformer3DModel",
        "MVDreamModel",
        "MochiTransformer3DModel",
        "MultiViewUNet",
        "PixArtTransformer2DModel",
        "QwenImageTransformer2DModel",
        "SD3Transformer2DModel",
        "SanaTransformer2DModel",
        "SevaModel",
        "UNet2DConditionModel",
        "WanTransformer3DModel",
    }
)
#: The attention processors these networks have when nothing was exchanged.
ROW_INDEPENDENT_PROCESSORS = frozenset(
    {
        "AttnProcessor",
        "AttnProcessor2_0",
        "CogVideoXAttnProcessor2_0",
        "Flux2AttnProcessor",
        "Flux2ParallelSelfAttnProcessor",
        "FluxAttnProcessor",
        "JointAttnProcessor2_0",
        "LTXVideoAttnProcessor",
        "MVDreamAttnProcessor",
        "MochiAttnProcessor2_0",
        "MultiViewAttention",
        "QwenDoubleStreamAttnProcessor2_0",
        "SanaLinearAttnProcessor2_0",
        "SanaMultiscaleAttnProcessor2_0",
        "SevaAttnProcessor",
        "TextAttention",
        "WanAttnProcessor",
        "XFormersAttnProcessor",
    }
)
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
        paths, self.spec = pytree.tree_flatten_with_path((self.args, self.kwargs))
        self.leaves = [leaf for _, leaf in paths]
        names = [{getattr(key, "key", None) for key in path} for path, _ in paths]
        tensors = [leaf for leaf in self.leaves if isinstance(leaf, Tensor) and leaf.ndim > 1]
        self.rows = tensors[0].shape[0] if tensors else 0
        self.batched = [self._has_batch(name, leaf) for name, leaf in zip(names, self.leaves, strict=True)]
        shapes = tuple(map(self._shape, self.batched, self.leaves))
        self.key = (id(self.module), self.modes, tuple(map(id, self.processors)), shapes)

    def _has_batch(self, names: set[Any], leaf: Any) -> bool:
        if not isinstance(leaf, Tensor) or leaf.ndim == 0 or leaf.shape[0] != self.rows:
            return False
        return not (names & UNBATCHED and leaf.ndim == 2)

    @staticmethod
    def _shape(batched: bool, leaf: Any) -> Hashable:
        if isinstance(leaf, Tensor):
            return (leaf.shape[1:] if batched else leaf.shape, leaf.dtype, leaf.device)
        return type(leaf)


class Merger:
    """Serves requests with as few forwards as possible, and remembers which networks may not be merged.

    Args:
        max_batch: how many calls one forward may serve; None for no limit.
        processors: the attention processors of the networks that are served.
    """

    def __init__(self, max_batch: int | None, processors: Processors) -> None:
        """Start with no forward made and no network distrusted."""
        self.max_batch = max_batch
        self.forwards = 0
        self._processors = processors
        self._verdicts: dict[Hashable, bool] = {}
        self._equal = _Equality()

    def serve(self, requests: Sequence[Request]) -> list[Any]:
        """Run all requests; return the outputs in their order. Each call gets exactly its own rows."""
        groups: list[list[int]] = []
        for index, request in enumerate(requests):
            for group in groups:
                if self._fits(requests[group[0]], request, len(group)):
                    group.append(index)
                    break
            else:
                groups.append([index])
        outputs: list[Any] = [None] * len(requests)
        for group in groups:
            for index, output in zip(group, self._run([requests[i] for i in group]), strict=True):
                outputs[index] = output
        return outputs

    def _fits(self, first: Request, other: Request, size: int) -> bool:
        if self.max_batch is not None and size >= self.max_batch:
            return False
        if first.key != other.key or first.spec != other.spec:
            return False
        if first.rows == 0 or first.alone or not self._verdicts.get(first.key, True):
            return False
        return all(
            batched or self._equal(mine, theirs)
            for batched, mine, theirs in zip(first.batched, first.leaves, other.leaves, strict=True)
        )

    def _run(self, group: list[Request]) -> list[Any]:
        first = group[0]
        if len(group) == 1:
            return [self._forward(first)]
        if first.key not in self._verdicts:
            if not _row_independent(first.module):
                return self._check(group)
            self._verdicts[first.key] = True
        return self._merged(group)

    def _forward(self, request: Request, leaves: Sequence[Any] | None = None) -> Any:
        """Run the network on the arguments of `request`, or on joined ones of the same structure."""
        args, kwargs = pytree.tree_unflatten(list(request.leaves if leaves is None else leaves), request.spec)
        self.forwards += 1
        self._processors.put(request.processors)
        with request.modes.entered():
            return request.forward(*args, **kwargs)

    def _merged(self, group: list[Request]) -> list[Any]:
        first = group[0]
        with first.modes.entered():
            leaves = [
                torch.cat([request.leaves[i] for request in group]) if batched else leaf
                for i, (batched, leaf) in enumerate(zip(first.batched, first.leaves, strict=True))
            ]
        sizes = [request.rows for request in group]
        outputs, spec = pytree.tree_flatten(self._forward(first, leaves))
        pieces = [
            leaf.split(sizes) if isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] == sum(sizes) else None
            for leaf in outputs
        ]
        return [
            pytree.tree_unflatten(
                [leaf if cut is None else cut[k] for leaf, cut in zip(outputs, pieces, strict=True)], spec
            )
            for k in range(len(group))
        ]

    def _check(self, group: list[Request]) -> list[Any]:
        separate = [self._forward(request) for request in group]
        try:
            merged = self._merged(group)
            reason = None if _close(separate, merged) else "gave other numbers"
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, AssertionError) as error:
            reason = f"failed ({error})"
        self._verdicts[group[0].key] = reason is None
        if reason is not None:
            warnings.warn(
                f"a merged forward of {type(group[0].module).__name__} {reason}: its calls are served one by one. "
                "Pass max_batch=1 to sample() to skip this check.",
                RuntimeWarning,
                stacklevel=2,
            )
        return separate


class _Equality:
    """Equality of unbatched arguments, remembered for tensors: comparing them would make a GPU wait at every step."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], tuple[Any, Any, bool]] = {}

    def __call__(self, a: Any, b: Any) -> bool:
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


def _place(view: Tensor) -> tuple[Any, ...]:
    return view.storage_offset(), view.shape, view.stride()


def _same(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except (RuntimeError, ValueError, TypeError):
        return False


def _row_independent(module: nn.Module) -> bool:
    if type(module).__name__ not in ROW_INDEPENDENT:
        return False
    return all(
        type(layer.processor).__name__ in ROW_INDEPENDENT_PROCESSORS
        for layer in module.modules()
        if hasattr(layer, "processor")
    )


def _close(expected: list[Any], got: list[Any]) -> bool:
    pairs = zip(pytree.tree_leaves(expected), pytree.tree_leaves(got), strict=True)
    for a, b in ((a, b) for a, b in pairs if isinstance(a, Tensor)):
        if a.shape != b.shape:
            return False
        tolerance = 2e-2 if a.dtype in (torch.float16, torch.bfloat16) else 1e-4
        scale = a.abs().max().clamp_min(torch.finfo(torch.float32).tiny) if a.is_floating_point() else 1
        if not bool((a - b).abs().max() <= tolerance * scale):
            return False
    return True
