"""Pairs of prompts sampled by one bundled model, apart or coupled: what the alignment benchmarks have in common."""

from typing import Any

import torch

import couple
from couple.weights import Law


def two(names: tuple[str, ...], generator: torch.Generator) -> list[str]:
    """Two different names."""
    return [names[i] for i in torch.randperm(len(names), generator=generator)[:2].tolist()]


def sampled(pipeline, pairs, weight: Law | None, settings: dict[str, Any], shared_noise: bool = False) -> list[Any]:
    """What the pipeline returns for the first and for the second prompts of all pairs, each a batch.

    Args:
        pipeline: a text-to-image or text-to-video pipeline.
        pairs: the words of both prompts of each pair.
        weight: of the edge; None for no edge.
        settings: more call arguments.
        shared_noise: whether both prompts of a pair start from one noise.
    """
    nodes = [
        couple.Trajectory(
            pipeline,
            prompt=[f"a {' '.join(pair[side])}" for pair in pairs],
            generator=[torch.Generator().manual_seed(2 * k + (0 if shared_noise else side)) for k in range(len(pairs))],
            output_type="pt",
            **settings,
        )
        for side in (0, 1)
    ]
    edges = [] if weight is None else couple.pair(*nodes, weight=weight)
    result = couple.sample(nodes, edges, progress=False)
    return [result[node] for node in nodes]
