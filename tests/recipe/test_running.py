"""Recipes run, repeat bit for bit, and reach nothing outside their folder."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from couple import recipe
from couple.cli import run, stamp
from couple.recipe import calls
from tests.tiny import FAMILIES

RECIPES = Path(__file__).parents[2] / "recipes"
QUICK = [f"trajectories.{name}.call.num_inference_steps=2" for name in ("star", "moon")]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a model, pictures, and things that a recipe must not reach beside it."""
    outer = tmp_path_factory.mktemp("outer")
    home = outer / "home"
    home.mkdir()
    FAMILIES["instruct_pix2pix"].pipeline().save_pretrained(home / "editor")
    shutil.copytree(home / "editor", outer / "editor")
    for place in (home, outer):
        Image.effect_noise((16, 16), 90).convert("RGB").save(place / "cat.png")
    half = Image.new("L", (16, 16))
    half.paste(255, (0, 0, 8, 16))
    half.save(home / "half.png")
    (home / "link.png").symlink_to(outer / "cat.png")
    (home / "out").symlink_to(outer)
    (home / "words.png").write_text("no picture")
    return home


def edit(home, *, folder="editor", image="cat.png", mask="", call="", weight="0.5"):
    """A recipe that edits one picture twice."""
    calls = f"call = {{ num_inference_steps = 2{call} }}"
    ends = "".join(
        f'[trajectories.{name}]\nmodel = "ip2p"\nprompt = "gold"\nseed = {seed}\nimages = {{ image = {json.dumps(image)} }}\n{calls}\n'
        for seed, name in enumerate("ab")
    )
    mask = f"mask = {json.dumps(mask)}\n" if mask else ""
    (home / "edit.toml").write_text(
        f'[models.ip2p]\nfolder = {json.dumps(folder)}\n{ends}[[edges]]\nbetween = ["a", "b"]\nweight = {weight}\n{mask}'
    )
    return home / "edit.toml"


def test_the_pair_recipe_runs_as_its_python_says_and_repeats(tmp_path, capsys):
    """Its pictures are those of `couple image` with the same options; rerun makes them again."""
    sets = [word for setting in QUICK for word in ("--set", setting)]
    assert run(["run", str(RECIPES / "pair.toml"), *sets, "--out", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'run/sheet.png'}\n"
    image = ["image", "a pink star", "a blue moon", "--steps", "2", "--weight", "1", "--out", str(tmp_path / "image")]
    assert run(image) == 0
    for row in ("uncoupled", "coupled"):
        for one, other in ((f"{row}-star", f"{row}-1-a-pink-star"), (f"{row}-moon", f"{row}-2-a-blue-moon")):
            made, same = (Image.open(tmp_path / path) for path in (f"run/{one}.png", f"image/{other}.png"))
            assert np.array_equal(made, same)
    assert run(["rerun", str(tmp_path / "run/coupled-star.png"), "--out", str(tmp_path / "again")]) == 0
    assert "5 of 5 pictures and clips are equal, bit for bit" in capsys.readouterr().out
    old, new = (stamp.read(tmp_path / name / "run.json") for name in ("run", "again"))
    assert old.request == new.request and old.models == new.models


def test_the_clips_recipe_leaves_a_folder_for_each_run_of_its_sweep(tmp_path, capsys):
    names = ("star", "square", "triangle")
    sets = [f"trajectories.{name}.call={{num_inference_steps=2, num_frames=5}}" for name in names]
    words = [word for setting in [*sets, "sweep.edges.0.weight.strength=[0.0, 5.0]"] for word in ("--set", setting)]
    assert run(["run", str(RECIPES / "clips.toml"), *words, "--out", str(tmp_path / "run")]) == 0
    folders = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert folders == ["000-strength-0.0", "001-strength-5.0"]
    told = capsys.readouterr().out.splitlines()
    assert told == [str(tmp_path / "run" / folder / "side-by-side.mp4") for folder in folders]
    clips = {f"coupled-{name}.{kind}" for name in names for kind in ("mp4", "gif")}
    for folder in folders:
        found = {path.name for path in (tmp_path / "run" / folder).iterdir()}
        assert found == clips | {"side-by-side.mp4", "run.json"}
    gifs = [np.asarray(Image.open(tmp_path / "run" / folder / "coupled-star.gif").convert("RGB")) for folder in folders]
    assert not np.array_equal(*gifs)


def test_a_model_of_the_folder_edits_a_picture_of_the_folder_under_a_mask(home, tmp_path):
    asked = recipe.read(edit(home, mask="half.png"))
    assert recipe.run(asked, tmp_path / "run", "cpu") == 0
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        *(f"{row}-{name}.png" for row in ("uncoupled", "coupled") for name in "ab"),
        "sheet.png",
        "run.json",
    }
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert set(record["inputs"]) == {str(home / "cat.png"), str(home / "half.png")}
    assert "masked" in record["edges"][0] and record["models"]["ip2p"]["seeds"] == [0, 1]


