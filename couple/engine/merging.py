"""Several forwards of one network as one: which calls fit together, how they are joined, and whether to trust it.

Calls that wait at the same network with the same shapes are concatenated along the batch axis and the output is cut
apart again. What has no batch axis (position ids, a scalar timestep, settings) must be equal. A merge is checked,
not trusted: layers that treat parts of a batch differently (perturbed-attention guidance splits it in three) would
give wrong numbers. Classes known to treat rows independently merge freely; for others the first merge is compared
with separate forwards, and if it differs the network is served one call at a time from then on.

Where the weights of a network are brought block by block (`memory`), its forwards run side by side, and calls get
promises: nothing runs before one of them looks, so that all that was asked by then shares one passage of the weights.
Which forwards are merged does not depend on it, so neither do the bits.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from couple.engine import rows
from couple.engine.requests import Answer, Equality, Request, can_take_turns, edits, form
from couple.engine.together import Promised, side_by_side
from couple.hooks import Processors


class Host:
    """Where the weights of networks are; this one lets them stay."""

    def streams(self, module: nn.Module) -> bool:
        """Tell whether the weights are brought block by block at each forward."""
        return False

    def is_shared(self, module: nn.Module) -> bool:
        """Tell whether forwards of a streamed network may run side by side, on one passage of its weights."""
        return True

    def is_here(self, module: nn.Module) -> bool:
        """Tell whether the weights need not be brought."""
        return True

    def relief(self, merger: Merger, module: nn.Module, calls: Sequence[int]) -> Callable[[], None] | None:
        """Return what makes room after forwards, for so many calls each, ran out of memory; None for nothing left."""
        return None


class Merger:
    """Serves requests with as few forwards as possible, and remembers which networks may not be merged.

    Args:
        max_batch: how many calls one forward may serve; None for no limit.
        processors: the attention processors of the networks that are served.

    Attributes:
        host: where the weights are; `memory` puts its own here.
    """

    def __init__(self, max_batch: int | None, processors: Processors) -> None:
        """Start with no forward made and no network distrusted."""
        self.max_batch = max_batch
        self.forwards = 0
        self.host = Host()
        self._processors = processors
        self._verdicts: dict[Hashable, bool] = {}
        self._equal = Equality()
        self._forms: dict[Hashable, tuple[Any, list[Any]]] = {}
        self._promised: dict[int, list[list[Answer]]] = {}

    def serve(self, requests: Sequence[Request]) -> list[Any]:
        """Run all requests; return the outputs in their order. Each call gets exactly its own rows."""
        groups: list[list[Answer]] = []
        answers = [Answer(request, edits(request)) for request in requests]
        for answer in answers:
            for group in groups:
                if self._fits(group[0].request, answer.request, len(group)):
                    group.append(answer)
                    break
            else:
                groups.append([answer])
        asked: dict[int, list[list[Answer]]] = {}
        for group in groups:
            asked.setdefault(id(group[0].request.module), []).append(group)
        # What is at hand goes first: of two networks that take turns on a device, one is moved at a meeting, not two.
        for own in sorted(asked.values(), key=lambda own: not self.host.is_here(own[0][0].request.module)):
            self._promised.setdefault(id(own[0][0].request.module), []).extend(own)
            if not all(self._can_wait(answer.request) for group in own for answer in group):
                self._fulfil(own[0][0].request.module)
        return [answer.output if answer.done else self._promise(answer) for answer in answers]

    def _can_wait(self, request: Request) -> bool:
        if request.alone or request.modes.grad or request.modes.inference or not self.host.streams(request.module):
            return False
        return form(request) in self._forms

    def _promise(self, answer: Answer) -> Any:
        """Return an output of the form that this network gave before, whose tensors are not computed yet."""
        spec, leaves = self._forms[form(answer.request)]

        def look(k: int) -> Tensor:
            if not answer.done:
                self._fulfil(answer.request.module)
            return pytree.tree_leaves(answer.output)[k]

        return pytree.tree_unflatten(
            [Promised.of(partial(look, k)) if leaf is Tensor else leaf for k, leaf in enumerate(leaves)], spec
        )

    def _fulfil(self, module: nn.Module) -> None:
        """Run all that has been asked of a network, with smaller batches or less memory where it must be."""
        groups = self._promised.pop(id(module))
        if any(edits(answer.request) != answer.edits for group in groups for answer in group):
            raise RuntimeError(
                f"a pipeline edited in place what it had given to {type(module).__name__}, whose weights are streamed. "
                "Keep them on the device: couple.sample(..., placement=couple.Placement('resident'))."
            )
        before = self._processors.now()
        while groups:
            try:
                self._work(module, groups)
            except RuntimeError as error:
                groups = [group for group in groups if not group[0].done]
                make_room = self.host.relief(self, module, [*map(len, groups)]) if out_of_memory(error) else None
                if make_room is None:
                    raise
            else:
                break
            finally:
                self._processors.put(before)
            # Here the error is forgotten, and with it the tensors its frames held.
            make_room()
            if self.max_batch is not None:
                size = self.max_batch
                groups = [group[i : i + size] for group in groups for i in range(0, len(group), size)]

    def _work(self, module: nn.Module, groups: list[list[Answer]]) -> None:
        if not self.host.streams(module):
            for group in groups:
                self._answer(group)
            return
        while groups:
            first = groups[0][0].request
            alike = [group for group in groups if can_take_turns(first, group[0].request)]
            turns = alike if self.host.is_shared(module) and not first.alone else groups[:1]
            with first.modes.entered():
                side_by_side([partial(self._answer, group) for group in turns])
            groups = [group for group in groups if group not in turns]

    def _answer(self, group: list[Answer]) -> None:
        for answer, output in zip(group, self._run([answer.request for answer in group]), strict=True):
            answer.output, answer.done = output, True
            if self.host.streams(answer.request.module):
                leaves, spec = pytree.tree_flatten(output)
                shown = [Tensor if isinstance(leaf, Tensor) else leaf for leaf in leaves]
                self._forms[form(answer.request)] = spec, shown

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
            if not rows.independent(first.module):
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
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, AssertionError) as error:
            if out_of_memory(error):
                raise
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


def out_of_memory(error: Exception) -> bool:
    """Tell whether a device ran out of memory. Libraries on it (cuBLAS) say so in the words of a RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in ("out of memory", "ALLOC_FAILED"))


def _close(expected: list[Any], got: list[Any]) -> bool:
    pairs = zip(pytree.tree_leaves(expected), pytree.tree_leaves(got), strict=True)
    for a, b in ((a, b) for a, b in pairs if isinstance(a, Tensor)):
        if a.shape != b.shape:
            return False
        tolerance = 2e-2 if a.dtype in (torch.float16, torch.bfloat16) else 1e-4
        if a.is_floating_point():
            # A row of nan must be one in both; it says nothing about the others.
            if not torch.equal(a.isnan(), b.isnan()):
                return False
            a, b = a.nan_to_num(), b.nan_to_num()
        scale = a.abs().max().clamp_min(torch.finfo(torch.float32).tiny) if a.is_floating_point() else 1
        if not bool((a - b).abs().max() <= tolerance * scale):
            return False
    return True
