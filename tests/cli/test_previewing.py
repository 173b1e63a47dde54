"""What `--preview` leaves behind, while the run goes on and after it."""

import csv
import os
import shutil
import signal
import time
import warnings

import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

import couple
from couple import atomic
from couple.cli import previewing, run
from couple.cli.folder import whole_folder
from couple.cli.journal import Journal
from couple.cli.options import Execution
from couple.cli.previewing import Previews
from couple.cli.sampling import Sampler
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


def assert_equal(one, other):
    """Two folders have the same files, the same table and the same pixels."""
    assert names(one) == names(other)
    for name in names(one):
        if name.endswith(".png"):
            assert Image.open(one / name).tobytes() == Image.open(other / name).tobytes(), name
        if name == "trace.csv":
            assert (one / name).read_bytes() == (other / name).read_bytes()


def test_pictures_are_there_while_the_run_goes_on_and_the_filmstrip_at_its_end(tmp_path):
    a, b = nodes()
    previews, seen = Previews(tmp_path, [a, b], every=4), []

    def look(info):
        previews(info)
        seen.append(names(tmp_path))
        with (tmp_path / "trace.csv").open(newline="") as file:
            steps = [int(row["step"]) for row in csv.DictReader(file) if row["kind"] == "gap"]
        assert steps == list(range(1, info.step + 2))  # all of them, at any time

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


@pytest.fixture
def laid(monkeypatch):
    """What filmstrips are laid out of: their rows and the labels of their columns."""
    found = []
    sheet = previewing.contact_sheet
    monkeypatch.setattr(previewing, "contact_sheet", lambda *a, **k: found.append(a) or sheet(*a, **k))
    return found


def test_the_filmstrip_has_a_row_for_each_trajectory_and_a_column_for_each_step(tmp_path, laid):
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


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    FAMILIES["flux"].pipeline().save_pretrained(folder)
    return str(folder)


def command(model, out, *options):
    size = ["--size", "32", "--weight", "0.5", "--until", "1"]
    return ["image", "a", "b", "--model", model, *size, "--preview", "4", "--out", str(out), *options]


def steps(table):
    """The steps in a table that is being written, the last of them perhaps only in part."""
    lines = table.read_text().splitlines()[1:-1] if table.exists() else []
    return [int(line.partition(",")[0]) for line in lines]


def test_a_run_that_is_killed_leaves_previews_and_resumed_ends_with_those_of_a_whole_one(model, tmp_path):
    out, seen, whole = (tmp_path / name for name in ("run", "run-preview", "whole"))
    options = ["--steps", "24", "--checkpoint-every", "1"]
    child = os.fork()
    if not child:  # it never returns into the test runner
        try:
            os._exit(run(command(model, out, *options)))
        finally:
            os._exit(1)
    while max(steps(seen / "trace.csv"), default=0) < 6:
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert not out.exists() and (seen / "previews" / "step-0004-1-a-uncoupled.png").exists()
    assert run(command(model, out, *options, "--resume")) == 0
    assert run(command(model, whole, *options)) == 0
    assert {path.name for path in tmp_path.iterdir() if path.name[0] != "."} == {"run", "whole"}
    assert_equal(out, whole)
    assert sorted(set(steps(out / "trace.csv"))) == list(range(1, 25))
    # Every fourth step from the first to the last, of four trajectories.
    assert len(list((out / "previews").iterdir())) == 4 * 7


