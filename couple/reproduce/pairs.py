"""Several prompts sampled by one bundled model, apart or coupled: do the samples agree, and do they show their prompts?

Pictures of the text-to-image model (Fig. 7 of the paper), videos of the text-to-video model (Fig. 8), and graphs of
more than two pictures. Every sample is judged by a classifier that has seen renders only.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

import couple
from couple.bundled import COLOURS, MOTIONS, SHAPES, SPRITES
from couple.metrics.alignment import centroid_distance, mask_iou, object_mask
from couple.metrics.clips import ClipClassifier, path_distance
from couple.metrics.faithfulness import RenderClassifier
from couple.weights import Law

Words = tuple[str, ...]
"""What a prompt names: a colour, a shape, and of a video a motion."""


def image_prompts(count: int, seed: int, size: int = 2) -> list[tuple[Words, ...]]:
    """Sets of (colour, shape), `size` in each; two in a set differ in colour and shape, of more no two are the same."""
    generator = torch.Generator().manual_seed(seed)
    sets = []
    for _ in range(count):
        if size <= min(len(COLOURS), len(SHAPES)):
            chosen = zip(several(COLOURS, generator, size), several(SHAPES, generator, size), strict=True)
        else:
            chosen = several(tuple(itertools.product(COLOURS, SHAPES)), generator, size)
        sets.append(tuple(chosen))
    return sets


def video_prompts(count: int, seed: int) -> list[tuple[Words, ...]]:
    """Pairs of (colour, shape, motion) that differ in colour and shape; the motions come in turn."""
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for k in range(count):
        motion = MOTIONS[k % len(MOTIONS)]
        colours, shapes = several(COLOURS, generator, 2), several(SPRITES, generator, 2)
        pairs.append(tuple((colour, shape, motion) for colour, shape in zip(colours, shapes, strict=True)))
    return pairs


def several(names: Sequence[Any], generator: torch.Generator, count: int) -> list[Any]:
    """Different ones of some names."""
    return [names[i] for i in torch.randperm(len(names), generator=generator)[:count].tolist()]


def sampled(
    pipeline: Any,
    sets: Sequence[Sequence[Words]],
    weight: float | Law | None,
    settings: Mapping[str, Any],
    *,
    graph: str = "complete",
    shared_noise: bool = False,
    first: int = 0,
) -> list[Any]:
    """What the pipeline returns for the first prompts of all sets, for the second, and so on, each a batch.

    Args:
        pipeline: a text-to-image or text-to-video pipeline.
        sets: the words of the prompts, as many in each set.
        weight: of the edges within each set; None for no edges.
        settings: more call arguments.
        graph: who pulls on whom, "complete", "chain" or "star"; weights are divided by the largest degree.
        shared_noise: whether all prompts of a set start from one noise.
        first: number of the first set; each has noise of its own.
    """
    size = len(sets[0])
    nodes = [
        couple.Trajectory(
            pipeline,
            prompt=[f"a {' '.join(words[side])}" for words in sets],
            generator=[
                torch.Generator().manual_seed(size * (first + k) + (0 if shared_noise else side))
                for k in range(len(sets))
            ],
            output_type="pt",
            **settings,
        )
        for side in range(size)
    ]
    edges = []
    if weight is not None and graph == "star":
        edges = couple.star(nodes[0], nodes[1:], weight=weight, normalize=True)
    elif weight is not None:
        edges = {"complete": couple.complete, "chain": couple.chain}[graph](nodes, weight=weight, normalize=True)
    result = couple.sample(nodes, edges, progress=False)
    return [result[node] for node in nodes]


def image_scores(sets: Sequence[Sequence[Words]], pictures: Sequence[Tensor]) -> dict[str, list[float]]:
    """Scores of pictures, one tensor (sets, 3, H, W) in [0, 1] for each prompt of a set; one number a set.

    Returns:
        "distance" of the objects' centres in pixels and "iou" of their masks, means over all pairs in a set, and
        "accuracy", the share of pictures whose shape and colour are right.
    """
    masks = [object_mask(side) for side in pictures]
    pairs = list(itertools.combinations(masks, 2))
    judge = RenderClassifier.bundled()
    right = torch.stack(
        [
            torch.tensor([name == words[side] for name, words in zip(judge.name(drawn), sets, strict=True)])
            for side, drawn in enumerate(pictures)
        ]
    )
    return {
        "distance": torch.stack([centroid_distance(*pair) for pair in pairs]).mean(0).tolist(),
        "iou": torch.stack([mask_iou(*pair) for pair in pairs]).mean(0).tolist(),
        "accuracy": right.float().mean(0).tolist(),
    }


def video_scores(sets: Sequence[Sequence[Words]], videos: Sequence[Tensor]) -> dict[str, list[float]]:
    """Scores of pairs of videos, two tensors (pairs, F, 3, H, W) in [0, 1]; one number a pair.

    Returns:
        "distance" of the objects' centres in pixels, mean over frames; "colour", "shape" and "motion", shares of
        videos where it is right, and "accuracy", the share where all three are.
    """
    judge = ClipClassifier.bundled()
    right = torch.tensor(
        [
            [
                [a == b for a, b in zip(name, words[side], strict=True)]
                for name, words in zip(judge.name(film), sets, strict=True)
            ]
            for side, film in enumerate(videos)
        ]
    ).float()
    shares = {part: right[..., k].mean(0).tolist() for k, part in enumerate(("colour", "shape", "motion"))}
    return {
        "distance": path_distance(*videos).tolist(),
        **shares,
        "accuracy": right.prod(2).mean(0).tolist(),
    }
