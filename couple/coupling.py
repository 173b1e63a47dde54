"""The pull: what the edges of a coupling add to the states, given everyone's clean prediction.

A pure function of tensors. It knows no pipeline and no scheduler, waits for no device, and draws no random
numbers:

    pull on an end = -sigma' * weight * gradient of the energy with respect to that end's x0        (paper Eq.
    8-9)

with sigma' and the weight taken at the level that end's own step lands on. Squared distances between whole
trajectories, rows, frames or crops have a closed form: differences along the edges where the graph is sparse
(two products and one difference for a pair), one centred matrix product where it is dense. Everything else
goes through autograd, one edge at a time.

Sums are made in a canonical order, by the ends' names and then by the order in which they were created, so
permuting the trajectories or the edges changes no bit. Components that no active edge joins never meet in one
operation: what is wrong in one (a NaN) stays there, and the numbers of one do not depend on the others.
Within a sparse component a NaN reaches the neighbours only; within a dense one, everybody.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from couple import weights
from couple.graph import Edge
from couple.maps import call
from couple.trajectory import Trajectory, View
from couple.weights import Level

# A piece of a trajectory's x0 that edges meet at: the trajectory and the slices that cut the piece out.
_Piece = tuple[Trajectory, tuple]
_Rows = dict[_Piece, dict[_Piece, list[float]]]


def pulls(
    x0s: Mapping[Trajectory, Tensor],
    edges: Iterable[Edge],
    levels: Mapping[Trajectory, Level],
    moving: Collection[Trajectory] | None = None,
) -> dict[Trajectory, Tensor]:
    """Return what to add to each trajectory's next state.

    Args:
        x0s: clean predictions with guidance applied, any shape and floating dtype; for every trajectory with
            an edge.
        edges: the coupling.
        levels: the level each trajectory's step lands on; for every trajectory that moves.
        moving: the trajectories whose step is being taken; all of `x0s` if None.

    Returns:
        By trajectory, a tensor of the shape and device of its x0: float32, or float64 where x0 is.
        Trajectories with no active edge are absent: none joined to them, the source of directed ones, weight
        exactly 0 (outside a window), or sigma' = 0 (the last step), where weights are not even evaluated.

    Raises:
        ValueError: the ends of an active edge differ in shape, an energy is not a scalar, a weight law
            returns something else than a finite number, 0 or more; or x0s lacks an end.

    Example:
        >>> from couple.graph import pair
        >>> a, b = Trajectory(print, name="a"), Trajectory(print, name="b")
        >>> x0s = {a: torch.tensor([1.0]), b: torch.tensor([3.0])}
        >>> level = Level(progress=0.5, alpha=0.8, sigma=0.5, log_snr=0.9, delta_log_snr=0.2)
        >>> pulls(x0s, pair(a, b, weight=0.5), {a: level, b: level})[a]
        tensor([0.5000])
    """
    moving = x0s.keys() if moving is None else moving
    sigmas = {t: levels[t].sigma for t in moving if t in levels}
    laws = _Laws(levels, sigmas)
    rows: _Rows = {}
    one_by_one: list[tuple[Edge, float, float]] = []
    with torch.no_grad():
        out = _Pulls(x0s, sigmas)
        ordered = sorted(edges, key=_edge_key)
        for edge in ordered:
            if weights.is_implicit(edge.weight):
                continue
            weight_a = 0.0 if edge.directed else laws(edge, edge.a.trajectory)
            weight_b = laws(edge, edge.b.trajectory)
            if weight_a == weight_b == 0:
                continue
            _check_known(edge, x0s)
            if edge.is_quadratic and edge.mask is None:
                _check_shapes(edge, out.piece(_piece(edge.a)), out.piece(_piece(edge.b)))
                _join(rows, _piece(edge.a), _piece(edge.b), weight_a)
                _join(rows, _piece(edge.b), _piece(edge.a), weight_b)
            else:
                one_by_one.append((edge, weight_a, weight_b))
        _solve_implicit(rows, [e for e in ordered if weights.is_implicit(e.weight)], levels, sigmas, out)
        for pieces in _components(rows):
            joined = {frozenset((i, j)) for i in pieces for j in rows.get(i, ())}
            if len(joined) <= len(pieces) or len(pieces) <= 4:
                _add_differences(rows, pieces, out)
            else:
                _add_product(rows, pieces, out)
        for edge, weight_a, weight_b in one_by_one:
            (_add_masked if edge.is_quadratic else _add_gradient)(edge, weight_a, weight_b, out)
        return out.by_trajectory


def energies(x0s: Mapping[Trajectory, Tensor], edges: Iterable[Edge]) -> dict[Edge, Tensor]:
    """Return each edge's energy before its weight, a scalar tensor on the device of its first end.

    Args:
        x0s: clean predictions, for every trajectory with an edge.
        edges: the coupling.

    Returns:
        By edge, a float32 scalar (float64 where x0 is), with the mask applied.

    Raises:
        ValueError: the ends of an edge differ in shape, or its energy is not a scalar.

    Example:
        >>> from couple.graph import pair
        >>> a, b = Trajectory(print, name="a"), Trajectory(print, name="b")
        >>> energies({a: torch.tensor([1.0]), b: torch.tensor([3.0])}, pair(a, b, weight=0.5)).popitem()[1]
        tensor(2.)
    """
    found = {}
    with torch.no_grad():
        for edge in edges:
            _check_known(edge, x0s)
            ends = [end(_at_least_float32(x0s[end.trajectory])) for end in (edge.a, edge.b)]
            found[edge] = _energy(edge, *ends)
    return found


class _Laws:
    """Evaluates each law once per level, and checks what it returns."""

    def __init__(self, levels: Mapping[Trajectory, Level], sigmas: Mapping[Trajectory, float]):
        self._levels = levels
        self._sigmas = sigmas
        self._known: dict[tuple[int, Trajectory], float] = {}

    def __call__(self, edge: Edge, end: Trajectory) -> float:
        if not self._sigmas.get(end):
            return 0.0
        key = id(edge.weight), end
        if key not in self._known:
            self._known[key] = _checked_weight(edge, weights.value(edge.weight, self._levels[end]), self._levels[end])
        return self._known[key]


class _Pulls:
    """The pulls under construction, and the pieces of x0 in working precision."""

    def __init__(self, x0s: Mapping[Trajectory, Tensor], sigmas: Mapping[Trajectory, float]):
        self.by_trajectory: dict[Trajectory, Tensor] = {}
        self.sigmas = sigmas
        self.x0s = x0s
        self._pieces: dict[_Piece, Tensor] = {}

    def whole(self, trajectory: Trajectory) -> Tensor:
        return self.piece((trajectory, ()))

    def piece(self, piece: _Piece) -> Tensor:
        if piece not in self._pieces:
            trajectory, slices = piece
            x0 = _at_least_float32(self.x0s[trajectory]) if not slices else self.whole(trajectory)
            for cut in slices:
                x0 = cut(x0)
            self._pieces[piece] = x0
        return self._pieces[piece]

    def add(self, piece: _Piece, direction: Tensor, scale: float) -> None:
        """Add `scale * direction` to the pull on a piece."""
        trajectory, slices = piece
        x0 = self.whole(trajectory)
        pull = self.by_trajectory.get(trajectory)
        if pull is None and not slices:
            self.by_trajectory[trajectory] = (direction if scale == 1 else direction * scale).to(x0)
            return
        if pull is None:
            pull = self.by_trajectory[trajectory] = torch.zeros_like(x0)
        for cut in slices:
            pull = cut(pull)
        pull.add_(direction.to(pull.device), alpha=scale)


def _join(rows: _Rows, end: _Piece, other: _Piece, weight: float) -> None:
    if weight:
        rows.setdefault(end, {}).setdefault(other, []).append(weight)


def _components(rows: _Rows) -> list[list[_Piece]]:
    """Sort the pieces into connected components, each in canonical order."""
    root: dict[_Piece, _Piece] = {}

    def find(piece: _Piece) -> _Piece:
        while root.setdefault(piece, piece) != piece:
            piece = root[piece] = root[root[piece]]
        return piece

    for end, others in rows.items():
        for other in others:
            root[find(end)] = find(other)
    grouped: dict[_Piece, list[_Piece]] = {}
    for piece in sorted(root, key=_piece_key):
        grouped.setdefault(find(piece), []).append(piece)
    return list(grouped.values())


def _coefficient(rows: _Rows, end: _Piece, other: _Piece, out: _Pulls) -> float:
    # fsum is exact, so the order in which parallel edges were given does not matter.
    return math.fsum(rows.get(end, {}).get(other, ())) * out.sigmas.get(end[0], 0.0)


def _add_differences(rows: _Rows, pieces: Sequence[_Piece], out: _Pulls) -> None:
    for i, end in enumerate(pieces):
        for other in pieces[i + 1 :]:
            towards, back = _coefficient(rows, end, other, out), _coefficient(rows, other, end, out)
            if towards or back:
                here = out.piece(end)
                difference = out.piece(other).to(here.device) - here
                if towards:
                    out.add(end, difference, towards)
                if back:
                    out.add(other, difference, -back)


def _add_product(rows: _Rows, pieces: Sequence[_Piece], out: _Pulls) -> None:
    pulled = [piece for piece in pieces if piece in rows]
    matrix = np.array([[_coefficient(rows, end, other, out) for other in pieces] for end in pulled])
    for row, end in zip(matrix, pulled, strict=True):
        row[pieces.index(end)] = -math.fsum(row)
    first = out.piece(pieces[0])
    states = torch.stack([out.piece(piece).to(first.device) for piece in pieces])
    # Centring keeps full precision near agreement, where a plain product loses all of it, and gives exact zeros there.
    states.sub_(first)
    coefficients = torch.tensor(matrix, dtype=states.dtype).to(states.device, non_blocking=True)
    with _full_precision(states.device):
        product = (coefficients @ states.flatten(1)).unflatten(1, first.shape)
    for piece, pull in zip(pulled, product.unbind(), strict=True):
        out.add(piece, pull, 1.0)


def _add_masked(edge: Edge, weight_a: float, weight_b: float, out: _Pulls) -> None:
    piece_a, piece_b = _piece(edge.a), _piece(edge.b)
    here, there = out.piece(piece_a), out.piece(piece_b)
    _check_shapes(edge, here, there)
    difference = (there.to(here.device) - here) * _mask(edge, here)
    if weight_a:
        out.add(piece_a, difference, weight_a * out.sigmas[piece_a[0]])
    if weight_b:
        out.add(piece_b, difference, -weight_b * out.sigmas[piece_b[0]])


def _add_gradient(edge: Edge, weight_a: float, weight_b: float, out: _Pulls) -> None:
    weighted = list(zip(edge.trajectories, (weight_a, weight_b), strict=True))
    with torch.inference_mode(False), torch.enable_grad(), _full_precision(out.whole(edge.trajectories[0]).device):
        leaves = [_leaf(out.whole(trajectory)).requires_grad_(weight > 0) for trajectory, weight in weighted]
        energy = _energy(edge, edge.a(leaves[0]), edge.b(leaves[1]))
        if not energy.requires_grad:
            raise ValueError(
                f"edge {edge.label}: the energy has no gradient in its arguments. Compute it with torch operations, "
                f"without .detach(), .item() or torch.no_grad()."
            )
        inputs = [leaf for leaf in leaves if leaf.requires_grad]
        gradients = iter(torch.autograd.grad(energy, inputs, allow_unused=True))
    for trajectory, weight in weighted:
        gradient = next(gradients) if weight else None
        if gradient is not None:
            out.add((trajectory, ()), gradient, -weight * out.sigmas[trajectory])


def _solve_implicit(
    rows: _Rows, edges: Sequence[Edge], levels: Mapping[Trajectory, Level], sigmas: Mapping[Trajectory, float],
    out: _Pulls,
) -> None:  # fmt: skip
    """Add the weights of the joint implicit step: the off-diagonal of (I + L)^-1, row by row."""
    for level in {levels[trajectory]: None for trajectory, sigma in sigmas.items() if sigma and edges}:
        strengths: _Rows = {}
        for edge in edges:
            strength = weights.strength(edge.weight, level)
            if strength:
                _check_known(edge, out.x0s)
                _check_shapes(edge, out.piece(_piece(edge.a)), out.piece(_piece(edge.b)))
                _join(strengths, _piece(edge.b), _piece(edge.a), strength)
                _join(strengths, _piece(edge.a), _piece(edge.b), 0.0 if edge.directed else strength)
        for pieces in _components(strengths):
            _check_apart(pieces, out)
            laplacian = np.zeros((len(pieces), len(pieces)))
            for i, end in enumerate(pieces):
                for other, parallel in strengths.get(end, {}).items():
                    laplacian[i, pieces.index(other)] -= math.fsum(parallel)
                laplacian[i, i] = -math.fsum(laplacian[i])
            solved = np.linalg.inv(np.eye(len(pieces)) + laplacian)
            if (laplacian == laplacian.T).all():
                solved = (solved + solved.T) / 2
            for i, end in enumerate(pieces):
                if end in strengths and sigmas.get(end[0]) and levels[end[0]] == level:
                    for j, other in enumerate(pieces):
                        _join(rows, end, other, float(solved[i, j]) if j != i else 0.0)


def _energy(edge: Edge, a: Tensor, b: Tensor) -> Tensor:
    _check_shapes(edge, a, b)
    b = b.to(a.device)
    if edge.mask is not None:
        root = _mask(edge, a).to(a.dtype).sqrt()
        a, b = root * a, root * b
    energy = edge.energy(a, b)
    if not isinstance(energy, Tensor):
        raise ValueError(f"edge {edge.label}: energy returned {energy!r:.80}; it must be a scalar tensor.")
    if energy.ndim:
        raise ValueError(
            f"edge {edge.label}: energy returned shape {tuple(energy.shape)}; it must be a scalar. Add .sum()."
        )
    return energy


def _mask(edge: Edge, x: Tensor) -> Tensor:
    mask = edge.mask
    assert mask is not None
    try:
        fits = torch.broadcast_shapes(mask.shape, x.shape) == x.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"edge {edge.label}: the mask has shape {tuple(mask.shape)} and does not broadcast to the ends' "
            f"{tuple(x.shape)}. Resize it, e.g. torch.nn.functional.interpolate(mask, {tuple(x.shape[-2:])})."
        )
    return mask.to(x.device)


def _leaf(x: Tensor) -> Tensor:
    # A tensor made in inference mode cannot be saved for the backward pass; its clone can.
    return x.clone() if x.is_inference() else x.detach()


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype in (torch.float32, torch.float64) else x.to(torch.float32)


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """No autocast and no TF32: a pull of a few thousandths is below their resolution."""
    precision = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def _piece(end: View) -> _Piece:
    return end.trajectory, end.maps


def _piece_key(piece: _Piece) -> tuple:
    return piece[0].name, piece[0].serial, repr(piece[1])


def _edge_key(edge: Edge) -> tuple:
    ends = [(end.trajectory.name, end.trajectory.serial, end.label) for end in (edge.a, edge.b)]
    return ends if edge.directed else sorted(ends), edge.serial


def _checked_weight(edge: Edge, weight: Any, level: Level) -> float:
    if not isinstance(weight, Real):
        raise ValueError(f"edge {edge.label}: its weight law returned {weight!r:.80}; it must return a number.")
    if not (math.isfinite(weight) and weight >= 0):
        raise ValueError(
            f"edge {edge.label}: its weight law returned {weight} at {level}; it must be finite, 0 or more."
        )
    return float(weight)


def _check_known(edge: Edge, x0s: Mapping[Trajectory, Tensor]) -> None:
    for trajectory in edge.trajectories:
        if trajectory not in x0s:
            raise ValueError(
                f"trajectory '{trajectory.name}' appears in an edge but not in the trajectories being sampled."
            )


def _check_shapes(edge: Edge, a: Tensor, b: Tensor) -> None:
    if a.shape == b.shape:
        return
    raise ValueError(
        f"edge {edge.label}: the ends have shapes {tuple(a.shape)} and {tuple(b.shape)}; an energy compares equal "
        f"shapes. Give one end {_fix(edge, a, b)}."
    )


def _fix(edge: Edge, a: Tensor, b: Tensor) -> str:
    if a.ndim != b.ndim:
        longer = edge.a if a.ndim > b.ndim else edge.b
        return f"a frame, e.g. {longer.trajectory.name}.frames(0)"
    if a.shape[1:] == b.shape[1:]:
        larger = edge.a if len(a) > len(b) else edge.b
        return f"a row, e.g. {larger.trajectory.name}[0]"
    return f"a map, e.g. {edge.b.trajectory.name}.through(maps.resize({a.shape[-2]}, {a.shape[-1]}))"


def _check_apart(pieces: Sequence[_Piece], out: _Pulls) -> None:
    for one, two in itertools.combinations(pieces, 2):
        if one[0] is not two[0]:
            continue
        cuts = one[1] + two[1]
        dims = {getattr(cut, "dim", None) for cut in cuts}
        if len(one[1]) == len(two[1]) == 1 and len(dims) == 1 and None not in dims:
            size = out.whole(one[0]).shape[dims.pop()]
            if cuts[0].k % size != cuts[1].k % size:
                continue
        raise ValueError(
            f"trajectory '{one[0].name}': an implicit weight is solved over ends that do not overlap, such as "
            f"different rows; {_write(one)} and {_write(two)} may. Use weights.relax(1.0) or a number here."
        )


def _write(piece: _Piece) -> str:
    return " through ".join(call(cut) for cut in piece[1]) or "the whole"
