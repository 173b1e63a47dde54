"""`couple rerun` makes a run again, bit for bit, and says what differs when something does."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from couple.cli import run, stamp

COMMANDS = {
    "image": ["image", "a pink star", "a blue moon", "--steps", "2", "--seed", "5", "--size", "32"],
    "video": ["video", "a pink star circles", "a blue square circles", "--steps", "2", "--frames", "5"],
    "edit": ["edit", "--steps", "2", "--views", "0-2"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of each command's run."""
    home = tmp_path_factory.mktemp("runs")
    for name, command in COMMANDS.items():
        assert run([*command, "--out", str(home / name)]) == 0
    return home


@pytest.fixture
def drawn(runs, tmp_path):
    """A copy of the run of `couple image` that may be spoilt."""
    shutil.copytree(runs / "image", tmp_path / "run")
    return tmp_path / "run"


def edited(folder, change):
    record = json.loads((folder / "run.json").read_text())
    change(record)
    (folder / "run.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("file", "count"),
    [
        ("image/run.json", 5),
        ("image/coupled-1-a-pink-star.png", 5),
        ("video/side-by-side.mp4", 10),
        ("edit/coupled/images/0001.png", 14),
    ],
)
def test_a_run_repeats_bit_for_bit_from_any_of_its_files(runs, tmp_path, capsys, file, count):
    assert run(["rerun", str(runs / file), "--out", str(tmp_path / "again")]) == 0
    told = capsys.readouterr()
    assert told.out.splitlines()[-1] == f"{count} of {count} pictures and clips are equal, bit for bit"
    assert "differ" not in told.err
    old, new = (stamp.read(folder / "run.json") for folder in (runs / file.split("/")[0], tmp_path / "again"))
    assert old.request == new.request and old.models == new.models and old.batch == new.batch


def test_equal_is_said_of_pixels_only_if_they_are(runs, drawn, tmp_path, capsys):
    spoilt = np.asarray(Image.open(drawn / "coupled-2-a-blue-moon.png")).copy()
    spoilt[3, 4, 1] ^= 7
    Image.fromarray(spoilt).save(drawn / "coupled-2-a-blue-moon.png")
    assert run(["rerun", str(drawn / "run.json"), "--out", str(tmp_path / "again")]) == 1
    told = capsys.readouterr()
    assert "4 of 5 pictures and clips are equal" in told.out
    assert "couple: not equal: coupled-2-a-blue-moon.png (by up to " in told.err


def test_what_differs_from_then_is_said(drawn, tmp_path, capsys):
    def another_world(record):
        record["versions"]["torch"] = "1.0"
        record["machine"]["threads"] = 64
        record["models"]["model"]["components"]["transformer"]["files"]["diffusion_pytorch_model.safetensors"] = (
            "0" * 64
        )

    edited(drawn, another_world)
    assert run(["rerun", str(drawn / "run.json"), "--out", str(tmp_path / "again")]) == 0
    told = capsys.readouterr().err
    assert "couple: differs from the record: machine.threads was 64, is 1; versions.torch was '1.0', is '" in told
    assert (
        "couple: differed from the record: models.model.components.transformer.files."
        "diffusion_pytorch_model.safetensors was '0000" in told
    )


def test_another_seed_in_the_record_makes_other_pictures(drawn, tmp_path, capsys):
    edited(drawn, lambda record: record["request"].update(seed=6))
    assert run(["rerun", str(drawn / "run.json"), "--out", str(tmp_path / "again")]) == 1
    assert "of 5 pictures and clips are equal" in capsys.readouterr().out


def test_a_picture_alone_is_enough(runs, tmp_path, capsys):
    shutil.copy(runs / "image/sheet.png", tmp_path / "alone.png")
    assert run(["rerun", str(tmp_path / "alone.png"), "--out", str(tmp_path / "again")]) == 0
    assert "nothing from then lies beside the record" in capsys.readouterr().out
    made, then = (np.asarray(Image.open(folder / "sheet.png")) for folder in (tmp_path / "again", runs / "image"))
    assert np.array_equal(made, then)


