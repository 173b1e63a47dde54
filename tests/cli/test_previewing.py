"""What `--preview` leaves behind, while the run goes on and after it."""

import csv
import warnings

import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

import couple
from couple import atomic
from couple.cli import previewing
from couple.cli.previewing import Previews
from tests.tiny import FAMILIES


def nodes(steps=(6, 6)):
    family = FAMILIES["flux"]
    return [
        couple.Trajectory(
            family.pipeline(),
            name=f"../<b>{k}</b> a pink star",
            **{**family.arguments(k), "num_inference_steps": count, "output_type": "latent"},
        )
        for k, count in enumerate(steps)
    ]


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_pictures_are_there_while_the_run_goes_on_and_the_filmstrip_at_its_end(tmp_path):
    a, b = nodes()
    previews, seen = Previews(tmp_path, [a, b], every=4), []

    def look(info):
        previews(info)
        seen.append(names(tmp_path))

    couple.sample([a, b], couple.pair(a, b, weight=0.1), callback=look, progress=False)
    previews.finish()

    def pictures(step):
        return {f"previews/step-{step:04d}-{k}-b-{k - 1}-b-a-pink-star.png" for k in (1, 2)}

    tracing = {"trace.csv", "trace.png"}
    assert seen[0] == seen[2] == tracing | pictures(1)
    assert seen[3] == seen[5] == tracing | pictures(1) | pictures(4)
    assert names(tmp_path) == tracing | pictures(1) | pictures(4) | pictures(6) | {"filmstrip.png"}
    with (tmp_path / "trace.csv").open(newline="") as file:
        assert [int(row["step"]) for row in csv.DictReader(file) if row["kind"] == "gap"] == [1, 2, 3, 4, 5, 6]
    assert previews.how == {a.name: "projection", b.name: "projection"}


def test_the_filmstrip_has_a_row_for_each_trajectory_and_a_column_for_each_step(tmp_path, monkeypatch):
    laid = []
    sheet = previewing.contact_sheet
    monkeypatch.setattr(previewing, "contact_sheet", lambda *a, **k: laid.append(a) or sheet(*a, **k))
    a, b = nodes((3, 6))
    previews = Previews(tmp_path, [a, b], every=1)
    couple.sample([a, b], callback=previews, progress=False)
    previews.finish()
    ((rows, labels),) = laid
    assert [row.note for row in rows] == [a.name, b.name]
    assert labels == [f"step {k}" for k in range(1, len(labels) + 1)] and len(labels) >= 6
    for number, row in enumerate(rows, 1):
        for step, picture in enumerate(row.pictures, 1):
            (path,) = (tmp_path / "previews").glob(f"step-{step:04d}-{number}-*.png")
            assert picture.tobytes() == Image.open(path).tobytes()


def test_long_runs_have_a_filmstrip_of_a_dozen_columns(tmp_path):
    (a,) = nodes((30,))
    previews = Previews(tmp_path, [a], every=1)
    couple.sample([a], callback=previews, progress=False)
    previews.finish()
    assert len(list((tmp_path / "previews").iterdir())) == 30
    assert Image.open(tmp_path / "filmstrip.png").width < 12 * 300


def test_a_run_that_was_stopped_is_gone_on_with(tmp_path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    whole.mkdir()
    halves.mkdir()
    seen = []

    def record(folder, infos, finish):
        previews = Previews(folder, [a, b], every=2)
        for info in infos:
            previews(info)
        if finish:
            previews.finish()

    a, b = nodes()
    couple.sample([a, b], couple.pair(a, b, weight=0.1), callback=seen.append, progress=False)
    record(whole, seen, finish=True)
    record(halves, seen[:4], finish=False)
    record(halves, seen[2:], finish=True)
    assert names(whole) == names(halves)
    for name in names(whole):
        assert (whole / name).read_bytes() == (halves / name).read_bytes()


def test_what_cannot_be_written_or_painted_is_told_once_and_the_run_goes_on(tmp_path, monkeypatch):
    a, b = nodes()

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic, "write", full)
    previews = Previews(tmp_path, [a, b], every=1)
    with pytest.warns(RuntimeWarning, match="no preview: .* cannot be written .No space left") as told:
        couple.sample([a, b], callback=previews, progress=False)
        previews.finish()
    assert len([warning for warning in told if "no preview" in str(warning.message)]) == 1
    assert names(tmp_path) == set()
    monkeypatch.undo()

    model = couple.ExactDenoiser.gaussian(torch.zeros(7), 1.0)
    pipeline = couple.DenoiserPipeline(model, DDIMScheduler())
    point = couple.Trajectory(pipeline, shape=(1, 7), num_inference_steps=3)
    previews = Previews(tmp_path, [point], every=1)
    with pytest.warns(RuntimeWarning, match=r"\(1, 7\) of 'DenoiserPipeline' is no picture. The run goes on"):
        couple.sample([point], callback=previews, progress=False)
    previews.finish()
    assert names(tmp_path) == {"trace.csv", "trace.png"}


def test_a_file_is_whole_or_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "file"
    atomic.write(path, b"old")

    def stop(handle):
        assert path.read_bytes() == b"old"
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic.os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        atomic.write(path, b"new")
    assert path.read_bytes() == b"old" and names(tmp_path) == {"file"}
    monkeypatch.undo()
    atomic.write(path, b"new")
    assert path.read_bytes() == b"new" and names(tmp_path) == {"file"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Previews(tmp_path, [], every=1).finish()
