"""Edges and the topologies made of them.

An `Edge` says that two trajectories (or views of them) should agree: by which energy, how strongly, where,
and whether both move or only one follows. A coupling is a list of edges; `pair`, `chain`, `complete` and
`star` write the usual lists. Everything about an edge that can be wrong without a tensor in hand is refused
here, at construction.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from numbers import Real

import torch

from couple import weights
from couple.energies import squared_distance
from couple.maps import bridge, call
from couple.trajectory import Frozen, Trajectory, View, view

Energy = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Node = Trajectory | View

_created = itertools.count()


class Edge(Frozen):
    """Two ends that should agree. Frozen; hashes by identity.

    Args:
        a: a trajectory, or a view of one.
        b: the other end.
        energy: `(a, b) -> scalar`, low when they agree; `couple.energies` has several.
        weight: the paper's lambda, 0 or more, or a law from `couple.weights`. There is no default: it depends
            on the sampler, the number of steps and the models.
        mask: where the ends should agree: boolean, or floating with values 0 or more; any shape that
            broadcasts to that of the ends. It weighs the squared distance element by element; other energies
            see `sqrt(mask) * a` and `sqrt(mask) * b`. Keep it on the device the sampling runs on.
        directed: b follows a, and a feels nothing.

    Attributes:
        a: the first end, as a view.
        b: the second end, as a view.
        energy: as given.
        weight: as given.
        mask: as given.
        directed: as given.
        label: how messages write the edge, e.g. `'cat' - 'fox[0]'`, or `'cat' -> 'fox'` if directed; ends of one
            name by the seeds of their generators too.

    Raises:
        TypeError: an end, energy, weight or mask is not of its kind, e.g. a class where an instance is meant.
        ValueError: the weight is negative or not finite, the mask has negative values, both ends are the
            same, an end that should move looks through a bridge, or an `implicit` weight meets an edge it cannot
            solve.

    Example:
        >>> cat, fox = Trajectory(print, name="cat"), Trajectory(print, name="fox")
        >>> Edge(cat, fox[0], weight=0.02)
        <Edge 'cat' - 'fox[0]', weight 0.02>
    """

    __slots__ = ("__weakref__", "a", "b", "directed", "energy", "label", "mask", "serial", "weight")
    a: View
    b: View
    energy: Energy
    weight: float | weights.Law
    mask: torch.Tensor | None
    directed: bool
    label: str
    serial: int

    def __init__(
        self, a: Node, b: Node, energy: Energy = squared_distance, *,
        weight: float | weights.Law, mask: torch.Tensor | None = None, directed: bool = False,
    ):  # fmt: skip
        """Check the edge and name it."""
        for name, end in (("a", a), ("b", b)):
            if not isinstance(end, Node):
                raise TypeError(f"`{name}` must be a Trajectory or a view of one, e.g. a[0]; got {end!r:.80}.")
        self._set(a=view(a), b=view(b), energy=energy, weight=weight, mask=mask, directed=directed)
        self._set(label=_label(self.a, self.b, directed is True), serial=next(_created))
        if self.a.trajectory is self.b.trajectory and self.a.maps == self.b.maps:
            raise ValueError(f"edge {self.label}: both ends are the same; an edge joins two different things.")
        if not isinstance(directed, bool):
            raise TypeError(
                f"edge {self.label}: `directed` must be True (b follows a) or False (both move); got {directed!r:.80}."
            )
        _check_gradient(self)
        _check_instance(self.label, "energy", energy, "an energy")
        if not callable(energy):
            raise TypeError(f"edge {self.label}: `energy` must be a callable (a, b) -> scalar; got {energy!r:.80}.")
        _check_weight(self.label, weight)
        _check_mask(self.label, mask)
        if weights.is_implicit(weight) and not (self.is_quadratic and mask is None):
            raise ValueError(
                f"edge {self.label}: an implicit weight is solved in closed form, for squared distances without a "
                f"mask between whole trajectories, rows or frames. Use weights.relax(1.0) or a number here."
            )

    @property
    def trajectories(self) -> tuple[Trajectory, Trajectory]:
        """The trajectories of both ends."""
        return self.a.trajectory, self.b.trajectory

    @property
    def is_quadratic(self) -> bool:
        """Whether the pull is the difference of the ends: a squared distance between plain pieces of x0."""
        plain = all(getattr(map, "is_slice", False) for end in (self.a, self.b) for map in end.maps)
        return plain and self.energy is squared_distance

    def __repr__(self) -> str:
        """Name the ends and what differs from a plain edge."""
        energy = "" if self.energy is squared_distance else f", {call(self.energy)}"
        masked = "" if self.mask is None else ", masked"
        weight = call(self.weight) if callable(self.weight) else self.weight
        return f"<Edge {self.label}{energy}, weight {weight}{masked}>"


def pair(
    a: Node, b: Node, *, weight: float | weights.Law, energy: Energy = squared_distance,
    mask: torch.Tensor | None = None, directed: bool = False,
) -> list[Edge]:  # fmt: skip
    """Return the one edge between a and b; see `Edge` for the arguments.

    Example:
        >>> a, b = Trajectory(print, name="a"), Trajectory(print, name="b")
        >>> [edge.label for edge in pair(a, b, weight=0.1, directed=True)]
        ["'a' -> 'b'"]
    """
    return [Edge(a, b, energy, weight=weight, mask=mask, directed=directed)]


def chain(
    nodes: Iterable[Node], *, weight: float | weights.Law, energy: Energy = squared_distance,
    mask: torch.Tensor | None = None, directed: bool = False, normalize: bool = False,
) -> list[Edge]:  # fmt: skip
    """Join each node to the next; see `Edge` for the arguments.

    Args:
        nodes: two or more trajectories or views.
        weight: of each edge.
        energy: of each edge.
        mask: of each edge.
        directed: each node follows the one before it.
        normalize: divide the weight by the graph's largest degree.

    Example:
        >>> nodes = [Trajectory(print, name=name) for name in "abc"]
        >>> [edge.label for edge in chain(nodes, weight=0.1)]
        ["'a' - 'b'", "'b' - 'c'"]
    """
    nodes = _nodes("chain", nodes)
    return _edges(list(itertools.pairwise(nodes)), weight, energy, mask, directed, normalize)


def complete(
    nodes: Iterable[Node], *, weight: float | weights.Law, energy: Energy = squared_distance,
    mask: torch.Tensor | None = None, directed: bool = False, normalize: bool = False,
) -> list[Edge]:  # fmt: skip
    """Join every node to every other; see `Edge` for the arguments.

    N nodes pull N / 2 times as hard on their spread as a pair does at the same weight; `normalize=True`
    divides the weight by N - 1.

    Args:
        nodes: two or more trajectories or views.
        weight: of each edge.
        energy: of each edge.
        mask: of each edge.
        directed: each node follows all before it.
        normalize: divide the weight by the graph's largest degree, N - 1.

    Example:
        >>> nodes = [Trajectory(print, name=name) for name in "abcd"]
        >>> edges = complete(nodes, weight=0.3, normalize=True)
        >>> len(edges), round(edges[0].weight, 6)
        (6, 0.1)
    """
    nodes = _nodes("complete", nodes)
    return _edges(list(itertools.combinations(nodes, 2)), weight, energy, mask, directed, normalize)


def star(
    center: Node, leaves: Iterable[Node], *, weight: float | weights.Law, energy: Energy = squared_distance,
    mask: torch.Tensor | None = None, directed: bool = False, normalize: bool = False,
) -> list[Edge]:  # fmt: skip
    """Join a center to every leaf; see `Edge` for the arguments.

    Args:
        center: a trajectory or view.
        leaves: one or more.
        weight: of each edge.
        energy: of each edge.
        mask: of each edge.
        directed: the leaves follow the center.
        normalize: divide the weight by the graph's largest degree, the number of leaves.

    Example:
        >>> hub, *rim = (Trajectory(print, name=name) for name in "habc")
        >>> [edge.label for edge in star(hub, rim, weight=0.1, directed=True)]
        ["'h' -> 'a'", "'h' -> 'b'", "'h' -> 'c'"]
    """
    leaves = _nodes("star", leaves, least=1)
    return _edges([(center, leaf) for leaf in leaves], weight, energy, mask, directed, normalize)


def _edges(pairs: Sequence[tuple[Node, Node]], weight, energy, mask, directed, normalize) -> list[Edge]:
    if normalize and pairs:
        _check_weight("the graph", weight)
        ends = [id(end) for both in pairs for end in both]
        weight = weights.scaled(weight, 1 / max(ends.count(end) for end in set(ends)))
    return [Edge(a, b, energy, weight=weight, mask=mask, directed=directed) for a, b in pairs]


def _nodes(topology: str, nodes: Iterable[Node], least: int = 2) -> list[Node]:
    if isinstance(nodes, Node):
        raise TypeError(f"{topology}: give the nodes as a list, e.g. [{nodes!r}, ...]; got one {type(nodes).__name__}.")
    nodes = list(nodes)
    if len(nodes) < least:
        raise ValueError(f"{topology}: {least} or more nodes are needed; got {len(nodes)}.")
    return nodes


def _label(a: View, b: View, directed: bool) -> str:
    labels, seeds = [f"'{a.label}'", f"'{b.label}'"], [_seed(a), _seed(b)]
    if labels[0] == labels[1] and None not in seeds and seeds[0] != seeds[1]:
        labels = [f"{label} (seed {seed})" for label, seed in zip(labels, seeds, strict=True)]
    return f" {'->' if directed else '-'} ".join(labels)


def _seed(end: View) -> int | None:
    generator = end.trajectory.call_kwargs.get("generator")
    return generator.initial_seed() if isinstance(generator, torch.Generator) else None


def _check_gradient(edge: Edge) -> None:
    for end in (edge.b,) if edge.directed else (edge.a, edge.b):
        if any(isinstance(map, bridge) for map in end.maps):
            raise ValueError(
                f"edge {edge.label}: no gradient passes a bridge, so '{end.label}' would never move. Let the other end "
                f"follow it: {bridge.one_way}; for a pull both ways give a second edge back: {bridge.both_ways}."
            )


def _check_instance(label: str, argument: str, given, kind: str) -> None:
    if isinstance(given, type):
        example = getattr(given, "example", f"{given.__name__}()")
        got = f"`{argument}` is the class {given.__name__}, not {kind}"
        raise TypeError(f"edge {label}: {got}. Did you mean {example}?")


def _check_weight(label: str, weight) -> None:
    _check_instance(label, "weight", weight, "a weight")
    if callable(weight):
        return
    if not isinstance(weight, (int, float, Real)) or isinstance(weight, bool):
        raise TypeError(f"edge {label}: `weight` must be a number or a law, e.g. 0.02 or weights.relax(1.0); "
                        f"got {weight!r:.80}.")  # fmt: skip
    if not 0 <= float(weight) < math.inf:
        raise ValueError(f"edge {label}: `weight` must be a finite number, 0 or more; got {weight!r}.")


def _check_mask(label: str, mask) -> None:
    if mask is None:
        return
    if not isinstance(mask, torch.Tensor):
        raise TypeError(f"edge {label}: `mask` must be a tensor; got {mask!r:.80}. Use torch.as_tensor(mask).")
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise TypeError(f"edge {label}: `mask` must be boolean or floating; got {mask.dtype}. Use mask.bool().")
    if mask.is_floating_point() and not bool((mask >= 0).all() and mask.isfinite().all()):
        raise ValueError(f"edge {label}: `mask` must be finite, 0 or more everywhere.")
