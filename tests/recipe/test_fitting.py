"""What a model cannot do is told before its weights are loaded, in dry runs and real ones, with the line and the key."""

import functools
import shutil

import pytest
from PIL import Image

from couple import bundled, recipe
from couple.cli import run
from couple.recipe import fitting, models
from tests.tiny import EDITORS, FAMILIES, MULTI_VIEW

STOCK = [name for name in FAMILIES if name not in MULTI_VIEW and name not in EDITORS]
PAIR = """\
[models.draw]
bundled = "text_to_image"
[models.film]
bundled = "text_to_video"
[models.edit]
folder = "editor"
[trajectories.star]
model = "draw"
prompt = "a pink star"
call = { num_inference_steps = 2 }
[trajectories.moon]
model = "draw"
prompt = "a blue moon"
call = { num_inference_steps = 2 }
[[edges]]
between = ["star", "moon"]
weight = 0.1
"""
FILM = '[trajectories.clip]\nmodel = "film"\nprompt = "a pink star circles"\ncall = { num_inference_steps = 2 }\n'
LONG = FILM.replace("clip", "long").replace("= 2 }", "= 2, num_frames = 5 }")
EDIT = '[trajectories.edit]\nmodel = "edit"\nprompt = "gold"\nimages = { image = "small.png" }\n'
EDGE = '[[edges]]\nbetween = ["clip", "%s"]\nweight = 0.1\n'


@pytest.fixture
def file(tmp_path):
    shutil.copytree(bundled.instruct(), tmp_path / "editor")
    # Whatever is loaded is damaged.
    for weights in (tmp_path / "editor").rglob("*.safetensors"):
        weights.write_bytes(b"")
    Image.new("RGB", (32, 32)).save(tmp_path / "small.png")
    return tmp_path / "pair.toml"


def refused(file, text):
    """What is said of a recipe."""
    file.write_text(text)
    with pytest.raises(ValueError) as caught:
        fitting.check_runs([one for _, one in recipe.expand(recipe.read(file))], fetch=False)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{file}, ")


@pytest.mark.parametrize("act", [recipe.plan, lambda asked: recipe.run(asked, asked.home / "run", "cpu")])
def test_a_run_and_a_dry_run_are_refused_before_anything_is_loaded(file, monkeypatch, act):
    file.write_text(f"{PAIR[:MOON]}height = 32, {PAIR[MOON:]}")
    monkeypatch.setattr(models, "load", None)
    with pytest.raises(ValueError, match="line 16: 'star' is 64 x 64 pixels and 'moon' 32 x 64"):
        act(recipe.read(file))
    assert not (file.parent / "run").exists()


MOON = PAIR.index('prompt = "a blue moon"\ncall = { ') + len('prompt = "a blue moon"\ncall = { ')


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("height = 63", "line 14: `height` of 'moon' is 63, and FluxPipeline makes multiples of 8 here; write height = 56 or 64."),
        ("width = 3", "line 14: `width` of 'moon' is 3, and FluxPipeline makes multiples of 8 here; write width = 8."),
        ("width = 0", "line 14: `width` of 'moon' is 0, and FluxPipeline makes multiples of 8 here; write width = 8."),
        ("height = 32", "line 16: 'star' is 64 x 64 pixels and 'moon' 32 x 64; write a height and width in both calls that make one size, or give them images of one size."),
        ("num_images_per_prompt = 2", "line 16: 'star' is 1 and 'moon' 2; join one, \"moon[0]\"."),
        ("max_sequence_length = 10000", "line 14: 'moon' is refused by FluxPipeline: `max_sequence_length` cannot be greater than 512 but is 10000."),
        ('max_sequence_length = "many"', "line 14: `max_sequence_length` is 'many'; FluxPipeline takes an int, e.g. 512."),
    ],
)  # fmt: skip
def test_a_call_that_cannot_be(file, call, said):
    assert refused(file, f"{PAIR[:MOON]}{call}, {PAIR[MOON:]}") == said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (('"star", "moon"', '"star.frames(0)", "moon"'), "line 16: 'star' is a picture, which has no frames; write 'star'."),
        (('"star", "moon"', '"star", "moon[1]"'), "line 16: 'moon[1]' is none of the 1 that 'moon' makes, which are counted from 0; write \"moon[0]\"."),
        (('prompt = "a blue moon"\n', ""), "line 11: 'moon' is refused by FluxPipeline: Provide either `prompt` or"),
    ],
)  # fmt: skip
def test_an_edge_or_a_trajectory_that_cannot_be(file, changes, said):
    assert refused(file, PAIR.replace(*changes)).startswith(said)


