"""`couple sweep`: every combination once, in processes of its own, and what went wrong told in a table."""

import importlib
import json

import pytest
from PIL import Image

from couple.jobs import board as jobs

# In the package the name stands for the command itself.
command = importlib.import_module("couple.cli.sweep")

RECIPE = """
max_batch = 1
[models.draw]
bundled = "text_to_image"
[trajectories.star]
model = "draw"
prompt = "a pink star"
call = { num_inference_steps = 2 }
[trajectories.moon]
model = "draw"
prompt = "a blue moon"
seed = 1
call = { num_inference_steps = 2 }
[[edges]]
between = ["star", "moon"]
weight = 0.1
[output]
uncoupled = false
[sweep]
edges.0.weight.strength = [0.0, 0.5]
trajectories.star.seed = [0, 7]
"""


@pytest.fixture
def recipe(tmp_path):
    file = tmp_path / "weights.toml"
    file.write_text(RECIPE.replace("weight = 0.1", 'weight = { law = "relax", strength = 0.1 }'))
    return file


def pixels(path):
    # A file also holds its record, which names its seed.
    return Image.open(path).convert("RGB").tobytes()


def test_all_combinations_are_run_and_none_again(recipe, tmp_path, capsys):
    out = tmp_path / "out"
    assert command.sweep(recipe, out=out, workers=1) == 0
    folders = sorted(path.name for path in out.iterdir() if path.name[0] == "0")
    assert folders == [
        "000-strength-0.0-seed-0",
        "001-strength-0.0-seed-7",
        "002-strength-0.5-seed-0",
        "003-strength-0.5-seed-7",
    ]
    stars = [pixels(out / name / "coupled-star.png") for name in folders]
    assert len(set(stars)) == 4
    moons = [pixels(out / name / "coupled-moon.png") for name in folders]
    assert moons[0] == moons[1] and len(set(moons)) == 3
    table = capsys.readouterr().out
    assert table.count("finished  ") == 4 and "4 of 4 finished" in table
    before = (out / "manifest.jsonl").read_text()
    assert command.sweep(recipe, out=out, workers=2) == 0
    assert (out / "manifest.jsonl").read_text() == before
    assert all(json.loads(line)["status"] == jobs.FINISHED for line in before.splitlines())


def test_another_recipe_may_not_go_on_in_the_folder_of_one(recipe, tmp_path):
    out = tmp_path / "out"
    jobs.Board(out, [job := command.planned(recipe, [])[0]]).write(jobs.Board(out, [job]).entry(job, None, None))
    with pytest.raises(ValueError, match="made from other settings; name another folder"):
        command.sweep(recipe, sets=["trajectories.moon.seed=3"], out=out)


def test_what_a_run_refuses_is_in_the_table_and_the_code(recipe, tmp_path, capsys):
    words = ["trajectories.star.call.num_inference_steps=2.5", "sweep.trajectories.star.seed=[0]"]
    assert command.sweep(recipe, sets=[*words, "sweep.edges.0.weight.strength=[0.0]"], out=tmp_path / "out") == 1
    assert "takes an int" in capsys.readouterr().out


def test_the_command_line_is_checked_before_anything_runs(recipe):
    with pytest.raises(command.Misuse, match="name a recipe"):
        command.sweep(None)
    with pytest.raises(command.Misuse, match="--workers 0 must be 1 or more"):
        command.sweep(recipe, workers=0)
