"""What does a coupled pair take in memory, and how often do its weights cross to the device?

Rows: every placement, for one trajectory and for two, with merged forwards and without; and two stock calls under the
same group offload, one after the other. `passages` is what a step brings over the bytes that are streamed: stock
pays one for each trajectory and branch of guidance; float8 counts for what it is, a quarter or half. Only a GPU has a
memory of its own and moves in time: there `peak` is the most that was allocated, `pair_over_one` how much of it the
second trajectory costs, and `efficiency` the time of a streamed step over the larger of its two halves, moving the
weights alone and the resident step.

    python -m benchmarks.offload --subjects flux sd21 wan
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers.hooks import HookRegistry, apply_group_offloading

import couple
from benchmarks import harness
from benchmarks.models import SUBJECTS, Subject
from couple.memory import Placement, Report
from couple.memory.streaming import Group, Stream, size, tensors

STEPS = (2, 4)


def sampled(subject: Subject, count: int, steps: int, placement: Placement | None, max_batch: int | None) -> Any:
    """Run coupled trajectories and return the result."""
    members = subject.trajectories(count, num_inference_steps=steps)
    edges = couple.chain(members, weight=0.05) if count > 1 else []
    return couple.sample(members, edges, placement=placement, max_batch=max_batch, progress=False)


def stock(subject: Subject, count: int, steps: int, moved: Callable[[int], None]) -> None:
    """Make stock calls one after the other under diffusers' own group offload, and count what it moves."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    streams = device.type == "cuda"
    home = next(subject.network.parameters()).device
    apply_group_offloading(
        subject.network,
        onload_device=device,
        num_blocks_per_group=1,
        use_stream=streams,
        record_stream=streams,
    )
    hooks = [m._diffusers_hook.get_hook("group_offloading") for m in blocks(subject)]
    for hook in hooks:
        # The counting version; no forward runs beside another here, so it moves what the stock one moves.
        Group.take(hook.group, moved)
    try:
        for k in range(count):
            subject.pipeline(**subject.call(k, num_inference_steps=steps))
    finally:
        registry = HookRegistry.check_if_exists_or_initialize(subject.network)
        for name in ("group_offloading", "layer_execution_tracker", "lazy_prefetch_group_offloading"):
            registry.remove_hook(name, recurse=True)
        subject.network.to(home)


def blocks(subject: Subject) -> list[Any]:
    """The layers that are streamed as one."""
    lists = (child for child in subject.network.children() if isinstance(child, torch.nn.ModuleList))
    return [block for child in lists for block in child]


def measured(program: Callable[[], Any]) -> tuple[Any, float, int | None]:
    """Run once; return what came of it, the seconds and the most bytes that were allocated on a GPU."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    results: list[Any] = []
    wall, _ = harness.seconds(lambda: results.append(program()))
    return results[0], wall, torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None


def transfer(subject: Subject) -> float:
    """Seconds to bring all blocks once, with nothing to compute."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    stream = Stream(subject.network, device, leaves=False, keep=0, arrived=lambda _: None)

    def bring() -> None:
        for group in stream._groups:
            group.onload_()
            group.release()

    try:
        bring()
        return harness.seconds(bring)[0]
    finally:
        stream.close()
        stream.go_home()


def main() -> None:
    """Print one JSON line a row."""
    chosen = harness.options(__doc__, subjects=[*SUBJECTS])
    for name in chosen.subjects:
        subject = SUBJECTS[name](chosen.full)
        weights = size(tensors(subject.network))
        streamed = sum(size(tensors(block)) for block in blocks(subject))
        moving = transfer(subject) if torch.cuda.is_available() else 0.0
        placements = {
            "resident": Placement("resident"),
            "streamed": Placement("stream"),
            "half stays": Placement("stream", budget=_half(subject)),
            "streamed, float8": Placement("stream", fp8=True),
        }
        resident = 0.0
        for case, placement in placements.items():
            for max_batch in (None, 1):
                peaks: list[int | None] = []
                for count in (1, 2):
                    runs = [measured(partial(sampled, subject, count, steps, placement, max_batch)) for steps in STEPS]
                    reports: list[Report] = [result.placement for result, _, _ in runs]
                    step = (reports[1].moved - reports[0].moved) / (STEPS[1] - STEPS[0])
                    wall = (runs[1][1] - runs[0][1]) / (STEPS[1] - STEPS[0])
                    peaks.append(runs[1][2])
                    if case == "resident" and max_batch is None:
                        resident = wall
                    figures = {
                        "passages": step / streamed,
                        "bytes_a_step": step,
                        "weights": weights,
                        "plan": reports[1].plan,
                    }
                    if torch.cuda.is_available():
                        figures |= {"seconds_a_step": wall, "peak": peaks[-1]}
                    if count == 2 and peaks[0] is not None and peaks[1] is not None:
                        figures["pair_over_one"] = peaks[1] - peaks[0]
                    if case == "streamed" and count == 2 and torch.cuda.is_available():
                        figures["efficiency"] = wall / max(moving, resident)
                    harness.report("offload", f"{name}: {case}, {count} trajectories, max_batch={max_batch}", **figures)
        for count in (1, 2):
            moved: list[list[int]] = [[], []]
            for steps, into in zip(STEPS, moved, strict=True):
                stock(subject, count, steps, into.append)
            step = (sum(moved[1]) - sum(moved[0])) / (STEPS[1] - STEPS[0])
            harness.report("offload", f"{name}: {count} stock calls, group offload", passages=step / streamed)


def _half(subject: Subject) -> int:
    """The budget at which half of the weights stay."""
    from couple import memory
    from couple.memory.streaming import floor

    members = subject.trajectories(2)
    plan = memory.planned(Placement("stream", budget=2**50), members, [subject.network], None)
    return plan.working[subject.network] + floor(subject.network, False) + size(tensors(subject.network)) // 2


if __name__ == "__main__":
    main()
