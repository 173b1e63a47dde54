"""What does one forward for several trajectories save, by how many it serves and by resolution?

Where a device waits for launches, which is where pictures are small, more rows a forward are nearly free; where it
computes all the time they cost what they cost apart, and should cost no more. Each row is compared with unmerged
forwards of the same coupled trajectories; and a merged pair, and one stock call of two prompts, with two stock calls.

    python -m benchmarks.batching --subject flux --sides 64 128 256 512
"""

from __future__ import annotations

import couple
from benchmarks import harness, overhead
from benchmarks.models import SUBJECTS, Subject


def merging(subject: Subject, count: int, side: int, max_batch: int) -> harness.Program:
    """A complete graph of trajectories at one resolution."""

    def run() -> None:
        nodes = subject.trajectories(count, height=side, width=side)
        edges = couple.complete(nodes, weight=0.01, normalize=True)
        couple.sample(nodes, edges, max_batch=max_batch, progress=False)

    return run


def main() -> None:
    """Print one JSON line a resolution and batch."""
    sizes = {"sides": [64, 128, 256, 512], "batches": [2, 4]}
    chosen = harness.options(__doc__, subject="flux", trajectories=4, steps=4, **sizes)
    subject = SUBJECTS[chosen.subject](chosen.full, num_inference_steps=chosen.steps)
    for side in chosen.sides:
        apart = merging(subject, chosen.trajectories, side, 1)
        for batch in chosen.batches:
            merged = merging(subject, chosen.trajectories, side, batch)
            counts, ratio = harness.count(merged, [subject.network]), harness.compare(apart, merged, chosen.pairs)
            each = ratio.seconds[1] / chosen.trajectories / chosen.steps
            case = f"{chosen.subject}: {side} x {side}, max_batch={batch} over 1"
            harness.report("batching", case, ratio, counts, seconds_a_trajectory_and_step=each)
        single = SUBJECTS[chosen.subject](chosen.full, height=side, width=side)
        rows = overhead.programs(single)
        apart, pair = rows["pair over two stock calls"]
        together, _ = rows["pair over one stock call of two prompts"]
        for name, program in {"a pair": pair, "one stock call of two prompts": together}.items():
            counts, ratio = harness.count(program, [single.network]), harness.compare(apart, program, chosen.pairs)
            harness.report("batching", f"{chosen.subject}: {side} x {side}, {name} over two stock calls", ratio, counts)


if __name__ == "__main__":
    main()
