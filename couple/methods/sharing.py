"""Which elements of which states are one and the same, and their averages.

Edges between trajectories, rows, frames and crops, with or without masks, join single elements of the states. Elements
that are joined, directly or over others, form a class; every class of two or more has an average and a leader, its
element in the trajectory that was created first. The rest is nobody's business but its own trajectory's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from couple import coupling
from couple.graph import Edge
from couple.trajectory import Trajectory


class Sharing:
    """The classes of elements that some edges make of some states.

    Args:
        edges: one or more, of squared distances between slices, with masks of zeros and ones.
        states: a tensor of the shape and on the device of its state, for every trajectory with an edge.
        shares: how much each trajectory counts in an average, up to a factor; 1 where it is not named.

    Attributes:
        trajectories: those with an edge, in the order of their creation, which settles the order of sums.

    Raises:
        ValueError: the ends of an edge differ in shape, a mask does not fit, or the shares of a class do not have a
            positive sum.
    """

    def __init__(
        self, edges: Sequence[Edge], states: Mapping[Trajectory, Tensor], shares: Mapping[Trajectory, float]
    ) -> None:
        """Find the classes."""
        coupling.energies(states, edges)  # refuses ends and masks that do not fit
        found = {trajectory for edge in edges for trajectory in edge.trajectories}
        self.trajectories = sorted(found, key=lambda trajectory: trajectory.serial)
        self._shapes = [states[trajectory].shape for trajectory in self.trajectories]
        self._sizes = [shape.numel() for shape in self._shapes]
        self._device = states[self.trajectories[0]].device
        members, alone = self._members(edges)
        share = torch.tensor([float(shares.get(t, 1.0)) for t in self.trajectories], dtype=torch.float64)
        parts = share.repeat_interleave(torch.tensor(self._sizes))[members].masked_fill(alone, 0.0)
        total = parts.sum(1, keepdim=True)
        if not bool((total > 0).all()):
            names = ", ".join(f"{t.name!r}: {shares.get(t, 1.0):g}" for t in self.trajectories)
            raise ValueError(f"`shares` must have a positive sum over all that share an element; got {names}.")
        self._class, self._parts = members.to(self._device), (parts / total).to(self._device)

    def _members(self, edges: Sequence[Edge]) -> tuple[Tensor, Tensor]:
        """Return the elements of each class, (classes, largest), and where a row repeats its last to fill up."""
        labels = torch.cat([label.flatten() for label in self._labels(edges)])
        counts = torch.unique(labels, return_counts=True)[1]
        ends = counts.cumsum(0)
        shared = counts > 1
        first, count = (ends - counts)[shared, None], counts[shared, None]
        place = torch.arange(int(counts.max()))[None]
        order = labels.argsort(stable=True)
        return order[first + place.minimum(count - 1)], place >= count

    def _labels(self, edges: Sequence[Edge]) -> Iterable[Tensor]:
        """Number all elements of all states, and give joined ones the lowest number among them."""
        numbers = torch.arange(sum(self._sizes)).split(self._sizes)
        labels = {t: n.view(shape) for t, n, shape in zip(self.trajectories, numbers, self._shapes, strict=True)}
        changed = True
        while changed:
            changed = False
            for edge in edges:
                ends = [end(labels[end.trajectory]) for end in (edge.a, edge.b)]
                lowest = torch.minimum(*ends)
                for end in ends:
                    joined = lowest if edge.mask is None else torch.where(edge.mask.bool().cpu(), lowest, end)
                    changed |= not torch.equal(joined, end)
                    end.copy_(joined)
        return labels.values()

    def average(self, values: Mapping[Trajectory, Tensor]) -> dict[Trajectory, Tensor]:
        """Replace every shared element by the average of its class, weighted by shares.

        Args:
            values: floating, of the shapes of the states; at least for `trajectories`.

        Returns:
            For each of `trajectories` a new tensor of the shape, dtype and device it came with.
        """

        def mean(members: list[Tensor]) -> Tensor:
            total = members[0].clone()
            for member, part in zip(members[1:], self._parts.unbind(1)[1:], strict=True):
                # Centred on the first: what agrees already is not changed by a bit.
                total += part.to(total.dtype) * (member - members[0])
            return total

        return self._replaced(values, mean)

    def led(self, values: Mapping[Trajectory, Tensor]) -> dict[Trajectory, Tensor]:
        """Replace every shared element by the leader's; arguments and result as those of `average`."""
        return self._replaced(values, lambda members: members[0])

    @torch.no_grad()
    def _replaced(
        self, values: Mapping[Trajectory, Tensor], new: Callable[[list[Tensor]], Tensor]
    ) -> dict[Trajectory, Tensor]:
        given = [values[trajectory] for trajectory in self.trajectories]
        flat = torch.cat([value.to(self._device).flatten() for value in given])
        if self._class.numel():
            flat[self._class] = new([flat[column] for column in self._class.unbind(1)])[:, None]
        pieces = zip(self.trajectories, given, flat.split(self._sizes), self._shapes, strict=True)
        return {t: piece.view(shape).to(value, copy=True) for t, value, piece, shape in pieces}


def components(edges: Iterable[Edge]) -> list[tuple[Edge, ...]]:
    """Split edges into those of each connected component, in the order of the trajectories created first."""
    groups: list[tuple[set[Trajectory], list[Edge]]] = []
    for edge in edges:
        ends, joined = set(edge.trajectories), [edge]
        apart = []
        for group in groups:
            if ends.isdisjoint(group[0]):
                apart.append(group)
            else:
                ends, joined = ends | group[0], group[1] + joined
        groups = [*apart, (ends, joined)]
    groups.sort(key=lambda group: min(trajectory.serial for trajectory in group[0]))
    return [tuple(joined) for _, joined in groups]
