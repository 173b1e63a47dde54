"""Good scenes changed at random: each loads or is refused by one sentence, and nothing else ever happens."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from couple.scenes import load
from tests.scenes import samples

FUZZ = settings(max_examples=300, deadline=None, derandomize=True)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 10**400, 2**64])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["..", "/", "images/0.png", "images", "C:", "\0", "\ud800", "OPENCV", "a" * 5000])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


def places(value, path=()):
    """The path of every value inside a JSON structure."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def changed(data, path, draw):
    """`data` with the value at `path` replaced, removed or doubled."""
    if not path:
        return draw(VALUES)
    copy = json.loads(json.dumps(data))
    holder = copy
    for key in path[:-1]:
        holder = holder[key]
    match draw(st.sampled_from(["replace", "remove", "double"])):
        case "replace":
            holder[path[-1]] = draw(VALUES)
        case "remove":
            del holder[path[-1]]
        case "double" if isinstance(holder, list):
            holder.insert(path[-1], holder[path[-1]])
    return copy


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    data = samples.nerfstudio(folder)
    data["frames"] = data["frames"][:2]
    data["frames"][0] |= {"depth_file_path": "images/3.png", "k2": 0.0, "distortion_params": [0.0], "fl_x": 3.0}
    data["frames"][1] |= {"mask_path": "images/2.png"}
    data |= {"camera_angle_x": 1.0, "camera_angle_y": 1.0, "is_fisheye": False, "depth_unit_scale_factor": 0.001}
    samples.write(folder, data)
    assert loads_or_is_refused(folder)
    return folder, data


def loads_or_is_refused(folder):
    try:
        scene = load(folder)
        scene.fitted(8, 8).pictures()
        return True
    except (ValueError, FileNotFoundError) as error:
        assert "\n" not in str(error) and len(str(error)) < 6000
        return False


@FUZZ
@given(st.data())
def test_mutated_json_loads_or_is_refused(fuzzed, data):
    folder, good = fuzzed
    mutated = good
    for _ in range(data.draw(st.integers(1, 3))):
        mutated = changed(mutated, data.draw(st.sampled_from(list(places(mutated)))), data.draw)
    samples.write(folder, mutated)
    loads_or_is_refused(folder)


@FUZZ
@given(st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=4)), min_size=1, max_size=4), st.booleans())
def test_mutated_bytes_load_or_are_refused(fuzzed, edits, picture):
    folder, good = fuzzed
    samples.write(folder, good)
    file = folder / ("images/0.png" if picture else "transforms.json")
    whole = file.read_bytes()
    content = bytearray(whole)
    for at, new in edits:
        at %= len(content) + 1
        content[at : at + len(new)] = new
        if not new:
            del content[at:]
    try:
        file.write_bytes(content)
        loads_or_is_refused(folder)
    finally:
        file.write_bytes(whole)


@settings(FUZZ, max_examples=100)
@given(VALUES)
def test_any_json_loads_or_is_refused(tmp_path_factory, value):
    folder = tmp_path_factory.getbasetemp()
    samples.write(folder, value)
    assert not loads_or_is_refused(folder)
