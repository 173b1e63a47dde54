"""Pulls of squared distances in closed form: a graph of pieces, split into components, solved and added up.

A piece is what edges meet at: a trajectory and the slices (rows, frames, crops) that cut the piece out of its
x0. `Graph` collects who is pulled towards whom and how strongly; `Pulls` holds the sums. What edges, energies
and laws mean is `couple.coupling`'s business.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from couple.maps import call
from couple.trajectory import Trajectory, noted

Piece = tuple[Trajectory, tuple]


class Pulls:
    """The pulls under construction, and the pieces of x0 in working precision.

    Attributes:
        by_trajectory: the sums so far; only of trajectories that something was added to.
    """

    def __init__(self, x0s: Mapping[Trajectory, Tensor]):
        """Start from no pulls at all."""
        self.by_trajectory: dict[Trajectory, Tensor] = {}
        self._x0s = x0s
        self._pieces: dict[Piece, Tensor] = {}

    def whole(self, trajectory: Trajectory) -> Tensor:
        """Return a trajectory's x0 in float32, or float64 if it is."""
        return self.piece((trajectory, ()))

    def piece(self, piece: Piece) -> Tensor:
        """Return a piece of x0, a slice of `whole`."""
        if piece not in self._pieces:
            trajectory, slices = piece
            x0 = self.whole(trajectory) if slices else at_least_float32(self._x0s[trajectory])
            with noted(f"trajectory {trajectory.name!r} through {', '.join(map(call, slices))}"):
                for cut in slices:
                    x0 = cut(x0)
            self._pieces[piece] = x0
        return self._pieces[piece]

    def add(self, piece: Piece, direction: Tensor, scale: float = 1.0) -> None:
        """Add `scale * direction` to the pull on a piece."""
        trajectory, slices = piece
        pull = self.by_trajectory.get(trajectory)
        if pull is None and not slices:
            scaled = direction if scale == 1 else direction * scale
            self.by_trajectory[trajectory] = scaled.to(self.whole(trajectory))
            return
        if pull is None:
            pull = self.by_trajectory[trajectory] = torch.zeros_like(self.whole(trajectory))
        for cut in slices:
            pull = cut(pull)
        pull.add_(direction.to(pull.device), alpha=scale)


