"""How long a run will take here: what its networks will be asked, counted without their weights, at measured rates.

The calls of a run are made with stand-ins for its networks. A stand-in has no weights: it passes what it is asked
through the network's own code on the meta device, where nothing is computed, counts, and answers with numbers of the
right shape. So everything that decides about the cost is that of the run itself: steps, guidance, the length of
prompts, which forwards are merged. The rates come from a transformer block that is timed on the device in question.
"""

from __future__ import annotations

import copy
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import couple
from couple import Trajectory, autoencoders, hooks

#: Seconds that a rehearsal may take.
_PATIENCE = 30.0
#: Of the block that is timed: how often, how much longer the wide one should take than the narrow, and the widest.
_TIMES, _LONGER, _WIDEST = 5, 20, 4096


@dataclass(frozen=True)
class Work:
    """What a run has to do.

    Attributes:
        flops: floating-point operations of its networks by their dtype, a multiply-add counted as two.
        operations: dispatched tensor operations, in its networks and between them.
    """

    flops: Mapping[torch.dtype, int]
    operations: int


@dataclass(frozen=True)
class Rates:
    """What a device needs for it.

    Attributes:
        flops: floating-point operations a second, by dtype.
        operation: seconds that one operation takes beside its arithmetic.
    """

    flops: Mapping[torch.dtype, float]
    operation: float

    def seconds(self, work: Work) -> float:
        """How long the work takes."""
        arithmetic = sum(count / self.flops[dtype] for dtype, count in work.flops.items())
        return arithmetic + work.operations * self.operation


class Tally(TorchDispatchMode):
    """Counts operations that are dispatched while it is on, and what stand-ins are asked."""

    def __init__(self) -> None:
        """Start from nothing."""
        super().__init__()
        self._flops: Counter[torch.dtype] = Counter()
        self._operations = 0
        self._known: dict[Any, tuple[int, int, Any]] = {}
        self._until = time.monotonic() + _PATIENCE

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one operation."""
        self._operations += 1
        if function is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            # Encoders ask whether a mask hides anything; without numbers nothing is hidden.
            return torch.ones((), dtype=args[0].dtype).item()
        return function(*args, **(kwargs or {}))

    @property
    def work(self) -> Work:
        """All that was counted."""
        return Work(dict(self._flops), self._operations)

    def stand_in(self, network: nn.Module) -> None:
        """Make a network on the meta device answer calls from the CPU; denoisers are counted, encoders are not."""
        cls: Any = type(network)
        coder = autoencoders.is_autoencoder(network)
        denoiser = not coder and cls.__module__.partition(".")[0] != "transformers"

        def asked(call: Callable[..., Any]) -> Callable[..., Any]:
            return lambda network, *args, **kwargs: self._ask(network, call, args, kwargs, denoiser)

        members: dict[str, Any] = {name: asked(getattr(cls, name)) for name in ("encode", "decode")} if coder else {}
        here = property(lambda _: torch.device("cpu"))
        network.__class__ = hooks.subclass(cls, {"__call__": asked(cls.__call__), "device": here, **members})

    def _ask(self, network: Any, call: Callable[..., Any], args: Any, kwargs: Any, counted: bool) -> Any:
        if time.monotonic() > self._until:
            raise TimeoutError(f"it takes more than {_PATIENCE:g} seconds")
        before = self._operations
        leaves, spec = pytree.tree_flatten((args, kwargs))
        kinds = [(leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else _plain(leaf) for leaf in leaves]
        key = (id(network), call.__name__, tuple(kinds), str(spec))
        if key not in self._known:
            moved = [leaf.to("meta") if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            args, kwargs = pytree.tree_unflatten(moved, spec)
            # The counter takes attention apart, which is one operation when it is made.
            with FlopCounterMode(display=False) as counter:
                call(network, *args, **kwargs)
            self._operations = 0
            with _Fused():
                output = call(network, *args, **kwargs)
            self._known[key] = counter.get_total_flops(), self._operations, output
        flops, operations, output = self._known[key]
        answer = pytree.tree_map(_numbers, output)
        self._operations = before
        if counted:
            self._flops[next(network.parameters()).dtype] += flops
            self._operations += operations
        return answer


class _Fused(TorchFunctionMode):
    """Attention as one operation."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is nn.functional.scaled_dot_product_attention:
            return _attention(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    return query.new_empty(*query.shape[:-1], value.shape[-1])


def _plain(leaf: Any) -> Any:
    """What of an argument that is no tensor may decide about shapes."""
    return leaf if leaf is None or isinstance(leaf, bool | int | str) else type(leaf)


def _numbers(leaf: Any) -> Any:
    """Numbers in the place of a tensor without any, also of one inside an object: finite, and not all equal."""
    if isinstance(leaf, Tensor):
        return torch.linspace(-1, 1, leaf.numel()).to(leaf.dtype).reshape(leaf.shape)
    if hasattr(leaf, "__dict__") and not isinstance(leaf, type):
        leaf = copy.copy(leaf)
        vars(leaf).update({name: _numbers(value) for name, value in vars(leaf).items()})
    return leaf


def rehearsed(trajectories: Sequence[Trajectory], max_batch: int | None = None) -> Work:
    """Make calls with stand-ins and count what they take.

    Args:
        trajectories: calls of pipelines whose networks are on the meta device, where they are of no other use
            afterwards. Edges are left out: what they cost is little beside the networks.
        max_batch: as for `couple.sample`.

    Raises:
        TimeoutError: it takes too long.
        Exception: what the pipelines raise.
    """
    tally = Tally()
    for network in {
        part for one in trajectories for _, _, part in hooks.parts(one.pipeline) if isinstance(part, nn.Module)
    }:
        tally.stand_in(network)
    with warnings.catch_warnings(), torch.no_grad(), tally:
        warnings.simplefilter("ignore")
        couple.sample(trajectories, max_batch=max_batch, progress=False)
    return tally.work


def measured(device: torch.device, dtypes: Iterable[torch.dtype]) -> Rates:
    """Time a transformer block: so narrow that little but its operations costs, and so wide that arithmetic does.

    Medians, so that what else the machine does at present counts.
    """
    flops, costs = {}, []
    for dtype in dict.fromkeys(dtypes):
        width, work, narrow = _block(32, device, dtype)
        cost = narrow / work.operations
        costs.append(cost)
        spent = narrow
        while spent < _LONGER * narrow and width < _WIDEST:
            width *= 2
            _, work, spent = _block(width, device, dtype)
        flops[dtype] = work.flops[dtype] / (spent - work.operations * cost)
    return Rates(flops, max(costs))


def _block(width: int, device: torch.device, dtype: torch.dtype) -> tuple[int, Work, float]:
    """Count and time one transformer block over four tokens for each of its channels."""
    from diffusers.models.attention import BasicTransformerBlock

    with torch.device("meta"):
        twin = BasicTransformerBlock(width, width // 32, 32).to(dtype).eval().requires_grad_(False)
    block = copy.deepcopy(twin).to_empty(device=device)
    for parameter in block.parameters():
        parameter.fill_(1 / width)
    given = torch.linspace(-1, 1, 4 * width**2, device=device, dtype=dtype).reshape(1, 4 * width, width)
    wait = (lambda: None) if device.type == "cpu" else torch.accelerator.synchronize

    def once() -> float:
        wait()
        started = time.perf_counter()
        block(given)
        wait()
        return time.perf_counter() - started

    with torch.no_grad():
        spent = statistics.median(once() for _ in range(_TIMES))
        tally = Tally()
        tally.stand_in(twin)
        with tally:
            twin(given)
    return width, tally.work, spent
