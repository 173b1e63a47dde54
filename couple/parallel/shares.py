"""Who works on what: trajectories divided among several ranks."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Sequence

from couple import hooks
from couple.graph import Edge
from couple.trajectory import Trajectory


def divide(trajectories: Sequence[Trajectory], edges: Sequence[Edge], ranks: int) -> dict[Trajectory, int]:
    """Give each trajectory a rank so that the busiest rank has as little to do as possible.

    The trajectories are put in a row, linked ones side by side, and the row is cut: what a rank gets are neighbours,
    whose forwards can be merged and whose predictions need not travel. A call is taken to cost its steps times the
    parameters of its networks.

    Args:
        trajectories: at least as many as there are ranks.
        edges: the coupling.
        ranks: how many there are.

    Returns:
        The rank of each trajectory, from 0, in the order given. The same on every process.

    Example:
        >>> from couple.graph import chain
        >>> row = [Trajectory(print, name=name) for name in "abcd"]
        >>> divide(row, chain([row[0], row[2], row[1], row[3]], weight=1.0), 2).values()
        dict_values([0, 1, 0, 1])
    """
    row = _in_a_row(trajectories, edges)
    pieces = _cut([_cost(trajectory) for trajectory in row], ranks)
    owners = dict(zip(row, (rank for rank, length in enumerate(pieces) for _ in range(length)), strict=True))
    return {trajectory: owners[trajectory] for trajectory in trajectories}


def _in_a_row(trajectories: Sequence[Trajectory], edges: Sequence[Edge]) -> list[Trajectory]:
    """Breadth first along the edges, from the first trajectory of every connected part."""
    neighbours: dict[Trajectory, list[Trajectory]] = {trajectory: [] for trajectory in trajectories}
    for edge in edges:
        a, b = edge.a.trajectory, edge.b.trajectory
        neighbours[a].append(b)
        neighbours[b].append(a)
    found: dict[Trajectory, None] = {}
    for start in trajectories:
        if start in found:
            continue
        queue = [start]
        found[start] = None
        for trajectory in queue:
            new = [other for other in dict.fromkeys(neighbours[trajectory]) if other not in found]
            found.update(dict.fromkeys(new))
            queue += new
    return list(found)


def _cut(costs: Sequence[float], pieces: int) -> list[int]:
    """Return the lengths of the pieces of a row, none empty, of which the dearest is as cheap as possible."""
    up_to = [0.0, *itertools.accumulate(costs)]
    # By how many trajectories are in the pieces so far: the dearest piece, and their lengths.
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}
    for piece in range(1, pieces + 1):
        best = {
            end: min(
                (max(best[start][0], up_to[end] - up_to[start]), [*best[start][1], end - start])
                for start in best
                if start < end
            )
            for end in range(piece, len(costs) - pieces + piece + 1)
        }
    return best[len(costs)][1]


def _cost(trajectory: Trajectory) -> float:
    call = inspect.signature(type(trajectory.pipeline).__call__)
    bound = call.bind(trajectory.pipeline, **trajectory.call_kwargs)
    bound.apply_defaults()
    steps = bound.arguments.get("num_inference_steps")
    networks = hooks.networks(trajectory.pipeline)
    parameters = sum(parameter.numel() for network in networks for parameter in network.parameters())
    return (steps if isinstance(steps, int) else 1) * max(parameters, 1)
