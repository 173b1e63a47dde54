"""From a checked command line to trajectories, their edges and the arguments of their calls.

The uncoupled samples are trajectories without an edge in the same run: the rows differ by the coupling and by nothing
else, and one progress bar covers both.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

import couple
from couple import Edge, Trajectory, weights
from couple.backends import flux
from couple.cli.options import Options, Request

ROWS = ("uncoupled", "coupled")


def weight_law(options: Options) -> weights.Law:
    """The weight that --weight, --law and --until make together."""
    law = getattr(weights, options.law)(options.weight)
    return law if options.until == 1 else weights.window(law, 0.0, options.until)


def trajectories(pipeline: Any, request: Request, settings: Mapping[str, Any]) -> dict[str, list[Trajectory]]:
    """For each row one trajectory a prompt, from the same seeds."""
    return {
        row: [
            Trajectory(
                pipeline,
                name=f"{prompt} ({row})",
                prompt=prompt,
                generator=torch.Generator().manual_seed(request.seed + i),
                **settings,
            )
            for i, prompt in enumerate(request.prompts)
        ]
        for row in ROWS
    }


def edges(request: Request, nodes: Sequence[Trajectory]) -> list[Edge]:
    """The edges of --graph between the trajectories."""
    weight = weight_law(request)
    if request.graph == "pair":
        return couple.pair(*nodes, weight=weight)
    if request.graph == "star":
        return couple.star(nodes[0], nodes[1:], weight=weight, normalize=True)
    return getattr(couple, request.graph)(nodes, weight=weight, normalize=True)


def joined(edges: Sequence[Edge], nodes: Sequence[Trajectory]) -> list[list[int]]:
    """For each edge the two numbers of the trajectories it joins."""
    return [[nodes.index(node) for node in edge.trajectories] for edge in edges]


def call_settings(pipeline: Any, request: Request, defaults: Mapping[str, Any], size_multiple: int) -> dict[str, Any]:
    """What the pipeline is called with beside prompt and generator: the defaults, and over them what was asked.

    Raises:
        ValueError: If the size asked for is not made of multiples of `size_multiple` pixels.
    """
    settings = dict(defaults)
    if request.steps is not None:
        settings["num_inference_steps"] = request.steps
    if request.guidance is not None:
        settings |= flux.guidance_kwargs(pipeline, request.guidance)
    if request.size is not None:
        settings["width"], settings["height"] = request.size
        if any(length % size_multiple for length in request.size):
            fitting = "x".join(str(max(round(length / size_multiple), 1) * size_multiple) for length in request.size)
            raise ValueError(
                f"--size {request.size[0]}x{request.size[1]}: this model's width and height are multiples of "
                f"{size_multiple}; try --size {fitting}."
            )
    return settings