FAULTS = {
    "older": (lambda r: r.pop("layout"), "the record has layout 1 and this version of couple reads 2"),
    "newer": (lambda r: r.update(layout=3), "the record has layout 3"),
    "layout-type": (lambda r: r.update(layout=[2]), r"the record has layout \[2\]"),
    "extra": (lambda r: r.update(run="rm -rf"), "'run' of its record cannot be used .*Extra inputs"),
    "missing": (lambda r: r.pop("models"), "'models' of its record cannot be used .*required"),
    "command": (lambda r: r.update(command="exec"), "'command' of its record"),
    "request-extra": (lambda r: r["request"].update(out="/etc"), "'request.out' of its record .*Extra inputs"),
    "request-type": (lambda r: r["request"].update(seed="0"), "'request.seed' of its record .*valid integer"),
    "request-float": (lambda r: r["request"].update(steps=2.5), "'request.steps' of its record"),
    "request-list": (lambda r: r["request"].update(prompts="ab"), "'request.prompts' of its record"),
    "request-value": (lambda r: r["request"].update(law="exec"), "asks for what cannot be done: --law 'exec'|--law exec"),
    "request-count": (lambda r: r["request"].update(prompts=["a"]), "at least two prompts, got 1"),
    "nan": (lambda r: r["request"].update(weight=float("nan")), "'request.weight' of its record .*finite"),
    "model-type": (lambda r: r["request"].update(model=["a"]), "'request.model' of its record"),
    "model-path": (lambda r: r["request"].update(model="/nowhere/at/all"), "is no folder here and no hub id"),
    "digest": (lambda r: r["inputs"].update(a="no hash"), "'inputs.a' of its record"),
    "long": (lambda r: r["request"].update(model="a" * 30_000), "'request.model' of its record .*20000 characters"),
    "large": (lambda r: r["warnings"].extend(["a" * 10_000] * 120), "more than 1048576 characters"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_record_that_is_not_one_is_refused_in_a_sentence(drawn, capsys, fault):
    change, message = FAULTS[fault]
    edited(drawn, change)
    before = sorted(drawn.parent.rglob("*"))
    assert run(["rerun", str(drawn / "run.json"), "--out", str(drawn.parent / "again")]) == 1
    told = capsys.readouterr().err
    assert told.startswith("couple: ") and told.count("\n") == 1 and len(told) < 1000
    with pytest.raises(ValueError, match=message):
        raise ValueError(told)
    assert sorted(drawn.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("run.json", b"", "holds no record"),
        ("run.json", b"\xff\xfe", "holds no record"),
        ("run.json", b"[" * 100_000, "nested too deeply"),
        ("run.json", b"[1]", "holds no record but a list"),
        ("run.json", b'{"layout": 2, "a": "\\ud800"}', "of its record cannot be used"),
        ("a.png", b"", "cannot be used as a picture"),
        ("a.gif", b"GIF89a", "cannot be used as a picture"),
        ("a.mp4", b"", "holds no record"),
        ("a.mp4", b"\0\0\0\x08moov", "holds no record"),
        ("a.txt", b"{}", "is none of .json, .png, .gif, .mp4"),
    ],
)
def test_a_file_that_holds_no_record_is_refused(tmp_path, capsys, name, content, message):
    (tmp_path / name).write_bytes(content)
    assert run(["rerun", str(tmp_path / name), "--out", str(tmp_path / "again")]) == 1
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_run_itself_is_not_written_over(drawn, capsys):
    assert run(["rerun", str(drawn / "run.json"), "--out", str(drawn)]) == 1
    assert "is the run itself, which is kept" in capsys.readouterr().err


def test_rerun_without_a_file_says_how(capsys):
    assert run(["rerun"]) == 2
    assert "couple rerun out/run/run.json" in capsys.readouterr().err


def test_a_record_from_before_an_option_was_there_is_repeated_without_it(drawn, tmp_path, capsys):
    def older(record):
        del record["request"]["parallel"], record["batch"]["processes"], record["files"]

    edited(drawn, older)
    assert run(["rerun", str(drawn / "run.json"), "--out", str(tmp_path / "again")]) == 0
    assert "5 of 5 pictures and clips are equal" in capsys.readouterr().out


def test_a_record_lists_what_was_written(runs):
    for name in COMMANDS:
        found = {path.relative_to(runs / name).as_posix() for path in (runs / name).rglob("*") if path.is_file()}
        assert set(stamp.read(runs / name / "run.json").files) == found - {"run.json"}
