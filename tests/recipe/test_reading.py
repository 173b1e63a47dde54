"""A recipe is checked as a whole: every fault is one sentence with the file, the line and the fix."""

import re
import subprocess
import sys

import pytest

from couple import recipe, weights
from couple.recipe import calls
from couple.recipe.lines import places

GOOD = """\
max_batch = 2

[models.draw]
bundled = "text_to_image"

[trajectories.star]
model = "draw"
prompt = "a pink star"

[trajectories.moon]
model = "draw"
prompt = '''
a [blue] moon
seed = 7
'''
seed = 1
call = { num_inference_steps = 2, true_cfg_scale = 2 }

[[edges]]
between = ["star", "moon"]
weight = { law = "relax", strength = 1.0, window = [0.0, 0.2] }

[[edges]]
graph = "chain"
between = [
  "star[0]",
  "moon",
]
weight = 0.1
energy = { name = "huber", delta = 1.0 }

[sweep]
trajectories.star.seed = [0, 1]
"edges.0.weight" = [0.1, { law = "implicit", strength = 2.0 }, 0.2]
"""
LINES = GOOD.splitlines()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "pair.toml"
    path.write_text(GOOD)
    return path


def test_a_good_recipe_is_read(file):
    found = recipe.read(file)
    contents = found.contents
    assert found.name == "pair" and found.home == file.parent and contents.max_batch == 2
    assert (
        contents.trajectories["moon"].prompt == "a [blue] moon\nseed = 7\n" and contents.trajectories["moon"].seed == 1
    )
    assert contents.edges[0].weight.window == [0.0, 0.2] and contents.edges[1].weight.strength == 0.1
    assert contents.edges[0].energy.name == "squared_distance" and contents.edges[1].energy.delta == 1.0
    assert set(contents.sweep) == {"trajectories.star.seed", "edges.0.weight"}


def test_every_key_has_its_line():
    found = places(GOOD)
    for place, number in found.items():
        key = str(place[-1] if isinstance(place[-1], str) else place[-2])
        assert key in LINES[number - 1], (place, number)
    assert found["trajectories", "moon", "seed"] == 16 and found["edges", 1, "weight"] == 29
    assert found["sweep", "trajectories", "star", "seed"] == 33