def test_old_previews_are_cleared_and_what_is_none_is_refused_before_sampling(model, tmp_path, capsys):
    seen = tmp_path / "run-preview"
    (seen / "previews").mkdir(parents=True)
    for name in ("previews/step-0003-1-old.png", ".trace.csv.part", "trace.csv", "previews/.step-0003-1-old.png.part"):
        (seen / name).write_text("old")
    (seen / "notes.txt").write_text("mine")
    before = names(seen)
    for more in ([], ["--resume"]):
        assert run(command(model, tmp_path / "run", "--steps", "2", *more)) == 1
        told = capsys.readouterr().err
        assert f"previews go to {seen}, but {seen / 'notes.txt'} is none of them" in told
        assert names(seen) == before and not (tmp_path / "run").exists()
    (seen / "notes.txt").unlink()
    assert run(command(model, tmp_path / "run", "--steps", "2")) == 0
    assert not seen.exists()
    assert {path.name[:9] for path in (tmp_path / "run" / "previews").iterdir()} == {"step-0001", "step-0002"}
    assert run(command(model, tmp_path / "run", "--steps", "2")) == 0  # a finished run is in nobody's way

    (seen / "previews").mkdir(parents=True)
    (seen / "trace.png").touch()
    (seen / "previews" / "mine.png").touch()  # put there while the run goes on
    previewing.clear(seen)
    assert names(seen) == {"previews/mine.png"}
    shutil.rmtree(seen)

    shutil.move(tmp_path / "run", seen)  # another run of that name
    assert run(command(model, tmp_path / "run", "--steps", "2")) == 1
    assert (seen / "run.json").exists()
    seen.rename(tmp_path / "elsewhere")
    seen.symlink_to(tmp_path / "elsewhere")
    assert run(command(model, tmp_path / "run", "--steps", "2")) == 1


def test_previews_of_a_run_that_diverged_stay(model, tmp_path, capsys):
    strong = ["--law", "constant", "--weight", "1e30", "--steps", "4"]
    assert run(command(model, tmp_path / "run", *strong)) == 3
    seen = tmp_path / "run-preview"
    assert f"previews up to there are in {seen}" in capsys.readouterr().err
    assert {"filmstrip.png", "trace.csv", "trace.png", "previews/step-0001-3-a-coupled.png"} <= names(seen)
    assert not (tmp_path / "run").exists()


class Stop(Exception):
    pass


#: What happens at a step of the second sampling of a run, by the step.
events = {}


def happens(pipeline, i, t, given):
    events.get(i, lambda: None)()
    return given


def fail():
    raise Stop


@pytest.mark.parametrize(
    ("every", "event", "raised"),
    [(1, fail, Stop), (None, lambda: os.kill(os.getpid(), signal.SIGINT), KeyboardInterrupt)],
    ids=["error", "Ctrl-C"],
)
def test_a_run_that_samples_twice_has_all_of_it_in_one_filmstrip(tmp_path, laid, monkeypatch, every, event, raised):
    def sampled(name, resume=False):
        out = tmp_path / name
        with whole_folder(out) as folder:
            execution = Execution(preview=4, checkpoint_every=every, resume=resume)
            sampler = Sampler(execution, None, torch.device("cpu"), out, folder, Journal(show=False))
            first, (a, b) = nodes((5,)), nodes()
            b = couple.Trajectory(b.pipeline, name="b", **b.call_kwargs, callback_on_step_end=happens)
            sampler(first)
            sampler([a, b], couple.pair(a, b, weight=0.1))
        sampler.forget()
        return out

    whole = sampled("one")
    pictures = {(path.name[5:9], path.name[10]) for path in (whole / "previews").iterdir()}
    assert pictures == {(s, "1") for s in ("0001", "0004", "0005")} | {
        (s, k) for s in ("0001", "0004", "0006") for k in "23"
    }
    monkeypatch.setitem(events, 4, event)
    with pytest.raises(raised):
        sampled("two")
    assert (tmp_path / "two-preview" / "previews" / "step-0005-3-b.png").exists()  # the last before the stop
    monkeypatch.delitem(events, 4)
    assert_equal(sampled("two", resume=True), whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
    # Three rows and four columns; the first row has no picture of step 6, the others none of step 5.
    (first, second, _), labels = laid[-1]
    assert labels == ["step 1", "step 4", "step 5", "step 6"]
    assert [len(set(row.pictures[k].tobytes())) > 3 for row in (first, second) for k in (2, 3)] == [
        True,
        False,
        False,
        True,
    ]
