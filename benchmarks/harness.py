"""How programs are measured here: side by side in time, and in exact counts.

Time is read in interleaved pairs (A B | B A | ...) in one process on one thread, after a warm-up. Three figures tell
how much longer one side takes: the ratio of the shortest runs, which a busy machine disturbs least; the same of
processor time, which leaves out waiting for a core; and the median ratio of neighbours with a bootstrap interval.
Counts (floating-point operations, dispatched tensor operations, forwards of the networks, host syncs, bytes of tensors
alive) do not depend on the machine's load and are what the tests hold to.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary

Program = Callable[[], object]

_READS = {"_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "_unique2"}


class Operations(TorchDispatchMode):
    """Counts dispatched operations, those a device would be waited for, and the bytes of tensors that live at once.

    Attributes:
        count: dispatched operations.
        syncs: operations whose result the host needs (`.item()`, `bool(...)`, `torch.equal`) and copies from one
            device to another.
        peak: most bytes, at one time, of tensors made since the count began.
    """

    def __init__(self) -> None:
        """Start from nothing."""
        super().__init__()
        self.count = self.syncs = self.peak = 0
        self._alive = 0
        self._known: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = _tensors((args, kwargs))
        result = function(*args, **(kwargs or {}))
        made = _tensors(result)
        self.count += 1
        name = function.overloadpacket.__name__
        copied = name in ("_to_copy", "copy_") and len({t.device for t in (*given, *made)}) > 1
        self.syncs += copied or name in _READS
        storages = {id(tensor.untyped_storage()) for tensor in given}
        for tensor in made:
            storage = tensor.untyped_storage()
            # Views, and weights that come out as views, were there before.
            if id(storage) not in storages and storage not in self._known:
                self._known[storage] = size = storage.nbytes()
                self._alive += size
                self.peak = max(self.peak, self._alive)
                weakref.finalize(storage, self._freed, size)
        return result

    def _freed(self, size: int) -> None:
        self._alive -= size


class Reads(TorchFunctionMode):
    """Counts `.cpu()` and `.tolist()` of CPU tensors: no operation there, but a sync on any other device."""

    def __init__(self) -> None:
        """Start from nothing."""
        super().__init__()
        self.count = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function in (Tensor.cpu, Tensor.tolist) and args[0].device.type == "cpu"
        return function(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Counts:
    """What a program does, in numbers that do not depend on how busy the machine is.

    Attributes:
        flops: floating-point operations, a multiply-add counted as two.
        operations: dispatched tensor operations.
        forwards: forwards of the networks.
        syncs: times the host needs a value, or would on a device.
        peak: bytes of tensors made by the program, at the most at one time; on CUDA what the allocator says.
    """

    flops: int
    operations: int
    forwards: int
    syncs: int
    peak: int


def count(program: Program, networks: Iterable[nn.Module] = ()) -> Counts:
    """Run a program once under the counters, after a run that fills what is remembered."""
    program()
    forwards = 0

    def forward(*_: Any) -> None:
        nonlocal forwards
        forwards += 1

    hooks = [network.register_forward_hook(forward) for network in networks]
    try:
        # Under the counter of flops composite operations are taken apart, so the other counts have runs of their own.
        with FlopCounterMode(display=False) as flops:
            program()
    finally:
        for hook in hooks:
            hook.remove()
    with Operations() as operations, Reads() as reads:
        program()
    peak = operations.peak
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        program()
        peak = torch.cuda.max_memory_allocated() - before
    return Counts(flops.get_total_flops(), operations.count, forwards, operations.syncs + reads.count, peak)


@dataclass(frozen=True)
class Ratio:
    """How much longer the second of two programs takes.

    Attributes:
        seconds: shortest run of each.
        min_min: ratio of those.
        processor: ratio of the shortest processor times; on CUDA, of what the host does.
        median: median of the ratios of neighbouring runs.
        interval: bootstrap 95 % interval of the median.
        pairs: how many there were.
    """

    seconds: tuple[float, float]
    min_min: float
    processor: float
    median: float
    interval: tuple[float, float]
    pairs: int


def compare(base: Program, other: Program, pairs: int = 20, warm_up: int = 2) -> Ratio:
    """Time two programs in turn, A B | B A | A B ..., and return how much longer the second takes."""
    for _ in range(warm_up):
        base()
        other()
    times = np.empty((pairs, 2, 2))
    for k in range(pairs):
        for side in (0, 1) if k % 2 == 0 else (1, 0):
            times[k, side] = seconds((base, other)[side])
    ratios = times[:, 1, 0] / times[:, 0, 0]
    again = np.random.default_rng(0).choice(ratios, (2000, pairs))
    low, high = np.percentile(np.median(again, axis=1), (2.5, 97.5)).tolist()
    (a, host_a), (b, host_b) = times.min(axis=0).tolist()
    return Ratio((a, b), b / a, host_b / host_a, float(np.median(ratios)), (low, high), pairs)


def seconds(program: Program) -> tuple[float, float]:
    """How long one run takes, on CUDA between two events around it, and how much processor time it takes."""
    gc.collect()
    if not torch.cuda.is_initialized():
        busy, started = _processor(), time.perf_counter()
        program()
        return time.perf_counter() - started, _processor() - busy
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    busy = _processor()
    start.record()
    program()
    end.record()
    busy = _processor() - busy
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3, busy


def report(benchmark: str, case: str, *results: Counts | Ratio, **figures: Any) -> None:
    """Print one JSON line: what was measured, on which machine, and everything known about it."""
    line: dict[str, Any] = {"benchmark": benchmark, "case": case}
    for result in results:
        line |= asdict(result)
    print(json.dumps({**_rounded({**line, **figures}), "machine": machine()}), flush=True)


def machine() -> str:
    """The processor, how many threads are used, the GPU, and the versions that matter."""
    name, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.exists():
        models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    parts = [f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s)"]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join([*parts, f"torch {torch.__version__}", f"diffusers {diffusers.__version__}"])


def options(doc: str | None, **defaults: Any) -> argparse.Namespace:
    """Read `--full`, `--pairs` and the script's own options; keep torch on one thread and its output reproducible."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--full", action="store_true", help="models of full size with random weights, on the GPU")
    for name, default in {"pairs": 20, **defaults}.items():
        many = isinstance(default, Sequence) and not isinstance(default, str)
        kind = type(default[0] if many else default)
        parser.add_argument(f"--{name}", type=kind, default=default, nargs="*" if many else None)
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    return parser.parse_args()


def _processor() -> float:
    """Processor time of this process and of those it has run."""
    spent = os.times()
    return time.process_time() + spent.children_user + spent.children_system


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return {name: _rounded(item) for name, item in value.items()} if isinstance(value, dict) else value
