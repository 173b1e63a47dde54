"""The pull equals minus sigma' times the weighted gradient, keeps the laws of the design, and costs few operations."""

import itertools
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from couple import energies, maps, weights
from couple.coupling import energies as edge_energies
from couple.coupling import pulls
from couple.graph import Edge, chain, complete, pair, star
from couple.trajectory import Trajectory
from couple.weights import Level

LEVEL = Level.landing(progress=0.4, alpha=0.6, sigma=0.8, alpha_next=0.8, sigma_next=0.6)
seeds = st.integers(0, 10**6)


def trajectories(count):
    return [Trajectory(print, name=f"t{i}") for i in range(count)]


def states(nodes, shape=(2, 3, 4, 5), seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return {node: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for node in nodes}


def at(nodes, level=LEVEL):
    return dict.fromkeys(nodes, level)


def by_autograd(x0s, edges, levels):
    """The definition, edge by edge and end by end, in float64."""
    found = {}
    for edge, end in itertools.product(edges, (0, 1)):
        trajectory = edge.trajectories[end]
        level = levels[trajectory]
        if (edge.directed and end == 0) or level.sigma == 0:
            continue
        leaf = x0s[trajectory].double().clone().requires_grad_()
        views = [edge.a(x0s[edge.trajectories[0]].double()), edge.b(x0s[edge.trajectories[1]].double())]
        views[end] = (edge.a, edge.b)[end](leaf)
        if edge.mask is not None:
            views = [view * edge.mask.double().sqrt() for view in views]
        gradient = torch.autograd.grad(edge.energy(*views), leaf)[0]
        pull = -level.sigma * weights.value(edge.weight, level) * gradient
        found[trajectory] = found.get(trajectory, 0) + pull
    return found


def assert_same(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for node, pull in expected.items():
        torch.testing.assert_close(found[node].double(), pull.double(), **tolerance)


@st.composite
def random_graphs(draw, quadratic=False, count=st.integers(2, 7)):
    """A random graph on its own trajectories: directed and masked edges, rows, crops, several energies and laws."""
    nodes = trajectories(draw(count))
    choices = [energies.squared_distance] if quadratic else [
        energies.squared_distance, energies.huber(0.5), energies.cosine, energies.low_pass(2)
    ]  # fmt: skip
    masks = st.sampled_from([None, None, torch.rand(4, 5, generator=torch.Generator().manual_seed(1)) > 0.5,
                             torch.rand(3, 1, 5, generator=torch.Generator().manual_seed(2))])  # fmt: skip
    laws = st.sampled_from([0.3, 0.01, weights.relax(1.0), weights.window(0.2, 0.0, 0.5), weights.linear(1.0, 0.1)])
    edges = []
    for _ in range(draw(st.integers(1, 12))):
        a, b = draw(st.permutations(nodes))[:2]
        cut = draw(st.sampled_from(["whole", "whole", "row", "row and low-pass"]))
        if cut != "whole":
            a, b = a[draw(st.integers(-2, 1))], b[draw(st.integers(0, 1))]
        if cut == "row and low-pass":
            a = a.through(maps.low_pass(2))
        edges.append(
            Edge(
                a, b, draw(st.sampled_from(choices)), weight=draw(laws), mask=draw(masks), directed=draw(st.booleans())
            )
        )
    return nodes, edges


@given(graph=random_graphs(), seed=seeds)
@settings(max_examples=60, deadline=None)
def test_the_pull_is_minus_sigma_times_the_weighted_gradient(graph, seed):
    nodes, edges = graph
    x0s = states(nodes, seed=seed, dtype=torch.float64)
    assert_same(pulls(x0s, edges, at(nodes)), by_autograd(x0s, edges, at(nodes)), rtol=1e-9, atol=1e-12)


@given(graph=random_graphs(), seed=seeds, data=st.data())
@settings(max_examples=40, deadline=None)
def test_permuting_trajectories_and_edges_changes_no_bit(graph, seed, data):
    nodes, edges = graph
    x0s = states(nodes, seed=seed)
    expected = pulls(x0s, edges, at(nodes))
    shuffled = {node: x0s[node] for node in data.draw(st.permutations(nodes))}
    found = pulls(shuffled, data.draw(st.permutations(edges)), at(reversed(nodes)))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[node], expected[node]) for node in nodes if node in found)


