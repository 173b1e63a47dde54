"""The pull: what the edges of a coupling add to the states, given everyone's clean prediction.

A pure function of tensors. It knows no pipeline and no scheduler, waits for no device, and draws no random
numbers:

    pull on an end = -sigma' * weight * gradient of the energy with respect to that end's x0      (paper Eq. 8-9)

with sigma' and the weight taken at the level that end's own step lands on. Squared distances between whole
trajectories, rows, frames or crops have a closed form (`couple.quadratic`): differences along the edges where
the graph is sparse, so one difference and two products for a pair; one centred matrix product where it is
dense. Everything else goes through autograd, one edge at a time.

Sums are made in a canonical order, by the ends' names and then by the order in which they were created, so
permuting the trajectories or the edges changes no bit. Components that no active edge joins never meet in one
operation: what is wrong in one (a NaN) stays there, and the numbers of one do not depend on the others.
Within a sparse component a NaN reaches the neighbours only; within a dense one, everybody.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from numbers import Real

import torch
from torch import Tensor

from couple import maps, weights
from couple.graph import Edge
from couple.quadratic import Graph, Piece, Pulls, at_least_float32, full_precision
from couple.trajectory import Trajectory, View, noted
from couple.weights import Level


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
        exactly 0 (outside a window), or sigma' = 0 (the last step), where laws are not even called.

    Raises:
        TypeError: a map returns no tensor.
        ValueError: the ends of an active edge differ in shape, an energy is not a scalar, a weight law
            returns something else than a finite number, 0 or more; a map or energy of places meets a state without,
            or an end that should move looks through a map that no gradient passes; or x0s lacks an end.

    Example:
        >>> from couple.graph import pair
        >>> a, b = Trajectory(print, name="a"), Trajectory(print, name="b")
        >>> x0s = {a: torch.tensor([1.0]), b: torch.tensor([3.0])}
        >>> level = Level(progress=0.5, alpha=0.8, sigma=0.5, log_snr=0.9, delta_log_snr=0.2)
        >>> pulls(x0s, pair(a, b, weight=0.5), {a: level, b: level})[a]
        tensor([0.5000])
    """
    landing = {t: levels[t] for t in (x0s if moving is None else moving) if levels[t].sigma > 0}
    scales = _Scales(landing)
    graph = Graph()
    with torch.no_grad():
        out = Pulls(x0s)
        one_by_one: list[tuple[Edge, float, float]] = []
        implicit: list[Edge] = []
        for edge in sorted(edges, key=_order):
            if weights.is_implicit(edge.weight):
                _check_known(edge, x0s)
                _check_shapes(edge, out.piece(_piece(edge.a)), out.piece(_piece(edge.b)))
                implicit.append(edge)
                continue
            scale_a = 0.0 if edge.directed else scales(edge, edge.a)
            scale_b = scales(edge, edge.b)
            if scale_a == scale_b == 0:
                continue
            _check_known(edge, x0s)
            if edge.is_quadratic and edge.mask is None:
                piece_a, piece_b = _piece(edge.a), _piece(edge.b)
                _check_shapes(edge, out.piece(piece_a), out.piece(piece_b))
                graph.link(piece_a, piece_b, scale_a)
                graph.link(piece_b, piece_a, scale_b)
            else:
                one_by_one.append((edge, scale_a, scale_b))
        _link_implicit(graph, implicit, landing, out)
        graph.add_to(out)
        for edge, scale_a, scale_b in one_by_one:
            add = _add_masked if edge.is_quadratic else _add_gradient
            add(edge, scale_a, scale_b, out)
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
        >>> x0s = {a: torch.tensor([1.0]), b: torch.tensor([3.0])}
        >>> list(energies(x0s, pair(a, b, weight=0.5)).values())
        [tensor(2.)]
    """
    found = {}
    with torch.no_grad():
        for edge in edges:
            _check_known(edge, x0s)
            a, b = (end(at_least_float32(x0s[end.trajectory])) for end in (edge.a, edge.b))
            found[edge] = _energy(edge, a, b)
    return found


class _Scales:
    """sigma' * weight of an edge at one of its ends; each law is called once per level."""

    def __init__(self, landing: Mapping[Trajectory, Level]):
        self._landing = landing
        self._weights: dict[tuple[int, Level], float] = {}

    def __call__(self, edge: Edge, end: View) -> float:
        level = self._landing.get(end.trajectory)
        if level is None:
            return 0.0
        key = id(edge.weight), level
        if key not in self._weights:
            with noted(f"in the weight law of edge {edge.label}"):
                weight = weights.value(edge.weight, level)
            self._weights[key] = _checked(edge, weight, level)
        return level.sigma * self._weights[key]


def _link_implicit(graph: Graph, edges: list[Edge], landing: Mapping[Trajectory, Level], out: Pulls) -> None:
    """Solve the edges with an implicit weight together, once for each level that somebody lands on."""
    for level in dict.fromkeys(landing.values() if edges else ()):
        strengths = Graph()
        for edge in edges:
            strength = weights.strength(edge.weight, level)
            strengths.link(_piece(edge.a), _piece(edge.b), 0.0 if edge.directed else strength)
            strengths.link(_piece(edge.b), _piece(edge.a), strength)
        for end, other, weight in strengths.implicit(out):
            if landing.get(end[0]) == level:
                graph.link(end, other, level.sigma * weight)


def _add_masked(edge: Edge, scale_a: float, scale_b: float, out: Pulls) -> None:
    a, b = out.piece(_piece(edge.a)), out.piece(_piece(edge.b))
    _check_shapes(edge, a, b)
    difference = (b.to(a.device) - a) * _mask(edge, a)
    for end, scale in ((edge.a, scale_a), (edge.b, -scale_b)):
        if scale:
            out.add(_piece(end), difference, scale)