@pytest.mark.parametrize(
    ("other", "text", "said"),
    [
        ("star", "", "'clip' is a video and 'star' is none; join a frame, \"clip.frames(0)\"."),
        ("long", LONG, "'clip' has 13 frames and 'long' 5; write one num_frames in their calls, or join frames"),
        (
            "long",
            LONG.replace("_frames = 5", "_frames = 13, height = 48"),
            "'clip' is 32 x 32 pixels and 'long' 48 x 32",
        ),
    ],
)
def test_videos_that_cannot_be_joined(file, other, text, said):
    assert said in refused(file, PAIR + FILM + text + EDGE % other)


def test_a_size_that_only_the_own_check_of_a_pipeline_knows(file):
    wrong = FILM.replace("= 2 }", "= 2, height = 36 }")
    assert "line 21: 'clip' is refused by WanPipeline: `height` and `width` have" in refused(file, PAIR + wrong)


def test_pictures_that_are_edited_have_the_size_of_what_they_are_given(file):
    more = EDIT + EDIT.replace("[trajectories.edit]", "[trajectories.other]").replace("small", "large")
    Image.new("RGB", (48, 48)).save(file.parent / "large.png")
    more += '[[edges]]\nbetween = ["edit", "other"]\nweight = 0.1\n'
    assert "'edit' is 32 x 32 pixels and 'other' 48 x 48;" in refused(file, PAIR + more)


def test_every_run_of_a_sweep_is_checked_before_the_first(file):
    sweep = '[sweep]\n"trajectories.moon.call.height" = [64, 72]\n'
    assert "'moon' 72 x 64" in refused(file, PAIR + sweep)


def test_a_mask_that_is_not_there_is_told_before_anything_is_loaded(file):
    assert "line 18: `mask` is 'no.png'" in refused(file, PAIR + 'mask = "no.png"\n')


@pytest.mark.parametrize("name", STOCK)
def test_what_pipelines_do_is_not_refused(file, name):
    """Their own checks pass what their tests call them with, and are really asked."""
    pipeline, call = FAMILIES[name].pipeline(), dict(FAMILIES[name].settings(0))
    one, asked = recipe.read(written(file, call)), []
    check = pipeline.check_inputs
    try:
        pipeline.check_inputs = _heard(check, asked)
        fitting._check_sides(one, "star", pipeline)
        fitting._check_call(one, "star", pipeline, call)
    finally:
        del pipeline.check_inputs
    assert asked == ["passed"]


def _heard(check, asked):
    @functools.wraps(check)
    def heard(*args, **kwargs):
        check(*args, **kwargs)
        asked.append("passed")

    return heard


def written(file, call):
    plain = {key: call[key] for key in ("height", "width") if key in call}
    file.write_text(
        PAIR.replace("{ num", "{ " + "".join(f"{key} = {value}, " for key, value in plain.items()) + "num", 1)
    )
    return file


def test_without_edges_nothing_is_called_coupled(file, capsys):
    file.write_text("edges = []\n" + PAIR[: PAIR.index("[[edges]]")])
    assert run(["run", str(file), "--out", str(file.parent / "run")]) == 0
    told = capsys.readouterr()
    assert told.err.splitlines()[-1] == f"couple: {file} has no [[edges]]; nothing was coupled"
    assert told.out == f"{file.parent / 'run/sheet.png'}\n"
    assert {path.name for path in (file.parent / "run").glob("*.png")} == {
        "uncoupled-star.png",
        "uncoupled-moon.png",
        "sheet.png",
    }
    assert run(["run", str(file), "--dry-run"]) == 0
    assert "edges: none; nothing is coupled" in capsys.readouterr().out


def test_sizes_are_compared_as_the_states_have_them(file):
    """A frame of 64 x 64 pixels and a picture of 64 x 64 have 8 and 16 latent pixels a side, of 128 x 128 and 64 the same."""
    text = (
        PAIR + FILM.replace("= 2 }", "= 2, height = 64, width = 64 }") + EDGE.replace("clip", "clip.frames(0)") % "star"
    )
    assert "'clip.frames(0)' is 8 x 8 latent pixels and 'star' 16 x 16;" in refused(file, text)
    file.write_text(text.replace("height = 64, width = 64", "height = 128, width = 128"))
    fitting.check_runs([recipe.read(file)], fetch=False)