@pytest.mark.parametrize("count", [3, 4, 9])
def test_trajectories_made_in_another_order_under_the_same_names_are_pulled_alike(count):
    nodes = trajectories(count)
    others = list(reversed([Trajectory(print, name=f"t{i}") for i in reversed(range(count))]))
    x0s = states(nodes)
    first = pulls(x0s, complete(nodes, weight=0.3), at(nodes))
    second = pulls(states(others), complete(others[::-1], weight=0.3), at(others))
    assert all(torch.equal(first[a], second[b]) for a, b in zip(nodes, others, strict=True))


@given(seed=seeds, weight=st.floats(0, 10), directed=st.booleans())
def test_swapping_the_ends_of_an_undirected_pair_changes_no_bit(seed, weight, directed):
    a, b = trajectories(2)
    x0s = states([a, b], seed=seed)
    one, two = (pulls(x0s, [Edge(*ends, weight=weight)], at([a, b])) for ends in ((a, b), (b, a)))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[node], two[node]) for node in one)


@given(seed=seeds, weight=st.floats(1e-3, 10))
def test_the_pulls_of_a_pair_sum_to_exactly_zero(seed, weight):
    a, b = trajectories(2)
    found = pulls(states([a, b], seed=seed), pair(a, b, weight=weight), at([a, b]))
    assert torch.equal(found[a], -found[b])


