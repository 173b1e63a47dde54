"""Gap, energy and pull as a table and as a plot."""

import csv
import io
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

import couple
from couple.cli import trace
from couple.cli.trace import KINDS, Point


def trajectory(name, mean, steps=5):
    model = couple.ExactDenoiser.gaussian(torch.full((3, 8, 8), mean), 0.5)
    generator = torch.Generator().manual_seed(len(name))
    pipeline = couple.DenoiserPipeline(model, DDIMScheduler())
    return couple.Trajectory(pipeline, name=name, shape=(1, 3, 8, 8), num_inference_steps=steps, generator=generator)


def test_a_run_is_traced_at_every_meeting():
    a, b, c = trajectory("a", -1.0), trajectory("bb", 1.0), trajectory("alone", 0.0)
    x0, points, pulls = [], [], []

    def look(info):
        x0.append((info.x0[a], info.x0[b]))
        pulls.append(info.pull_norms[a])
        points.extend(trace.points(info))

    (edge,) = couple.pair(a, b, weight=0.1)
    couple.sample([a, b, c], [edge], callback=look, progress=False)
    by = {(point.step, point.kind, point.of): point for point in points}
    assert len(by) == len(points) == 5 * 4
    for step, (one, other) in enumerate(x0, 1):
        gap, energy, pull = (by[step, *what] for what in (("gap", edge.label), ("energy", edge.label), ("pull", "a")))
        assert math.isclose(gap.value, float((one - other).pow(2).mean().sqrt()), rel_tol=1e-6)
        assert math.isclose(energy.value, gap.value**2 * 192 / 2, rel_tol=1e-5)
        assert pull.value == pulls[step - 1] and gap.progress == (step - 1) / 5
    assert not any(point.of == "alone" for point in points)


def test_a_table_reads_back_whatever_the_names():
    points = [Point(1, 0.0, "gap", 'a "b",\n=c', 1 / 3), Point(2, 0.5, "energy", "ü", math.inf)]
    head, *rows = csv.reader(io.StringIO(trace.table(points), newline=""))
    assert head == ["step", "progress", "kind", "of", "value"]
    assert [Point(int(s), float(p), kind, of, float(v)) for s, p, kind, of, v in rows] == points


def drawn(panel, box):
    """How many pixels of a box are neither paper nor one of the greys of the grid and the letters."""
    pixels = np.asarray(panel.crop(box)).astype(int)
    return int((pixels.max(2) - pixels.min(2) > 60).sum())


def test_a_plot_goes_down_where_the_gap_does():
    falling = [Point(step, 0.0, "gap", "a - b", 2 - step / 5) for step in range(1, 11)]
    panel = trace.plot(falling)
    assert panel.size == (960, 240)
    top_left, bottom_left = drawn(panel, (84, 44, 300, 110)), drawn(panel, (84, 150, 300, 206))
    top_right, bottom_right = drawn(panel, (450, 44, 660, 100)), drawn(panel, (450, 150, 664, 210))
    assert top_left > 0 and bottom_right > 0 and bottom_left == top_right == 0


def test_a_pull_of_nothing_is_drawn_at_nothing_and_what_is_no_number_breaks_the_line():
    def panel(values):
        return trace.plot([Point(step, 0.0, "pull", "a", value) for step, value in enumerate(values, 1)])

    # From the third of ten steps on: a line along the foot of the axes.
    right = (220, 200, 660, 212)
    assert drawn(panel([3.0, 2.0, *[0.0] * 8]), right) > 440
    assert drawn(panel([3.0, 2.0, *[math.nan] * 8]), right) == 0
    broken = panel([1.0] * 4 + [math.inf] + [1.0] * 5)
    assert drawn(broken, (280, 40, 340, 200)) * 3 < drawn(broken, (90, 40, 150, 200))


def inks(panel, box):
    """The colours of the lines that are in a box."""
    pixels = {pixel for _, pixel in panel.crop(box).getcolors(1 << 20)}
    wanted = {ink: tuple(bytes.fromhex(ink[1:])) for ink in ("#0072b2", "#d55e00", "#009e73")}
    return {ink for ink, colour in wanted.items() if any(math.dist(colour, pixel) < 60 for pixel in pixels)}


def test_lines_that_coincide_are_all_seen():
    points = [Point(step, 0.0, "pull", name, float(step)) for step in range(1, 6) for name in "abc"]
    assert inks(trace.plot(points), (84, 44, 660, 206)) == {"#0072b2", "#d55e00", "#009e73"}