# Line of GOOD, what stands there instead, where the fault is told, and words of the sentence.
FAULTS = {
    "key": (8, 'promt = "a star"', 8, "'trajectories.star.promt': no recipe has this key; write e.g. prompt = "),
    "far-key": (8, "zzzzzz = 1", 8, "'trajectories.star.zzzzzz': no recipe has this key; remove it"),
    "missing": (4, "", 3, "model 'draw' has none of bundled, folder and hub; write one"),
    "two": (4, 'bundled = "text_to_image"\nfolder = "a"', 3, "has bundled and folder of bundled, folder and hub"),
    "bundled": (4, 'bundled = "flux"', 4, "'models.draw.bundled': input should be 'text_to_image'.*; got 'flux'; write"),
    "hub": (4, 'hub = "../evil"', 4, "'models.draw.hub': string should match"),
    "hub-url": (4, 'hub = "https://a/b"', 4, "'models.draw.hub': string should match"),
    "revision": (4, 'bundled = "text_to_image"\nrevision = "main"', 5, "a revision goes with hub"),
    "code": (4, 'hub = "a/b"\ntrust_remote_code = true', 5, "no recipe has this key"),
    "type": (8, "prompt = 3", 8, "'trajectories.star.prompt': input should be a valid string; got 3; write e.g. prompt"),
    "bool": (16, "seed = true", 16, "seed': input should be a valid integer; got True; write e.g. seed = 0"),
    "float": (16, "seed = 1.5", 16, "seed': input should be a valid integer; got 1.5"),
    "negative": (16, "seed = -1", 16, "seed': input should be greater than or equal to 0; got -1"),
    "huge": (16, f"seed = {2**63}", 16, "seed': input should be less than"),
    "model": (7, 'model = "drew"', 7, "there is no model 'drew'; choose from 'draw', or add it"),
    "name": (6, '[trajectories."../a"]', 6, "'trajectories.../a'.*should match"),
    "no-model": (7, "", 6, "'trajectories.star.model': field required; write e.g. model = "),
    "case": (10, "[trajectories.STAR]", 10, "'STAR' and 'star' would be one file on some disks"),
    "reserved": (17, 'call = { generator = 1 }', 17, "`generator` is not for a call to set; remove it"),
    "prompt-call": (17, 'call = { prompt = "a" }', 17, 'write prompt = "..." beside call'),
    "call-list": (17, "call = { a = [1] }", 17, "a call takes numbers between -1e9 and 1e9, strings, true and false; got a list of 1"),
    "call-date": (17, "call = { a = 1979-05-27 }", 17, "a call takes numbers"),
    "call-nan": (17, "call = { a = nan }", 17, "a call takes numbers"),
    "call-key": (17, 'call = { "__class__" = 1, "a.b" = 2 }', 17, "'trajectories.moon.call.a.b'.*should match"),
    "mars": (20, 'between = ["star", "mars"]', 20, "there is no trajectory 'mars'; choose from 'star', 'moon'"),
    "end-code": (20, 'between = ["star", "moon.__class__"]', 20, "should match"),
    "twice": (20, 'between = ["star", "star"]', 20, "one end is named twice"),
    "three": (20, 'between = ["star", "moon", "star[1]"]', 20, 'a pair joins two, got 3; write graph = "complete"'),
    "law": (21, 'weight = { law = "exec", strength = 1.0 }', 21, "'edges.0.weight.law': input should be 'constant'"),
    "strength": (21, 'weight = { law = "relax" }', 21, "'edges.0.weight.strength': field required"),
    "weight": (21, 'weight = "strong"', 21, "'edges.0.weight': input should be a valid dictionary.*; got 'strong'; write e.g. weight"),
    "weight-nan": (21, "weight = nan", 21, "strength': input should be.*; got nan"),
    "window": (21, 'weight = { law = "relax", strength = 1.0, window = [0.5, 0.2] }', 21, r"the window \[0.5, 0.2\] is empty"),
    "decay": (21, 'weight = { law = "rate", strength = 1.0, decay = 1.0 }', 21, "rate has no decay"),
    "end": (21, 'weight = { law = "relax", strength = 1.0, end = 0.0 }', 21, "relax has no end; write law = .linear. or remove"),
    "no-end": (21, 'weight = { law = "cosine", strength = 1.0 }', 21, "cosine goes from `strength` to `end`; write .* end = 0.0"),
    "end-number": (21, 'weight = { law = "linear", strength = 1.0, end = -1 }', 21, "end': input should be greater than or equal to 0"),
    "steps": (17, "call = { num_inference_steps = 0 }", 17, "`num_inference_steps` is 0; write 1 or more, e.g. num_inference_steps = 24"),
    "frames": (17, "call = { num_frames = -3 }", 17, "`num_frames` is -3; write 1 or more, e.g. num_frames = 13"),
    "normalize": (21, "weight = 0.1\nnormalize = true", 22, "a pair has nothing to normalize"),
    "graph": (24, 'graph = "ring"', 24, "'edges.1.graph': input should be 'pair', 'chain'"),
    "energy": (30, 'energy = "huber"', 30, 'huber needs a delta, e.g. energy = { name = "huber", delta = 1.0 }'),
    "energy-size": (30, 'energy = "low_pass"', 30, 'low_pass needs a size, e.g. energy = { name = "low_pass", size = 4 }'),
    "energy-more": (30, 'energy = { name = "cosine", size = 2 }', 30, "cosine has no size; remove it"),
    "implicit": (29, 'weight = { law = "implicit", strength = 1.0 }', 29, "implicit solves plain squared distances only"),
    "sweep-type": (33, "trajectories.star.seed = 3", 32, "'sweep.trajectories.star.seed': input should be a valid list; got 3; write e.g. sweep = { \"trajectories.star.seed\" = "),
    "sweep-empty": (33, "trajectories.star.seed = []", 32, "has 0 values; write 1 to 1000"),
    "sweep-large": (33, f"trajectories.star.seed = {list(range(600))}", 32, "the sweep has 1800 runs, more than 1000"),
    "sweep-self": (34, '"sweep.a" = [1]', 34, "a sweep does not sweep itself"),
    "max-batch": (1, "max_batch = 0", 1, "'max_batch': input should be greater than or equal to 1"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_a_sentence_with_its_line(file, fault):
    number, line, told, message = FAULTS[fault]
    changed: list[str] = list(LINES)
    changed[number - 1] = line
    file.write_text("\n".join(changed))
    with pytest.raises(ValueError, match=message) as caught:
        recipe.expand(recipe.read(file))
    sentence = str(caught.value)
    assert sentence.startswith(f"{file}, line {told}: ")
    assert "\n" not in sentence and len(sentence) < 700


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"pair.toml: 'models': field required; write e.g. \[models.draw\]"),
        (b"a = \n", r"is not TOML \(.*line 1"),
        (b"\xff", r"is not UTF-8 \(byte 0\)"),
        (b"a = " + b"[" * 20_000, "nested too deeply|is not TOML"),
        (b"a = " + b"9" * 5000, "is not TOML"),
        (b"# " + b"a" * 2**18, "has more than 262144 bytes"),
        (b"[models]\n" + b"\n".join(b'm%d = {bundled = "instruct"}' % i for i in range(20)), "at most 16 items"),
    ],
)
def test_files_that_are_no_recipes(file, content, message):
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        recipe.read(file)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="there is no recipe .*; give a TOML file"):
        recipe.read(tmp_path / "a.toml")