@given(graph=random_graphs(quadratic=True), seed=seeds)
@settings(max_examples=30, deadline=None)
def test_undirected_pulls_sum_to_zero(graph, seed):
    nodes, edges = graph
    edges = [Edge(*e.trajectories, e.energy, weight=e.weight, mask=e.mask) for e in edges]
    found = pulls(states(nodes, seed=seed, dtype=torch.float64), edges, at(nodes))
    assert torch.allclose(sum(found.values()), torch.zeros((), dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize("count", [2, 4, 5, 9])
@pytest.mark.parametrize("topology", [chain, complete])
def test_agreement_means_exactly_no_pull(count, topology):
    nodes = trajectories(count)
    x0 = torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(0))
    for law in (0.3, weights.implicit(2.0)):
        found = pulls({node: x0.clone() for node in nodes}, topology(nodes, weight=law), at(nodes))
        assert len(found) == count
        assert all(torch.equal(pull, torch.zeros_like(pull)) for pull in found.values())


@pytest.mark.parametrize("mask", [torch.zeros(4, 5), torch.zeros(4, 5, dtype=torch.bool)], ids=["float", "bool"])
@pytest.mark.parametrize("energy", [energies.squared_distance, energies.cosine, energies.huber(1.0)], ids=maps.call)
def test_a_mask_of_zeros_is_no_edge(mask, energy):
    a, b = trajectories(2)
    found = pulls(states([a, b]), pair(a, b, energy=energy, weight=0.3, mask=mask), at([a, b]))
    assert all(torch.equal(pull, torch.zeros_like(pull)) for pull in found.values())


def test_a_mask_of_ones_is_no_mask():
    a, b = trajectories(2)
    x0s = states([a, b])
    masked = pulls(x0s, pair(a, b, weight=0.3, mask=torch.ones(4, 5)), at([a, b]))
    plain = pulls(x0s, pair(a, b, weight=0.3), at([a, b]))
    assert all(torch.equal(masked[node], plain[node]) for node in plain)


@given(graph=random_graphs(quadratic=True), seed=seeds)
@settings(max_examples=30, deadline=None)
def test_two_edges_of_half_the_weight_are_one_edge(graph, seed):
    nodes, edges = graph
    edges = [edge for edge in edges if not callable(edge.weight)]
    halves = [
        Edge(e.a, e.b, e.energy, weight=e.weight / 2, mask=e.mask, directed=e.directed) for e in edges for _ in "ab"
    ]
    x0s = states(nodes, seed=seed)
    assert_same(pulls(x0s, halves, at(nodes)), pulls(x0s, edges, at(nodes)), rtol=1e-6, atol=1e-6)


def test_two_plain_edges_of_half_the_weight_are_one_edge_to_the_bit():
    nodes = trajectories(3)
    x0s = states(nodes)
    whole = pulls(x0s, chain(nodes, weight=0.3), at(nodes))
    halves = pulls(x0s, [*chain(nodes, weight=0.15), *chain(nodes, weight=0.15)], at(nodes))
    assert all(torch.equal(whole[node], halves[node]) for node in nodes)


def test_a_map_that_changes_nothing_is_no_map():
    a, b = trajectories(2)
    x0s = states([a, b])
    through = pulls(x0s, pair(a.through(lambda x: x), b, weight=0.3), at([a, b]))
    assert_same(through, pulls(x0s, pair(a, b, weight=0.3), at([a, b])), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("count", [5, 8, 17])
def test_dense_and_sparse_graphs_agree(count):
    nodes = trajectories(count)
    x0s = states(nodes)
    edges = complete(nodes, weight=0.3)
    dense = pulls(x0s, edges, at(nodes))
    one_by_one = [pulls(x0s, [edge], at(nodes)) for edge in edges]
    for node in nodes:
        expected = sum(found[node].double() for found in one_by_one if node in found)
        error = (dense[node].double() - expected).norm() / expected.norm()
        assert error < 1e-6


def test_a_dense_graph_keeps_its_precision_near_agreement():
    nodes = trajectories(8)
    base = states(nodes[:1])[nodes[0]] * 10
    x0s = {node: base + 1e-4 * x for node, x in states(nodes, seed=1).items()}
    edges = complete(nodes, weight=0.3)
    expected = by_autograd(x0s, edges, at(nodes))
    assert_same(pulls(x0s, edges, at(nodes)), expected, rtol=1e-5, atol=1e-9)


def test_trajectories_without_an_active_edge_are_absent():
    a, b, c, d = trajectories(4)
    x0s = states([a, b, c, d])
    levels = at([a, b, c, d])
    assert pulls(x0s, [], levels) == {}
    assert pulls(x0s, pair(a, b, weight=0.1, directed=True), levels).keys() == {b}
    assert pulls(x0s, star(a, [b, c], weight=0.1, directed=True), levels).keys() == {b, c}
    assert pulls(x0s, pair(a, b, weight=0), levels) == {}
    assert pulls(x0s, pair(a, b, weight=weights.window(0.1, 0.5, 1.0)), levels) == {}
    assert pulls(x0s, pair(a, b, weight=weights.window(weights.implicit(1.0), 0.5, 1.0)), levels) == {}
    assert pulls(x0s, pair(a, b, weight=weights.implicit(1.0), directed=True), levels).keys() == {b}


def test_no_pull_lands_on_the_last_step_and_its_law_is_not_called():
    def forbidden(level):
        raise AssertionError

    a, b = trajectories(2)
    last = Level.landing(progress=0.9, alpha=0.9, sigma=0.1, alpha_next=1.0, sigma_next=0.0)
    assert pulls(states([a, b]), pair(a, b, weight=forbidden), at([a, b], last)) == {}
    law = weights.relax(1.0)
    assert pulls(states([a, b]), pair(a, b, weight=law), {a: LEVEL, b: last}).keys() == {a}


def test_each_end_is_weighted_at_its_own_level():
    a, b = trajectories(2)
    other = Level.landing(progress=0.8, alpha=0.8, sigma=0.6, alpha_next=0.9, sigma_next=0.3)
    levels = {a: LEVEL, b: other}
    x0s = states([a, b], dtype=torch.float64)
    for energy in (energies.squared_distance, energies.huber(0.5)):
        edges = pair(a, b, energy=energy, weight=weights.linear(1.0, 0.0))
        assert_same(pulls(x0s, edges, levels), by_autograd(x0s, edges, levels))
    (mask,) = (torch.rand(4, 5, generator=torch.Generator().manual_seed(0)),)
    edges = pair(a, b, weight=weights.rate(1.0), mask=mask)
    assert_same(pulls(x0s, edges, levels), by_autograd(x0s, edges, levels))


def test_only_those_who_move_are_pulled_and_only_they_need_a_level():
    nodes = trajectories(6)
    x0s = states(nodes)
    for topology, law in itertools.product((chain, complete), (0.1, weights.implicit(1.0))):
        edges = topology(nodes, weight=law)
        every = pulls(x0s, edges, at(nodes))
        some = pulls(x0s, edges, at(nodes[:2]), moving=nodes[:2])
        assert some.keys() == set(nodes[:2])
        for node in some:
            torch.testing.assert_close(some[node], every[node], rtol=1e-6, atol=1e-6)


def test_what_is_wrong_in_one_component_stays_there():
    nodes = trajectories(12)
    edges = [*complete(nodes[:6], weight=0.1), *complete(nodes[6:], weight=0.1)]
    x0s = states(nodes)
    alone = pulls({node: x0s[node] for node in nodes[6:]}, edges[15:], at(nodes[6:]))
    x0s[nodes[0]] = x0s[nodes[0]] * torch.nan
    found = pulls(x0s, edges, at(nodes))
    assert all(torch.equal(found[node], alone[node]) for node in nodes[6:])


def test_a_broken_follower_does_not_reach_its_source_nor_a_broken_end_the_far_end_of_a_chain():
    a, b, c, d = nodes = trajectories(4)
    x0s = states(nodes)
    x0s[a] = x0s[a] * torch.nan
    found = pulls(x0s, [*chain([b, c, d], weight=0.1), *pair(b, a, weight=0.1, directed=True)], at(nodes))
    assert all(found[node].isfinite().all() for node in (b, c, d))
    found = pulls(x0s, chain(nodes, weight=0.1), at(nodes))
    assert not found[b].isfinite().any()
    assert found[c].isfinite().all()
    assert found[d].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("count", [2, 6])
def test_half_precision_predictions_are_pulled_in_float32(dtype, count):
    nodes = trajectories(count)
    x0s = states(nodes, dtype=dtype)
    for edges in complete(nodes, weight=0.3), complete(nodes, weight=0.3, energy=energies.huber(0.5)):
        found = pulls(x0s, edges, at(nodes))
        assert all(pull.dtype == torch.float32 for pull in found.values())
        assert_same(found, by_autograd(x0s, edges, at(nodes)), rtol=1e-5, atol=1e-6)


def test_float64_stays_float64_and_each_end_keeps_its_own_precision():
    a, b = trajectories(2)
    x0s = states([a, b], dtype=torch.float64)
    assert pulls(x0s, pair(a, b, weight=0.3), at([a, b]))[a].dtype == torch.float64
    x0s[b] = x0s[b].to(torch.bfloat16)
    for edges in pair(a, b, weight=0.3), pair(a, b, weight=0.3, energy=energies.huber(1.0)), pair(a[0], b[0], weight=1):
        found = pulls(x0s, edges, at([a, b]))
        assert (found[a].dtype, found[b].dtype) == (torch.float64, torch.float32)


def test_autocast_and_a_lower_matmul_precision_do_not_reach_the_pull():
    nodes = trajectories(6)
    x0s = states(nodes)
    edges = complete(nodes, weight=0.3)
    expected = pulls(x0s, edges, at(nodes))
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = pulls(x0s, edges, at(nodes))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert all(torch.equal(found[node], expected[node]) for node in nodes)


def test_precisions_that_were_set_the_new_way_are_kept_out_and_kept():
    nodes = trajectories(6)
    x0s = states(nodes)
    edges = complete(nodes, weight=0.3)
    expected = pulls(x0s, edges, at(nodes))
    kinds = {
        torch.backends.cuda.matmul: "tf32",
        torch.backends.mkldnn.matmul: "bf16",
        torch.backends.cudnn.conv: "tf32",
    }
    before = {kind: kind.fp32_precision for kind in kinds}
    seen = []

    def energy(x, y):
        seen.extend(kind.fp32_precision for kind in kinds)
        return (x - y).square().sum()

    try:
        for kind, precision in kinds.items():
            kind.fp32_precision = precision
        found = pulls(x0s, edges, at(nodes))
        pulls(x0s, pair(nodes[0], nodes[1], weight=0.1, energy=energy), at(nodes))
        assert {kind: kind.fp32_precision for kind in kinds} == kinds
    finally:
        for kind, precision in before.items():
            kind.fp32_precision = precision
    assert seen and set(seen) == {"ieee"}
    assert all(torch.equal(found[node], expected[node]) for node in nodes)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_any_energy_works_under_any_grad_mode(mode):
    a, b = trajectories(2)
    reference = states([a, b])
    edges = [*pair(a, b, weight=0.3, energy=energies.huber(0.5)), *pair(a[0], b[0], weight=0.2)]
    expected = pulls(reference, edges, at([a, b]))
    with mode():
        found = pulls(states([a, b]), edges, at([a, b]))
    for node in (a, b):
        assert torch.equal(found[node], expected[node])
        assert not found[node].requires_grad


def test_nothing_that_was_passed_in_is_changed():
    nodes = trajectories(6)
    x0s = states(nodes)
    before = {node: x0.clone() for node, x0 in x0s.items()}
    edges = [
        *complete(nodes, weight=0.3),
        *chain(nodes, weight=0.1, energy=energies.cosine),
        *pair(nodes[0][0], nodes[1][1], weight=1),
    ]
    pulls(x0s, edges, at(nodes))
    assert all(torch.equal(x0s[node], before[node]) and not x0s[node].requires_grad for node in nodes)


# --- Views ---


@pytest.mark.parametrize("energy", [energies.squared_distance, energies.huber(0.5)], ids=maps.call)
def test_rows_frames_and_crops_are_pulled_where_they_are(energy):
    views, clip = Trajectory(print, name="views"), Trajectory(print, name="clip")
    editors = trajectories(3)
    x0s = {
        **states([views], (3, 2, 4, 4), dtype=torch.float64),
        **states([clip], (1, 2, 3, 4, 4), seed=1, dtype=torch.float64),
        **states(editors, (1, 2, 4, 4), seed=2, dtype=torch.float64),
    }
    edges = [
        *(Edge(views[k], editors[k], energy, weight=0.3) for k in range(3)),
        Edge(clip.frames(1), editors[0], energy, weight=0.2),
        Edge(clip.frames(-1), clip.frames(0), energy, weight=0.1),
        Edge(editors[1].through(maps.crop(0, 1, 2, 3)), editors[2].through(maps.crop(2, 0, 2, 3)), energy, weight=0.4),
    ]
    levels = at(x0s)
    assert_same(pulls(x0s, edges, levels), by_autograd(x0s, edges, levels))


def test_what_no_edge_looks_at_is_not_pulled():
    a, b = trajectories(2)
    found = pulls(states([a, b]), pair(a[0], b[1], weight=0.3), at([a, b]))
    assert torch.equal(found[a][1], torch.zeros(3, 4, 5))
    assert torch.equal(found[b][0], torch.zeros(3, 4, 5))
    assert found[a][0].abs().min() > 0


# --- The implicit step ---


def implicit_reference(x0s, nodes, strengths, directed=()):
    """L (I + L)^-1 x0 by numpy's solver; strengths by pairs of positions."""
    laplacian = np.zeros((len(nodes), len(nodes)))
    for (i, j), strength in strengths.items():
        laplacian[j, j] += strength
        laplacian[j, i] -= strength
        if (i, j) not in directed:
            laplacian[i, i] += strength
            laplacian[i, j] -= strength
    flat = np.stack([x0s[node].double().numpy().reshape(-1) for node in nodes])
    step = laplacian @ np.linalg.solve(np.eye(len(nodes)) + laplacian, flat)
    shape = x0s[nodes[0]].shape
    return {node: -LEVEL.sigma * torch.from_numpy(row).reshape(shape) for node, row in zip(nodes, step, strict=True)}


@given(
    graph=st.dictionaries(st.sampled_from(list(itertools.combinations(range(6), 2))), st.floats(0.01, 100), min_size=1)
)
@settings(max_examples=40, deadline=None)
def test_the_implicit_step_is_solved_on_the_whole_graph(graph):
    nodes = trajectories(6)
    x0s = states(nodes, dtype=torch.float64)
    edges = [Edge(nodes[i], nodes[j], weight=weights.implicit(s)) for (i, j), s in graph.items()]
    joined = {nodes[i] for ends in graph for i in ends}
    expected = {node: pull for node, pull in implicit_reference(x0s, nodes, graph).items() if node in joined}
    assert_same(pulls(x0s, edges, at(nodes)), expected, rtol=1e-9, atol=1e-12)


def test_the_implicit_step_of_a_pair_is_its_formula():
    a, b = trajectories(2)
    x0s = states([a, b], dtype=torch.float64)
    implicit = pulls(x0s, pair(a, b, weight=weights.implicit(3.0)), at([a, b]))
    explicit = pulls(x0s, pair(a, b, weight=3 / 7), at([a, b]))
    assert_same(implicit, explicit, rtol=1e-12, atol=1e-14)
    assert torch.equal(implicit[a], -implicit[b])


def test_a_directed_implicit_edge_moves_its_follower_alone():
    a, b, c = nodes = trajectories(3)
    x0s = states(nodes, dtype=torch.float64)
    found = pulls(x0s, pair(a, b, weight=weights.implicit(3.0), directed=True), at(nodes))
    torch.testing.assert_close(found[b], LEVEL.sigma * 0.75 * (x0s[a] - x0s[b]))
    edges = [*pair(a, b, weight=weights.implicit(3.0)), *pair(b, c, weight=weights.implicit(1.0), directed=True)]
    expected = implicit_reference(x0s, nodes, {(0, 1): 3.0, (1, 2): 1.0}, directed={(1, 2)})
    assert_same(pulls(x0s, edges, at(nodes)), expected)


def test_explicit_edges_add_to_the_implicit_step():
    nodes = trajectories(3)
    x0s = states(nodes, dtype=torch.float64)
    implicit, explicit = chain(nodes, weight=weights.implicit(3.0)), pair(*nodes[:2], weight=0.1)
    both = pulls(x0s, [*implicit, *explicit], at(nodes))
    one, two = pulls(x0s, implicit, at(nodes)), pulls(x0s, explicit, at(nodes))
    assert_same(both, {node: one[node] + two.get(node, 0) for node in nodes})


def test_windows_and_levels_of_their_own_reach_into_the_implicit_solve():
    a, b = trajectories(2)
    late = Level.landing(progress=0.8, alpha=0.8, sigma=0.6, alpha_next=0.9, sigma_next=0.3)
    law = weights.window(weights.implicit(3.0), 0.0, 0.5)
    found = pulls(states([a, b]), pair(a, b, weight=law), {a: LEVEL, b: late})
    assert found.keys() == {a}
    found = pulls(states([a, b]), pair(a, b, weight=weights.implicit(3.0)), {a: LEVEL, b: late})
    torch.testing.assert_close(found[b], -found[a] * (0.3 / 0.6))


def test_rows_are_solved_with_those_they_are_joined_to():
    views, *editors = trajectories(3)
    x0s = {**states([views], (2, 3)), **states(editors, (1, 3), seed=1)}
    edges = [Edge(views[k], editors[k], weight=weights.implicit(3.0)) for k in range(2)]
    explicit = [Edge(views[k], editors[k], weight=3 / 7) for k in range(2)]
    assert_same(pulls(x0s, edges, at(x0s)), pulls(x0s, explicit, at(x0s)), rtol=1e-6, atol=1e-7)


def test_an_implicit_step_over_ends_that_overlap_is_refused():
    a, b = trajectories(2)
    edges = [Edge(a[0], b[0], weight=weights.implicit(1.0)), Edge(a[-2], b[0], weight=weights.implicit(1.0))]
    with pytest.raises(
        ValueError, match=r"'t0': an implicit weight is solved over ends that do not overlap.*row\(-2\)"
    ):
        pulls(states([a, b]), edges, at([a, b]))


@pytest.mark.parametrize("kappa", [0.1, 1.0, 1e6])
@pytest.mark.parametrize("sigma", [0.99, 0.5, 1e-3])
def test_relax_never_moves_a_pair_past_agreement(kappa, sigma):
    a, b = trajectories(2)
    level = Level.landing(progress=0, alpha=0, sigma=1, alpha_next=1 - sigma, sigma_next=sigma)
    x0s = states([a, b], dtype=torch.float64)
    found = pulls(x0s, pair(a, b, weight=weights.relax(kappa)), at([a, b], level))
    moved = {node: x0s[node] + found[node] / level.alpha for node in (a, b)}
    before, after = x0s[a] - x0s[b], moved[a] - moved[b]
    assert ((after / before) > -1e-12).all()
    assert ((after / before) <= 1).all()


# --- Cost ---


class Counter(TorchDispatchMode):
    """Counts dispatched operations."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


def operations(x0s, edges):
    with Counter() as counter:
        pulls(x0s, edges, at(x0s))
    return len(counter.names)


@pytest.mark.parametrize("law", [0.3, weights.relax(1.0), weights.implicit(2.0)], ids=str)
def test_a_pair_costs_three_operations_and_a_directed_one_two(law):
    a, b = trajectories(2)
    assert operations(states([a, b]), pair(a, b, weight=law)) <= 3
    assert operations(states([a, b]), pair(a, b, weight=law, directed=True)) <= 2
    assert weights.is_implicit(law) or operations(states([a, b]), pair(a, b, weight=law, mask=torch.ones(4, 5))) <= 4


def test_a_dense_graph_costs_the_same_however_many_edges_it_has():
    nodes = trajectories(8)
    x0s = states(nodes)
    edges = complete(nodes, weight=0.3)
    assert operations(x0s, edges) == operations(x0s, edges[:-9]) <= 10


def test_parallel_edges_cost_nothing():
    a, b = trajectories(2)
    assert operations(states([a, b]), pair(a, b, weight=0.1) * 20) <= 3


# --- Energies and errors ---


def test_energies_are_reported_before_their_weight_and_with_their_mask():
    a, b = trajectories(2)
    x0s = states([a, b])
    mask = torch.rand(4, 5, generator=torch.Generator().manual_seed(0))
    plain, masked, rows = (
        Edge(a, b, weight=7.0), Edge(a, b, weight=7.0, mask=mask), Edge(a[0], b[1], energies.huber(1.0), weight=0)
    )  # fmt: skip
    found = edge_energies(x0s, [plain, masked, rows])
    difference = x0s[a] - x0s[b]
    torch.testing.assert_close(found[plain], difference.square().sum() / 2)
    torch.testing.assert_close(found[masked], (mask * difference.square()).sum() / 2)
    torch.testing.assert_close(found[rows], energies.huber(1.0)(x0s[a][:1], x0s[b][1:]))
    assert edge_energies({n: x.bfloat16() for n, x in x0s.items()}, [plain])[plain].dtype == torch.float32


CAT, FOX = Trajectory(print, name="cat"), Trajectory(print, name="fox")


@pytest.mark.parametrize(
    ("edge", "shapes", "message"),
    [
        (Edge(CAT, FOX, weight=1), [(1, 4, 64, 64), (1, 4, 96, 96)],
         "edge 'cat' - 'fox': the ends have shapes (1, 4, 64, 64) and (1, 4, 96, 96); an energy compares equal shapes. "
         "Give one end a map, e.g. fox.through(maps.resize(64, 64))."),
        (Edge(CAT, FOX, weight=1), [(4, 3, 8), (1, 3, 8)], "Take a row, e.g. cat[0]."),
        (Edge(CAT[0], FOX, weight=1, directed=True), [(1, 3, 8, 8), (1, 3, 5, 8, 8)], "edge 'cat[0]' -> 'fox'"),
        (Edge(CAT, FOX, weight=1), [(1, 3, 8, 8), (1, 3, 5, 8, 8)], "Take a frame, e.g. fox.frames(0)."),
        (Edge(CAT, FOX, weight=1), [(1, 16, 64), (1, 24, 64)],
         f"an energy compares equal shapes. {maps.UNPACK} Then give one end .through(maps.resize(H, W))"),
        (Edge(CAT, FOX, weight=1), [(1, 16, 64), (1, 16, 8, 8)], maps.UNPACK),
        (Edge(CAT, FOX, weight=1), [(1, 16, 8, 8), (1, 4, 8, 8)], "Give one end a map to the other's shape, a.through(fn)."),
        (Edge(CAT, FOX, energies.low_pass(2), weight=1), [(1, 16, 64)] * 2,
         "edge 'cat' - 'fox': low_pass(2) works on a picture, (B, C, H, W) or a video, (B, C, F, H, W); the state has 3 "
         "axes, those of tokens, (B, S, C). Make a picture of the tokens first"),
        (Edge(CAT.frames(0), FOX.frames(0), weight=1), [(1, 3, 8, 8)] * 2, "view 'cat.frames(0)': frame(0, 2) works on a video"),
        (Edge(CAT.through(lambda x: x.detach()), FOX, weight=1), [(2, 3)] * 2,
         "no gradient passes 'cat through <lambda>', so it would never move."),
        (Edge(CAT, FOX.through(torch.sign).through(lambda x: x.bool().float()), weight=1, directed=True), [(2, 3)] * 2,
         "no gradient passes 'fox through sign through <lambda>'"),
        (Edge(CAT, FOX, energies.huber(1.0), weight=1), [(1, 8), (1, 9)], "the ends have shapes (1, 8) and (1, 9)"),
        (Edge(CAT, FOX, weight=weights.implicit(1)), [(1, 8), (1, 9)], "the ends have shapes (1, 8) and (1, 9)"),
        (Edge(CAT, FOX, weight=1, mask=torch.ones(3, 3)), [(1, 8, 8)] * 2, "mask has shape (3, 3), which does not broadcast"),
        (Edge(CAT, FOX, weight=1, mask=torch.ones(2, 1, 8, 8)), [(1, 1, 8, 8)] * 2, "interpolate(mask, (8, 8))"),
        (Edge(CAT, FOX, lambda a, b: (a - b) ** 2, weight=1), [(2, 3)] * 2,
         "edge 'cat' - 'fox': energy returned shape (2, 3); it must be a scalar. Add .sum()."),
        (Edge(CAT, FOX, lambda a, b: 3.0, weight=1), [(2, 3)] * 2, "energy returned 3.0; it must be a scalar tensor"),
        (Edge(CAT, FOX, lambda a, b: (a - b).detach().sum(), weight=1), [(2, 3)] * 2, "has no gradient in its arguments"),
        (Edge(CAT, FOX, weight=lambda level: float("nan")), [(2, 3)] * 2, "its weight law returned nan at Level(progress=0.4"),
        (Edge(CAT, FOX, weight=lambda level: -1), [(2, 3)] * 2, "it must be finite, 0 or more"),
        (Edge(CAT, FOX, weight=lambda level: None), [(2, 3)] * 2, "its weight law returned None; it must return a number"),
    ],
)  # fmt: skip
def test_bad_edges_are_refused_by_name(edge, shapes, message):
    x0s = {CAT: torch.ones(shapes[0]), FOX: torch.zeros(shapes[1])}
    with pytest.raises(ValueError, match=re.escape(message)):
        pulls(x0s, [edge], at([CAT, FOX]))


@pytest.mark.parametrize("compute", [lambda x0s, edges: pulls(x0s, edges, at([CAT])), edge_energies])
def test_an_end_without_a_prediction_is_named(compute):
    with pytest.raises(ValueError, match="'fox' appears in an edge but not in the trajectories being sampled"):
        compute({CAT: torch.zeros(1)}, pair(CAT, FOX, weight=1))


def test_an_energy_that_does_not_look_at_an_end_does_not_pull_it():
    found = pulls(states([CAT, FOX]), pair(CAT, FOX, weight=1, energy=lambda a, b: a.square().sum()), at([CAT, FOX]))
    assert found.keys() == {CAT}


def test_an_end_that_leads_may_look_through_a_map_without_a_gradient():
    a, b = trajectories(2)
    x0s = states([a, b])
    found = pulls(x0s, pair(a.through(lambda x: x.detach()), b, weight=1, directed=True), at([a, b]))
    assert found.keys() == {b}


def test_errors_of_functions_of_the_user_name_the_edge():
    def broken(*_):
        raise KeyError("mine")

    once = torch.autograd.function.once_differentiable

    class Broken(torch.autograd.Function):
        forward = staticmethod(lambda ctx, x: x.sum())
        backward = staticmethod(once(broken))

    for options, note in [
        ({"energy": broken, "weight": 1}, "in broken, the energy of edge 'cat' - 'fox'"),
        ({"energy": lambda a, b: Broken.apply(a - b), "weight": 1}, "in the gradient of <lambda>, the energy of edge 'cat' - 'fox'"),
        ({"weight": broken}, "in the weight law of edge 'cat' - 'fox'"),
    ]:  # fmt: skip
        with pytest.raises(KeyError, match="mine") as caught:
            pulls(states([CAT, FOX]), pair(CAT, FOX, **options), at([CAT, FOX]))
        assert caught.value.__notes__ == [note]
