"""Gap, energy and pull as a table and as a plot."""

import csv
import io
import math
from types import SimpleNamespace

import numpy as np
import torch
from diffusers import DDIMScheduler

import couple
from couple.cli import trace
from couple.cli.trace import KINDS, Point

PAPER = (250, 249, 246)


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
    falling = [Point(step, 0.0, "gap", "a - b", 10.0 ** (1 - step / 5)) for step in range(1, 11)]
    panel = trace.plot(falling)
    assert panel.size == (960, 240)
    top_left, bottom_left = drawn(panel, (84, 44, 350, 110)), drawn(panel, (84, 150, 350, 206))
    top_right, bottom_right = drawn(panel, (400, 44, 660, 100)), drawn(panel, (400, 140, 660, 206))
    assert top_left > 0 and bottom_right > 0 and bottom_left == top_right == 0


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