def _add_gradient(edge: Edge, scale_a: float, scale_b: float, out: Pulls) -> None:
    scaled = [(edge.a, scale_a), (edge.b, scale_b)]
    device = out.whole(edge.a.trajectory).device
    with torch.inference_mode(False), torch.enable_grad(), full_precision(device):
        leaves = [_leaf(out.whole(end.trajectory)).requires_grad_(scale > 0) for end, scale in scaled]
        ends = edge.a(leaves[0]), edge.b(leaves[1])
        for (end, scale), seen in zip(scaled, ends, strict=True):
            if scale and not seen.requires_grad:
                raise ValueError(
                    f"edge {edge.label}: no gradient passes '{end.label}', so it would never move. Write its map with "
                    "torch operations, without .detach(), .item() or torch.no_grad(); or let this end lead and the "
                    "other follow it, couple.pair(this, other, weight=..., directed=True)."
                )
        energy = _energy(edge, *ends)
        if not energy.requires_grad:
            raise ValueError(
                f"edge {edge.label}: the energy has no gradient in its arguments. Compute it with torch operations, "
                f"without .detach(), .item() or torch.no_grad()."
            )
        moved = [leaf for leaf in leaves if leaf.requires_grad]
        with noted(f"in the gradient of {maps.call(edge.energy)}, the energy of edge {edge.label}"):
            gradients = iter(torch.autograd.grad(energy, moved, allow_unused=True))
    for end, scale in scaled:
        gradient = next(gradients) if scale else None
        if gradient is not None:
            out.add((end.trajectory, ()), gradient, -scale)


def _energy(edge: Edge, a: Tensor, b: Tensor) -> Tensor:
    _check_shapes(edge, a, b)
    maps.check_axes(f"edge {edge.label}", edge.energy, a.ndim)
    wide = torch.promote_types(a.dtype, b.dtype)
    a, b = a.to(wide), b.to(a.device, wide)
    if edge.mask is not None:
        root = _mask(edge, a).to(a.dtype).sqrt()
        a, b = root * a, root * b
    with noted(f"in {maps.call(edge.energy)}, the energy of edge {edge.label}"):
        energy = edge.energy(a, b)
    if not isinstance(energy, Tensor):
        raise ValueError(f"edge {edge.label}: energy returned {energy!r:.80}; it must be a scalar tensor.")
    if energy.ndim:
        shape = tuple(energy.shape)
        raise ValueError(f"edge {edge.label}: energy returned shape {shape}; it must be a scalar. Add .sum().")
    return energy


def _leaf(x: Tensor) -> Tensor:
    # A tensor made in inference mode cannot be saved for the backward pass; its clone can.
    return x.clone() if x.is_inference() else x.detach()


def _piece(end: View) -> Piece:
    return end.trajectory, end.maps


def _order(edge: Edge) -> tuple:
    ends = [(end.trajectory.name, end.trajectory.serial, end.label) for end in (edge.a, edge.b)]
    return ends if edge.directed else sorted(ends), edge.serial


def _mask(edge: Edge, x: Tensor) -> Tensor:
    assert edge.mask is not None
    shape = edge.mask.shape
    try:
        fits = torch.broadcast_shapes(shape, x.shape) == x.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"edge {edge.label}: the mask has shape {tuple(shape)}, which does not broadcast to the ends' "
            f"{tuple(x.shape)}. Resize it, e.g. torch.nn.functional.interpolate(mask, {tuple(x.shape[-2:])})."
        )
    # A device is not to wait for it.
    return edge.mask.to(x.device, non_blocking=True)


def _checked(edge: Edge, weight: object, level: Level) -> float:
    if not isinstance(weight, Real):
        raise ValueError(f"edge {edge.label}: its weight law returned {weight!r:.80}; it must return a number.")
    weight = float(weight)
    if not 0 <= weight < math.inf:
        raise ValueError(
            f"edge {edge.label}: its weight law returned {weight} at {level}; it must be finite, 0 or more."
        )
    return weight


def _check_known(edge: Edge, x0s: Mapping[Trajectory, Tensor]) -> None:
    for end in (edge.a, edge.b):
        if end.trajectory not in x0s:
            raise ValueError(
                f"trajectory '{end.trajectory.name}' appears in an edge but not in the trajectories being sampled."
            )
        end.check(x0s[end.trajectory].ndim)


def _check_shapes(edge: Edge, a: Tensor, b: Tensor) -> None:
    if a.shape == b.shape:
        return
    if {a.ndim, b.ndim} == {4, 5}:
        longer = edge.a if a.ndim > b.ndim else edge.b
        fix = f"Take a frame, e.g. {longer.trajectory.name}.frames(0)."
    elif a.ndim != b.ndim:
        fix = maps.UNPACK if {a.ndim, b.ndim} == {3, 4} else "Give one end a map to the other's shape, a.through(fn)."
    elif a.shape[1:] == b.shape[1:]:
        larger = edge.a if len(a) > len(b) else edge.b
        fix = f"Take a row, e.g. {larger.trajectory.name}[0]."
    elif a.ndim == 3:
        fix = f"{maps.UNPACK} Then give one end .through(maps.resize(H, W)), with the other's H and W."
    elif a.ndim < 3 or a.shape[1] != b.shape[1]:
        fix = "Give one end a map to the other's shape, a.through(fn)."
    else:
        height, width = a.shape[-2:]
        fix = f"Give one end a map, e.g. {edge.b.trajectory.name}.through(maps.resize({height}, {width}))."
    raise ValueError(
        f"edge {edge.label}: the ends have shapes {tuple(a.shape)} and {tuple(b.shape)}; an energy compares equal "
        f"shapes. {fix}"
    )
