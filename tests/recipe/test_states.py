"""Energies and masks see the picture of a state, however it lies in memory."""

import re
from functools import partial

import pytest
import torch
from PIL import Image

import couple
from couple import bundled, maps, recipe
from couple.backends import flux
from couple.recipe import calls, states
from tests.tiny import FAMILIES

PAIR = """\
[models.draw]
bundled = "text_to_image"
[trajectories.star]
model = "draw"
[trajectories.moon]
model = "draw"
[[edges]]
between = ["star", "moon"]
weight = 0.1
"""


def asked(tmp_path, more=""):
    (tmp_path / "pair.toml").write_text(PAIR + more)
    return recipe.read(tmp_path / "pair.toml")


def drawn(pipeline):
    """Two calls of the bundled model."""
    call = {**bundled.TEXT_TO_IMAGE_DEFAULTS, "num_inference_steps": 3, "output_type": "latent"}
    return {
        name: couple.Trajectory(pipeline, name=name, prompt=name, generator=torch.Generator().manual_seed(seed), **call)
        for seed, name in enumerate(["star", "moon"])
    }


def latents(nodes, edges):
    result = couple.sample(list(nodes.values()), edges, progress=False)
    return [result[node].images for node in nodes.values()]


@pytest.fixture(scope="module")
def pipeline():
    from diffusers import FluxPipeline

    return FluxPipeline.from_pretrained(bundled.text_to_image())


def test_low_pass_on_tokens_is_that_of_their_picture_bit_for_bit(tmp_path, pipeline):
    ours = drawn(pipeline)
    read = asked(tmp_path, 'energy = { name = "low_pass", size = 4 }\n')
    made = latents(ours, calls.edges(read, ours))
    low, picture = couple.energies.low_pass(4), partial(flux.unpack, height=16, width=16)
    theirs = drawn(pipeline)
    star, moon = theirs.values()
    seen = couple.pair(star.through(picture), moon.through(picture), energy=low, weight=0.1)
    expected = latents(theirs, seen)
    alone = latents(drawn(pipeline), [])
    for one, same, free in zip(made, expected, alone, strict=True):
        assert torch.equal(one, same) and not torch.equal(one, free)


def test_a_mask_of_an_energy_of_pictures_is_a_picture(tmp_path, pipeline):
    half = Image.new("L", (64, 64))
    half.paste(255, (0, 0, 32, 64))
    half.save(tmp_path / "half.png")
    ours = drawn(pipeline)
    read = asked(tmp_path, 'energy = { name = "low_pass", size = 4 }\nmask = "half.png"\n')
    made = latents(ours, calls.edges(read, ours))
    left, picture = torch.zeros(1, 1, 16, 16), partial(flux.unpack, height=16, width=16)
    left[..., :8] = 1
    theirs = drawn(pipeline)
    star, moon = (node.through(picture) for node in theirs.values())
    edges = couple.pair(star, moon, energy=couple.energies.low_pass(4), weight=0.1, mask=left)
    for one, same in zip(made, latents(theirs, edges), strict=True):
        assert torch.equal(one, same)


def test_what_looks_at_no_places_keeps_its_closed_form(tmp_path, pipeline):
    nodes = drawn(pipeline)
    (edge,) = calls.edges(asked(tmp_path), nodes)
    assert edge.is_quadratic and not edge.a.maps


def test_a_row_of_tokens_is_unpacked_too(tmp_path, pipeline):
    nodes = drawn(pipeline)
    text = PAIR.replace('["star", "moon"]', '["star[0]", "moon[0]"]') + 'energy = { name = "low_pass", size = 4 }\n'
    (tmp_path / "rows.toml").write_text(text)
    (edge,) = calls.edges(recipe.read(tmp_path / "rows.toml"), nodes)
    assert edge.a.maps == (maps.row(0), states.unpacked(16, 16))


@pytest.mark.parametrize("name", ["sd21", "flux", "flux2_klein", "qwen_image", "sana", "wan", "ltx"])
def test_the_layout_of_a_state_is_known_or_said_to_be_unknown(name):
    """Of the state that the pipeline itself begins with."""
    pipeline = FAMILIES[name].pipeline()
    call = dict(FAMILIES[name].settings(0))
    size = states.latent_size(pipeline, call)
    began = []

    def keep(info):
        began.append(next(iter(info.x0.values())).shape)

    node = couple.Trajectory(pipeline, name="a", **{**FAMILIES[name].arguments(0), "output_type": "latent"})
    couple.sample([node], callback=keep, progress=False)
    if size is None:
        assert name == "ltx"
    else:
        map = states.picture_of(node, "here")
        assert map is None or map == states.unpacked(*size)
        shape = began[0] if map is None else map(torch.zeros(began[0])).shape
        assert tuple(shape[-2:]) == size
    if name == "ltx":
        with pytest.raises(ValueError, match="here: how tokens of LTXPipeline make a picture is not known"):
            states.picture_of(node, "here")


def test_spaces_that_differ_are_told_with_the_line(tmp_path, pipeline):
    other = FAMILIES["flux"].pipeline()
    nodes = drawn(pipeline)
    nodes["moon"] = couple.Trajectory(other, name="moon", height=64, width=64)
    for more in ("", 'energy = { name = "low_pass", size = 4 }\n'):
        with pytest.raises(
            ValueError, match=re.escape("line 8: equal numbers of 'star' and 'moon' are different")
        ) as e:
            calls.edges(asked(tmp_path, more), nodes)
        assert "encoder weights" in str(e.value) and "through" not in str(e.value)