def test_a_mask_has_the_layout_of_the_state(home):
    pipeline = FAMILIES["instruct_pix2pix"].pipeline()
    asked = recipe.read(edit(home, mask="half.png"))
    nodes = {name: calls.couple.Trajectory(pipeline, name=name, height=16, width=16) for name in "ab"}
    mask = calls.edges(asked, nodes)[0].mask
    side = 16 // pipeline.vae_scale_factor
    expected = torch.zeros(1, 1, side, side)
    expected[..., : side // 2] = 1
    assert mask is not None and torch.equal(mask, expected)
    flux = FAMILIES["flux"].pipeline()
    nodes = {name: calls.couple.Trajectory(flux, name=name, height=16, width=16) for name in "ab"}
    tokens = calls.edges(asked, nodes)[0].mask
    scale = flux.vae_scale_factor
    assert tokens is not None and tokens.shape == (1, (16 // scale // 2) ** 2, flux.transformer.config.in_channels)
    assert tokens.mean() == 0.5


PATHS = {
    "up": "../cat.png",
    "up-inside": "a/../../cat.png",
    "absolute": "/etc/passwd",
    "home": "~/cat.png",
    "drive": "C:/cat.png",
    "drive-relative": "C:cat.png",
    "share": "//server/cat.png",
    "backslash": "..\\cat.png",
    "nul": "cat.png\0",
    "newline": "cat\n.png",
    "link": "link.png",
    "link-folder": "out/cat.png",
    "missing": "dog.png",
    "empty": " ",
    "long": "a/" * 1000 + "b",
}


@pytest.mark.parametrize("key", ["image", "mask", "folder"])
@pytest.mark.parametrize("path", PATHS)
def test_no_path_leads_out_of_the_folder(home, tmp_path, monkeypatch, key, path):
    monkeypatch.setenv("HOME", str(home.parent))
    value = PATHS[path].replace("cat.png", "editor" if key == "folder" and path != "link" else "cat.png")
    asked = recipe.read(edit(home, **{key: value}))
    before = sorted(home.parent.rglob("*"))
    with pytest.raises(ValueError, match=r"edit.toml, line \d+: ") as caught:
        recipe.run(asked, tmp_path / "new" / "run", "cpu")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700
    assert sorted(home.parent.rglob("*")) == before and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": "words.png"}, "line 7: .*words.png cannot be used as a picture"),
        (
            {"call": ", guidance_scal = 1"},
            "line 8: StableDiffusionInstructPix2PixPipeline takes no `guidance_scal`; did you mean guidance_scale?",
        ),
        ({"call": ', guidance_scale = "much"'}, "`guidance_scale` is 'much'; .* takes a float, e.g. 7.5"),
        ({"call": ", eta = true"}, "`eta` is True; .* takes a float"),
        ({"folder": "cat.png"}, "cat.png has no usable model_index.json"),
    ],
)
def test_what_only_the_model_can_know_is_told_with_its_line(home, tmp_path, changes, message):
    asked = recipe.read(edit(home, **changes))
    for act in (lambda: recipe.plan(asked), lambda: recipe.run(asked, tmp_path / "run", "cpu")):
        with pytest.raises(ValueError, match=message):
            act()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"_class_name": "OSError"}, "names 'OSError', which is no pipeline of diffusers"),
        ({"_class_name": ["pipeline", "Evil"]}, "which is no pipeline of diffusers"),
        ({"_class_name": "FluxPipeline", "vae": ["evil", "Evil"]}, "'vae' of .* is of 'evil'; a recipe takes parts of"),
        ({"_class_name": "FluxPipeline", "vae": ["os", "system"]}, "is of 'os'"),
        ([], "names None"),
    ],
)
def test_a_model_that_would_import_something_is_refused(home, tmp_path, index, message):
    evil = home / "evil"
    evil.mkdir(exist_ok=True)
    (evil / "model_index.json").write_text(json.dumps(index))
    (evil / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    for act in (recipe.plan, lambda asked: recipe.run(asked, tmp_path / "run", "cpu")):
        with pytest.raises(ValueError, match=message):
            act(recipe.read(edit(home, folder="evil")))
    assert not list(tmp_path.iterdir())


def test_pickled_weights_are_refused(home, tmp_path):
    shutil.copytree(home / "editor", home / "pickled", dirs_exist_ok=True)
    weights = home / "pickled" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ValueError, match="has pickled weights"):
        recipe.run(recipe.read(edit(home, folder="pickled")), tmp_path / "run", "cpu")