def test_the_gap_without_the_coupling_is_drawn_dashed():
    edge = "'a (coupled)' - 'b (coupled)'"
    coupled = [Point(step, 0.0, "gap", edge, 1.0) for step in range(1, 6)]
    both = [*coupled, *(Point(step, 0.0, trace.UNCOUPLED, edge, 4.0) for step in range(1, 6))]
    panel = trace.plot(both)
    above, below = ([drawn(panel, (x, top, x + 1, top + 10)) > 0 for x in range(90, 650)] for top in (40, 160))
    assert all(below) and 0.3 < sum(above) / len(above) < 0.8


@pytest.mark.parametrize("most", [1e-300, 0.037, 0.3, 0.999, 1.0, 1.0001, 3.0, 7, 9.99, 4321.0, 1e300])
def test_ticks_are_round_and_hold_what_is_drawn(most):
    ticks = trace._ticks(most)
    assert ticks[0] == 0 and most <= ticks[-1] * (1 + 1e-9) and ticks[-2] < most
    assert 3 <= len(ticks) <= 6
    unit = f"{ticks[1]:e}"
    assert float(unit[:-4].rstrip("e")) in (1, 2, 5)


def test_the_gap_without_the_coupling_is_that_of_the_same_calls_without_an_edge():
    model = couple.ExactDenoiser.gaussian(torch.zeros(3, 8, 8), 0.5)
    pipeline = couple.DenoiserPipeline(model, DDIMScheduler())

    def node(seed):
        generator = torch.Generator().manual_seed(seed)
        call = {"shape": (1, 3, 8, 8), "num_inference_steps": 5}
        return couple.Trajectory(pipeline, name="x", generator=generator, **call)

    alone, (a, b), seen, x0 = [node(2), node(3), node(1)], [node(1), node(2)], [], []

    def look(info):
        seen.extend(point for point in trace.points(info) if point.kind == trace.UNCOUPLED)
        x0.append((info.x0[alone[2]], info.x0[alone[0]]))

    (edge,) = couple.pair(a, b, weight=0.1)
    couple.sample([*alone, a, b], [edge], callback=look, progress=False)
    assert [(point.step, point.of) for point in seen] == [(step, edge.label) for step in range(1, 6)]
    for point, (one, other) in zip(seen, x0, strict=True):
        assert math.isclose(point.value, float((one - other).pow(2).mean().sqrt()), rel_tol=1e-6)

    seen.clear()
    couple.sample(
        [*alone[1:], a, b],
        couple.pair(a, b, weight=0.1),
        callback=lambda info: seen.extend(trace.points(info)),
        progress=False,
    )
    assert {point.kind for point in seen} == set(KINDS)  # one end has no twin


def test_a_long_edge_is_named_by_the_beginnings_of_both_ends():
    assert trace._fitting("'a pink star' - 'a blue moon'", 600) == "'a pink star' - 'a blue moon'"
    name = trace._fitting(f"'star {'x' * 90}' -> 'moon {'y' * 90}'", 400)
    assert name.startswith("'star x") and " -> 'moon y" in name and name.endswith("y...")


def test_a_plot_has_a_panel_for_each_kind_and_bears_what_has_no_logarithm():
    values = (0.0, math.nan, math.inf, 1e-300, 1e300, 2.0)
    points = [Point(k, 0.0, kind, "a" * 400, value) for kind in KINDS for k, value in enumerate(values, 1)]
    assert trace.plot(points).size == (960, 720)
    assert trace.plot([]).size == (960, 240)
    for flat in (0.0, 2.0):
        assert trace.plot([Point(1, 0.0, "gap", "a", flat)]).size == (960, 240)
    many = [Point(1, 0.0, "gap", f"{k}", 1.0 + k) for k in range(100)]
    assert trace.plot(many).size == (960, 240)


def test_ends_of_unequal_shapes_have_no_gap():
    a, b = trajectory("a", 0.0), trajectory("b", 0.0)
    (edge,) = couple.pair(a, b, weight=1.0)
    x0 = {a: torch.zeros(1, 3, 8, 8), b: torch.zeros(1, 3, 4, 4)}
    info = SimpleNamespace(step=0, progress=0.0, energies={edge: 1.0}, x0=x0, pull_norms={})
    assert math.isnan(next(trace.points(info)).value)
