"""Does the cost of a trajectory, or of a view, stay the same however many are coupled, and in whatever graph?

N trajectories against N runs of one, in disjoint pairs, a chain and a complete graph, at a fixed `max_batch`; two
trajectories of V rows joined row by row, as editors are joined to multi-view models, against the same without edges;
and what a complete graph of 64 nodes costs at Flux's size: the pull itself is timed, the forwards are counted on the
meta device and set against the speed of a matrix product of Flux's width on this machine.

    python -m benchmarks.scaling --nodes 1 2 4 8 16 32 64 --views 1 4 16 64
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from diffusers import FluxTransformer2DModel
from torch.utils.flop_counter import FlopCounterMode

import couple
from benchmarks import harness
from benchmarks.models import Subject, flux, stable_diffusion
from couple import coupling
from couple.weights import Level

Graph = Callable[[Sequence[couple.Trajectory]], list[couple.Edge]]


def pairs(nodes: Sequence[couple.Trajectory]) -> list[couple.Edge]:
    """Each two neighbours, apart from all others."""
    return [couple.Edge(a, b, weight=0.01) for a, b in zip(nodes[::2], nodes[1::2], strict=False)]


GRAPHS: dict[str, Graph] = {
    "pairs": pairs,
    "chain": lambda nodes: couple.chain(nodes, weight=0.01, normalize=True),
    "complete": lambda nodes: couple.complete(nodes, weight=0.01, normalize=True),
}


def trajectories(subject: Subject, count: int, graph: Graph) -> tuple[harness.Program, harness.Program]:
    """As many runs of one trajectory, and one run of all."""

    def one_by_one() -> None:
        for node in subject.trajectories(count):
            couple.sample([node], max_batch=1, progress=False)

    def coupled() -> None:
        nodes = subject.trajectories(count)
        couple.sample(nodes, graph(nodes) if count > 1 else [], max_batch=1, progress=False)

    return one_by_one, coupled


def views(subject: Subject, count: int) -> tuple[harness.Program, harness.Program]:
    """Two trajectories of several rows, without and with an edge a row."""

    def run(weight: float | None) -> None:
        a, b = subject.trajectories(2, num_images_per_prompt=count)
        edges = [] if weight is None else [couple.Edge(a[k], b[k], weight=weight) for k in range(count)]
        couple.sample([a, b], edges, progress=False)

    return lambda: run(None), lambda: run(0.01)


def flux_flops() -> int:
    """Floating-point operations of one forward of FLUX.1-dev at 1024 x 1024."""
    with torch.device("meta"), FlopCounterMode(display=False) as flops:
        FluxTransformer2DModel(guidance_embeds=True)(
            hidden_states=torch.empty(1, 4096, 64),
            encoder_hidden_states=torch.empty(1, 512, 4096),
            pooled_projections=torch.empty(1, 768),
            timestep=torch.empty(1),
            guidance=torch.empty(1),
            img_ids=torch.empty(4096, 3),
            txt_ids=torch.empty(512, 3),
        )
    return flops.get_total_flops()


def share(count: int, device: str) -> dict[str, float]:
    """Seconds of the pull on a complete graph of Flux states, and of the forwards of a step; the share of the pull."""
    nodes = [couple.Trajectory(print, name=f"{k}") for k in range(count)]
    edges = couple.complete(nodes, weight=0.01, normalize=True)
    level = Level(progress=0.5, alpha=0.5, sigma=0.5, log_snr=0.0, delta_log_snr=0.1)
    large, small = ({node: torch.randn(*shape, device=device) for node in nodes} for shape in ((1, 4096, 64), (1, 1)))

    def shortest(program: harness.Program, times: int) -> float:
        return min(harness.seconds(program)[0] for _ in range(times))

    levels = dict.fromkeys(nodes, level)
    pull = shortest(lambda: coupling.pulls(large, edges, levels), 10)
    host = shortest(lambda: coupling.pulls(small, edges, levels), 10)
    a = torch.randn(4608, 3072, device=device, dtype=torch.bfloat16 if device == "cuda" else torch.float32)
    b = torch.randn(3072, 3072, device=device, dtype=a.dtype)
    rate = 2 * 4608 * 3072 * 3072 / shortest(lambda: a @ b, 5)
    step = count * flux_flops() / rate
    figures = {"pull_seconds": pull, "pull_seconds_without_tensors": host, "flops_a_second": rate}
    return {**figures, "forward_seconds": step, "share": pull / (step + pull)}


def main() -> None:
    """Print one JSON line a graph and size."""
    chosen = harness.options(__doc__, nodes=[1, 2, 4, 8, 16, 32, 64], views=[1, 4, 16, 64], steps=4)
    subject = flux(chosen.full, num_inference_steps=chosen.steps)
    for name, graph in GRAPHS.items():
        for count in chosen.nodes:
            base, coupled = trajectories(subject, count, graph)
            counts, ratio = harness.count(coupled, [subject.network]), harness.compare(base, coupled, chosen.pairs, 1)
            harness.report("scaling", f"flux: {count} trajectories, {name}", ratio, counts)
    size = {} if chosen.full else {"height": 64, "width": 64}
    subject = stable_diffusion(chosen.full, num_inference_steps=chosen.steps, **size)
    for count in chosen.views:
        base, coupled = views(subject, count)
        counts, ratio = harness.count(coupled, [subject.network]), harness.compare(base, coupled, chosen.pairs, 1)
        harness.report("scaling", f"sd21: 2 trajectories of {count} views", ratio, counts)
    harness.report("scaling", "flux: 64 nodes, complete, 1024 x 1024", **share(64, "cuda" if chosen.full else "cpu"))


if __name__ == "__main__":
    main()
