"""A run leaves a whole folder behind, or nothing."""

import json
import shutil

import pytest

from couple.cli.folder import PAGE, RECORD, slug, unused_folder, whole_folder


def test_a_good_end_leaves_what_was_written_and_nothing_else(tmp_path):
    with whole_folder(tmp_path / "new" / "run") as folder:
        (folder / RECORD).write_text("{}")
        assert not (tmp_path / "new" / "run").exists()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["run"]
    assert [path.name for path in (tmp_path / "new" / "run").iterdir()] == [RECORD]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_nothing_not_even_the_parents(tmp_path, failure):
    with pytest.raises(failure), whole_folder(tmp_path / "new" / "run") as folder:
        (folder / RECORD).write_text("{}")
        raise failure
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_run_is_replaced_on_success_and_kept_on_failure(tmp_path):
    run = tmp_path / "run"
    for text in ("first", "second"):
        with whole_folder(run) as folder:
            (folder / RECORD).write_text(json.dumps({"files": [text, "sub/picture"]}))
            (folder / text).touch()
            (folder / "sub").mkdir()
            (folder / "sub" / "picture").touch()
        (run / PAGE).touch()
        shutil.rmtree(run / "sub")  # what somebody has thrown away is not missed
    with pytest.raises(ValueError), whole_folder(run) as folder:
        raise ValueError
    assert json.loads((run / RECORD).read_text())["files"][0] == "second"
    (run / PAGE).unlink()
    assert sorted(path.name for path in run.iterdir()) == [RECORD, "second"]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_empty_folder_is_used_and_one_with_other_things_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with whole_folder(tmp_path / "empty") as folder:
        (folder / RECORD).touch()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").touch()
    with (
        pytest.raises(ValueError, match="other things in it, cat.png; name a new one"),
        whole_folder(tmp_path / "photos"),
    ):
        pass


@pytest.mark.parametrize(
    "record", ['{"files": ["a.png"]}', '{"files": []}', "{}", "[1]", "no JSON", '{"files": 3}', "[" * 100_000]
)
@pytest.mark.parametrize("name", ["notes.txt", "thesis/chapter.tex", "link"])
def test_what_others_have_put_beside_a_run_is_not_lost(tmp_path, record, name):
    run = tmp_path / "run"
    (run / name).parent.mkdir(parents=True)
    (run / name).symlink_to("/nowhere") if name == "link" else (run / name).write_text("mine")
    (run / RECORD).write_text(record)
    with pytest.raises(ValueError, match=f"other things in it, .*{name}"), whole_folder(run):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert (run / name).is_symlink() or (run / name).read_text() == "mine"


def test_a_file_and_a_place_that_cannot_be_made_are_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file; name a folder"), whole_folder(tmp_path / "file"):
        pass
    with (
        pytest.raises(ValueError, match="cannot be made .*name a folder"),
        whole_folder(tmp_path / "file" / "run"),
    ):
        pass


def test_the_default_folder_is_named_for_the_prompts_and_never_taken(tmp_path):
    first = unused_folder(["A pink star!", "a blue/moon"], tmp_path)
    assert first == tmp_path / "a-pink-star-a-blue-moon"
    first.mkdir()
    assert unused_folder(["A pink star!", "a blue/moon"], tmp_path) == tmp_path / "a-pink-star-a-blue-moon-2"


def test_slugs_are_safe_file_names():
    assert slug("../../etc/passwd") == "etc-passwd"
    assert slug("!?") == "untitled"
    assert len(slug("word " * 100)) <= 40