class Graph:
    """Weights with which pieces are pulled towards each other, row by row: the two directions may differ."""

    def __init__(self):
        """Start without links."""
        self._rows: dict[Piece, dict[Piece, list[float]]] = {}

    def link(self, end: Piece, other: Piece, weight: float) -> None:
        """Pull `end` towards `other`; weights of parallel links add up, 0 is no link."""
        if weight:
            self._rows.setdefault(end, {}).setdefault(other, []).append(weight)

    def weight(self, end: Piece, other: Piece) -> float:
        """Return the weight with which `end` is pulled towards `other`."""
        # fsum is exact, so the order in which parallel links were made does not matter.
        return math.fsum(self._rows.get(end, {}).get(other, ()))

    def components(self) -> list[list[Piece]]:
        """Return the connected components, each in canonical order."""
        neighbours: dict[Piece, set[Piece]] = {}
        for end, others in self._rows.items():
            for other in others:
                neighbours.setdefault(end, set()).add(other)
                neighbours.setdefault(other, set()).add(end)
        components = []
        while neighbours:
            component = {next(iter(neighbours))}
            frontier = list(component)
            while frontier:
                new = neighbours.pop(frontier.pop()) - component
                component |= new
                frontier += new
            components.append(sorted(component, key=lambda piece: (piece[0].name, piece[0].serial, repr(piece[1]))))
        return components

    def add_to(self, out: Pulls) -> None:
        """Add what the links pull, component by component."""
        for pieces in self.components():
            joined = {frozenset((end, other)) for end in pieces for other in self._rows.get(end, ())}
            if len(joined) <= len(pieces) or len(pieces) <= 4:
                self._add_differences(pieces, joined, out)
            else:
                self._add_product(pieces, out)

    def implicit(self, out: Pulls) -> Iterator[tuple[Piece, Piece, float]]:
        """Yield the links of the joint implicit step that has these weights as strengths.

        With L the Laplacian of the strengths, the step is `L (I + L)^-1 x0`. Its rows sum to zero, so it is a
        pull along links again, weighted by the off-diagonal of `(I + L)^-1`.
        """
        for pieces in self.components():
            _check_apart(pieces, out)
            laplacian = -self._matrix(pieces, pieces)
            inverse = np.linalg.inv(np.eye(len(pieces)) + laplacian)
            if (laplacian == laplacian.T).all():
                inverse = (inverse + inverse.T) / 2
            for i, j in itertools.permutations(range(len(pieces)), 2):
                if pieces[i] in self._rows:
                    yield pieces[i], pieces[j], float(inverse[i, j])

    def _matrix(self, ends: Sequence[Piece], others: Sequence[Piece]) -> np.ndarray:
        """Return the weights as a matrix with rows that sum to zero."""
        matrix = np.array([[self.weight(end, other) for other in others] for end in ends])
        for row, end in zip(matrix, ends, strict=True):
            row[others.index(end)] = -math.fsum(row)
        return matrix

    def _add_differences(self, pieces: Sequence[Piece], joined: set[frozenset[Piece]], out: Pulls) -> None:
        for end, other in itertools.combinations(pieces, 2):
            if frozenset((end, other)) not in joined:
                continue
            here = out.piece(end)
            difference = out.piece(other).to(here.device) - here
            for piece, weight in ((end, self.weight(end, other)), (other, -self.weight(other, end))):
                if weight:
                    out.add(piece, difference, weight)

    def _add_product(self, pieces: Sequence[Piece], out: Pulls) -> None:
        pulled = [piece for piece in pieces if piece in self._rows]
        first = out.piece(pieces[0])
        states = torch.stack([out.piece(piece).to(first.device) for piece in pieces])
        # Centred, because near agreement a plain product keeps no correct digit; at agreement this is exactly zero.
        states.sub_(first)
        coefficients = torch.tensor(self._matrix(pulled, pieces), dtype=states.dtype).to(
            states.device, non_blocking=True
        )
        with full_precision(states.device):
            product = (coefficients @ states.flatten(1)).unflatten(1, first.shape)
        for piece, pull in zip(pulled, product.unbind(), strict=True):
            out.add(piece, pull)


def at_least_float32(x: Tensor) -> Tensor:
    """Return x as float32, or as it is if it is float32 or float64."""
    return x if x.dtype in (torch.float32, torch.float64) else x.to(torch.float32)


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Keep autocast and TF32 out: a pull of a few thousandths is below their resolution."""
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, enabled=False))
        backends: Any = torch.backends
        for kind in (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv):
            stack.callback(setattr, kind, "fp32_precision", kind.fp32_precision)
            kind.fp32_precision = "ieee"
        yield


def _check_apart(pieces: Sequence[Piece], out: Pulls) -> None:
    for (trajectory, one), (other, two) in itertools.combinations(pieces, 2):
        if trajectory is not other or _apart(one, two, out.whole(trajectory)):
            continue
        one, two = (" through ".join(map(call, slices)) or "the whole" for slices in (one, two))
        raise ValueError(
            f"trajectory '{trajectory.name}': an implicit weight is solved over ends that do not overlap, such as "
            f"different rows; {one} and {two} may. Use weights.relax(1.0) or a number here."
        )


def _apart(one: tuple, two: tuple, x0: Tensor) -> bool:
    if len(one) != 1 or len(two) != 1 or not hasattr(one[0], "dim") or type(one[0]) is not type(two[0]):
        return False
    dim = one[0].dim
    return dim == two[0].dim and (one[0].k - two[0].k) % x0.shape[dim] != 0