def test_a_hub_model_that_is_not_here_is_told_and_not_fetched_in_a_dry_run(tmp_path, capsys):
    text = (RECIPES / "pair.toml").read_text()
    (tmp_path / "a.toml").write_text(re.sub(r"bundled = .*", 'hub = "nobody/nothing"', text))
    assert run(["run", str(tmp_path / "a.toml"), "--dry-run"]) == 0
    assert "model draw: not on this machine; hf download nobody/nothing" in capsys.readouterr().out
    assert run(["run", str(tmp_path / "a.toml"), "--out", str(tmp_path / "run")]) == 1
    told = capsys.readouterr().err
    assert "line 7: 'nobody/nothing' is not in the cache of this machine, and offline it cannot be fetched" in told
    assert len(told.splitlines()) == 1 and told.rstrip().endswith("where there is a network.")
    assert os.listdir(tmp_path) == ["a.toml"]


def test_a_dry_run_says_what_would_run_and_runs_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["run", str(RECIPES / "clips.toml"), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "3 runs" in told and "  002-strength-1.0" in told
    assert "model film: WanPipeline" in told and "MiB of weights in float32" in told
    assert "trajectory square: 'a blue square circles' on film, seed 1, steps: 24" in told
    assert "edges (star): star - square - triangle, squared_distance, weight window(law=relax(kappa=0.1" in told
    assert "72 predictions, in 24 forwards if all that can be merged are" in told
    assert not list(tmp_path.iterdir())


def test_the_plan_counts_the_weights(home):
    pipeline = FAMILIES["instruct_pix2pix"].pipeline()
    size = sum(
        p.numel() * p.element_size()
        for part in ("unet", "vae", "text_encoder")
        for p in getattr(pipeline, part).parameters()
    )
    for dtype, share in (("float32", 1), ("bfloat16", 2)):
        text = recipe.plan(recipe.read(edit(home), [f'models.ip2p.dtype="{dtype}"']))
        said = float(re.search(r"([\d.]+) MiB of weights in " + dtype, text)[1])  # pyright: ignore[reportOptionalSubscript]
        # Buffers are counted too.
        assert size / share / 2**20 <= said < size / share / 2**20 * 1.05
        assert re.search(r"time: about .* of denoising here \(.*FLOP at .*FLOP/s, .* operations at .*s\)$", text)


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.name)
def test_every_recipe_that_comes_along_can_be_planned(file):
    assert "network calls" in recipe.plan(recipe.read(file))


def test_what_has_no_recipe_says_how(capsys):
    assert run(["run"]) == 2
    assert "couple run recipes/pair.toml" in capsys.readouterr().err