def test_what_is_no_recipe_file_says_what_it_is(tmp_path):
    with pytest.raises(ValueError, match="is a folder; give a TOML file, e.g. recipes/pair.toml"):
        recipe.read(tmp_path)
    record = tmp_path / "run.json"
    record.write_text('{"made_by": "couple"}')
    with pytest.raises(ValueError, match=r"is a record, not a recipe; couple rerun .*run.json repeats its run"):
        recipe.read(record)


def test_a_quoted_key_is_set_as_the_file_would_write_it(file):
    for key in ('sweep."edges.0.weight"', "sweep.edges.0.weight", "'sweep' . edges.0.'weight'"):
        assert recipe.read(file, [f"{key}=[1, 2]"]).contents.sweep["edges.0.weight"] == [1, 2]
    assert recipe.read(file, ['"trajectories"."star".seed=7']).contents.trajectories["star"].seed == 7


@pytest.mark.parametrize("law", ["linear", "cosine"])
def test_a_weight_goes_from_one_strength_to_another(file, law):
    weight = f'edges.0.weight={{law="{law}", strength=1.0, end=0.25, window=[0.0, 0.5]}}'
    made = calls.law(recipe.read(file, [weight]).contents.edges[0].weight)
    assert made == weights.window(getattr(weights, law)(1.0, 0.25), 0.0, 0.5)


def test_values_are_set_from_the_command_line(file):
    sets = ["edges.1.weight=0.7", 'trajectories.star.prompt="a=b"', "sweep.edges.0.weight=[1, 2]", "output.fps=16"]
    contents = recipe.read(file, sets).contents
    assert contents.edges[1].weight.strength == 0.7 and contents.trajectories["star"].prompt == "a=b"
    assert contents.sweep["edges.0.weight"] == [1, 2] and contents.output.fps == 16


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("edges.0.weight", "--set edges.0.weight sets nothing; write --set edges.0.weight=0.1"),
        ("=1", "sets nothing"),
        ("a..b=1", "sets nothing"),
        ("trajectories.star.prompt=a star", "'a star' is no TOML value; a string has quotes of its own"),
        ("max_batch=1\nmodels = 2", "is no TOML value"),
        ("edges.9.weight=1", "9 is none of the 2 there, which are counted from 0"),
        ("edges.x=1", "'x' is none of the 2 there"),
        ("edges.0.weight.strength.more=1", "there is nothing to set below a float"),
        ("max_batch=0", "pair.toml, --set: 'max_batch': input should be greater"),
        ("trajectories.star.seed=-1", "pair.toml, --set: 'trajectories.star.seed'"),
        ("trajectories.mars.prompt=''", "pair.toml, --set: 'trajectories.mars.model': field required"),
    ],
)
def test_a_setting_that_cannot_be(file, setting, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        recipe.read(file, [setting])


def test_a_sweep_is_every_combination_and_its_names_say_which(file):
    runs = recipe.expand(recipe.read(file))
    assert [name for name, _ in runs] == [
        "000-seed-0-weight-0.1",
        "001-seed-0-weight-implicit-2.0",
        "002-seed-0-weight-0.2",
        "003-seed-1-weight-0.1",
        "004-seed-1-weight-implicit-2.0",
        "005-seed-1-weight-0.2",
    ]
    seeds = [one.contents.trajectories["star"].seed for _, one in runs]
    laws = [one.contents.edges[0].weight.law for _, one in runs]
    assert seeds == [0, 0, 0, 1, 1, 1]
    assert all(not one.contents.sweep and one.contents.max_batch == 2 for _, one in runs)
    assert laws == ["constant", "implicit", "constant"] * 2


def test_without_a_sweep_there_is_one_run(file):
    file.write_text(GOOD[: GOOD.index("[sweep]")])
    (only,) = recipe.expand(recipe.read(file))
    assert only[0] == "pair" and only[1].contents.max_batch == 2


def test_reading_takes_neither_torch_nor_diffusers(file):
    code = f"""
import sys
from couple import recipe
recipe.expand(recipe.read({str(file)!r}))
sys.exit(bool({{"torch", "diffusers", "transformers"}} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
