"""Edges are checked when they are made; topologies are lists of edges."""

import re

import numpy as np
import pytest
import torch

from couple import energies, maps, weights
from couple.graph import Edge, chain, complete, pair, star
from couple.trajectory import Trajectory

A, B, C, D = (Trajectory(print, name=name) for name in "abcd")


def labels(edges):
    return [edge.label for edge in edges]


def test_the_topologies_are_the_usual_ones():
    assert labels(pair(A, B, weight=1)) == ["'a' - 'b'"]
    assert labels(chain([A, B, C], weight=1)) == ["'a' - 'b'", "'b' - 'c'"]
    assert labels(complete([A, B, C], weight=1)) == ["'a' - 'b'", "'a' - 'c'", "'b' - 'c'"]
    assert labels(star(A, [B, C], weight=1)) == ["'a' - 'b'", "'a' - 'c'"]
    assert labels(star(A, [B, C], weight=1, directed=True)) == ["'a' -> 'b'", "'a' -> 'c'"]


def test_every_topology_passes_all_arguments_on():
    mask, energy = torch.ones(2, dtype=torch.bool), energies.huber(1.0)
    options = dict(weight=0.3, energy=energy, mask=mask, directed=True)
    for edges in pair(A, B, **options), chain([A, B], **options), complete([A, B], **options), star(A, [B], **options):
        (edge,) = edges
        assert (edge.energy, edge.mask, edge.directed, edge.weight) == (energy, mask, True, 0.3)
        assert edge.trajectories == (A, B)


@pytest.mark.parametrize(
    ("edges", "weight"),
    [
        (chain([A, B], weight=0.6, normalize=True), 0.6),
        (chain([A, B, C, D], weight=0.6, normalize=True), 0.3),
        (complete([A, B, C, D], weight=0.6, normalize=True), 0.2),
        (star(A, [B, C, D], weight=0.6, normalize=True), 0.2),
        (star(A, [B], weight=0.6, normalize=True), 0.6),
    ],
)
def test_normalize_divides_by_the_largest_degree(edges, weight):
    assert [edge.weight for edge in edges] == pytest.approx([weight] * len(edges), rel=1e-15)


def test_normalize_scales_laws_and_the_strength_of_implicit_ones():
    level = weights.Level(0.1, 0.8, 0.6, 0.5, 0.3)
    (edge, *_) = complete([A, B, C], weight=weights.relax(1.0), normalize=True)
    assert edge.weight(level) == weights.relax(1.0)(level) / 2
    (edge, *_) = complete([A, B, C], weight=weights.implicit(3.0), normalize=True)
    assert edge.weight == weights.implicit(1.5)


def test_edges_are_frozen_and_differ_even_if_alike():
    one, two = Edge(A, B, weight=0.1), Edge(A, B, weight=0.1)
    assert len({one, two}) == 2
    with pytest.raises(AttributeError, match="frozen"):
        one.weight = 0.2


def test_repr_shows_what_differs_from_a_plain_edge():
    assert repr(Edge(A, B, weight=0.1)) == "<Edge 'a' - 'b', weight 0.1>"
    edge = Edge(A[0], B, energies.huber(2.0), weight=weights.relax(1.0), mask=torch.ones(1), directed=True)
    assert repr(edge) == "<Edge 'a[0]' -> 'b', huber(2.0), weight relax(1.0, 1.0), masked>"


@pytest.mark.parametrize("weight", [1, 0, 0.5, np.float64(0.5), weights.constant(1.0), lambda level: 0.1])
def test_numbers_and_callables_are_weights(weight):
    assert Edge(A, B, weight=weight).weight is weight


def test_rows_of_one_trajectory_may_be_joined():
    assert Edge(A[0], A[1], weight=1).label == "'a[0]' - 'a[1]'"


def test_ends_of_one_name_are_told_apart_by_their_seeds():
    one, two, unseeded = (
        Trajectory(print, name="a", generator=generator)
        for generator in (torch.Generator().manual_seed(0), torch.Generator().manual_seed(7), None)
    )
    assert Edge(one, two, weight=1, directed=True).label == "'a' (seed 0) -> 'a' (seed 7)"
    assert Edge(one, two[0], weight=1).label == "'a' - 'a[0]'"
    assert Edge(one, unseeded, weight=1).label == "'a' - 'a'"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Edge(A, B), TypeError, "weight"),
        (lambda: Edge(A, B, weight=1, directed="no"), TypeError, "edge 'a' - 'b': `directed` must be True (b follows a) or False (both move); got 'no'"),
        (lambda: Edge(A, "b", weight=1), TypeError, "`b` must be a Trajectory or a view of one, e.g. a[0]; got 'b'"),
        (lambda: Edge(A, A, weight=1), ValueError, "edge 'a' - 'a': both ends are the same"),
        (lambda: Edge(A[1], A[1], weight=1), ValueError, "edge 'a[1]' - 'a[1]': both ends are the same"),
        (lambda: Edge(A, B, weight=float("nan")), ValueError, "'a' - 'b': `weight` must be a finite number, 0 or more; got nan"),
        (lambda: Edge(A, B, weight=float("inf")), ValueError, "got inf"),
        (lambda: Edge(A, B, weight=-1), ValueError, "got -1"),
        (lambda: Edge(A, B, weight="1"), TypeError, "`weight` must be a number or a law, e.g. 0.02"),
        (lambda: Edge(A, B, weight=True), TypeError, "`weight` must be a number"),
        (lambda: Edge(A, B, weight=torch.tensor(1.0)), TypeError, "`weight` must be a number"),
        (lambda: Edge(A, B, weight=weights.relax), TypeError, "`weight` is the class relax, not a weight. Did you mean relax(1.0)?"),
        (lambda: Edge(A, B, energies.low_pass, weight=1), TypeError, "`energy` is the class low_pass, not an energy. Did you mean low_pass(8)?"),
        (lambda: Edge(A, B, energies.huber, weight=1), TypeError, "Did you mean huber(1.0)?"),
        (lambda: Edge(A, B, 3, weight=1), TypeError, "`energy` must be a callable (a, b) -> scalar; got 3"),
        (lambda: Edge(A, B, weight=1, mask=[1]), TypeError, "`mask` must be a tensor; got [1]. Use torch.as_tensor(mask)."),
        (lambda: Edge(A, B, weight=1, mask=torch.ones(2, dtype=torch.int64)), TypeError, "got torch.int64. Use mask.bool()."),
        (lambda: Edge(A, B, weight=1, mask=torch.tensor([-1.0])), ValueError, "`mask` must be finite, 0 or more"),
        (lambda: Edge(A, B, weight=1, mask=torch.tensor([float("nan")])), ValueError, "`mask` must be finite"),
        (lambda: Edge(A, B, energies.cosine, weight=weights.implicit(1.0)), ValueError, "implicit weight is solved in closed form"),
        (lambda: Edge(A, B, weight=weights.implicit(1.0), mask=torch.ones(1)), ValueError, "without a mask"),
        (lambda: Edge(A.through(maps.low_pass(2)), B, weight=weights.window(weights.implicit(1.0), 0, 1)), ValueError, "weights.relax(1.0)"),
        (lambda: chain(A, weight=1), TypeError, "chain: give the nodes as a list"),
        (lambda: complete([A], weight=1), ValueError, "complete: 2 or more nodes are needed; got 1"),
        (lambda: star(A, [], weight=1), ValueError, "star: 1 or more nodes are needed; got 0"),
        (lambda: chain([A, B], weight=float("nan"), normalize=True), ValueError, "`weight` must be a finite number"),
    ],
)  # fmt: skip
def test_bad_edges_are_refused(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()
