"""A bounded part of the campaign of `benchmarks/fuzzing.py`: named errors, and no file but the one that was put there."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.recipe import hostile

FUZZ = settings(max_examples=60, deadline=None, derandomize=True)
_JSON = json.dumps(hostile.RECORD).encode()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = hostile.World(tmp_path_factory.mktemp("world"))
    yield world
    assert world.untouched()


def test_the_good_ones_are_good(world):
    assert world.recipe(hostile.RECIPE.encode()) and world.record(_JSON)
    assert world.record(world.png, ".png") and world.record(world.gif, ".gif") and world.record(world.mp4, ".mp4")
    assert world.record(hostile.in_png(world.plain, _JSON), ".png") and world.scene_file(world.scene)


@FUZZ
@given(hostile.mutated(hostile.RECIPE.encode()))
def test_recipes(world, content):
    world.recipe(content)


@FUZZ
@given(hostile.records())
def test_records(world, content):
    world.record(content)


@FUZZ
@given(hostile.mutated(_JSON))
def test_texts_of_records(world, content):
    world.record(content)


@FUZZ
@given(st.sampled_from(["png", "gif", "mp4"]), st.data())
def test_pictures_and_clips(world, kind, data):
    world.record(data.draw(hostile.mutated(getattr(world, kind))), f".{kind}")


@FUZZ
@given(hostile.mutated(_JSON) | hostile.records() | st.binary(max_size=64))
def test_records_inside_a_sound_picture(world, content):
    world.record(hostile.in_png(world.plain, content), ".png")


@FUZZ
@given(st.data())
def test_scenes(world, data):
    try:
        world.scene_file(data.draw(hostile.mutated(world.scene)))
    finally:
        (world.home / "scene" / "transforms.json").write_bytes(world.scene)
