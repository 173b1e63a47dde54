"""Trajectories and views are frozen descriptions that hash by identity."""

import re

import pytest
import torch

from couple import maps
from couple.trajectory import Trajectory, View, view


def test_a_trajectory_writes_the_call_down():
    a = Trajectory(print, name="cat", prompt="a cat", num_inference_steps=4)
    assert a.pipeline is print
    assert a.name == "cat"
    assert dict(a.call_kwargs) == {"prompt": "a cat", "num_inference_steps": 4}


def test_the_name_defaults_to_the_prompt_and_then_to_the_class():
    class Painter:
        def __call__(self, **kwargs): ...

    assert Trajectory(Painter(), prompt="a cat").name == "a cat"
    assert Trajectory(Painter(), prompt=["a", "b"]).name == "Painter"
    assert Trajectory(Painter()).name == "Painter"


def test_equal_calls_are_different_trajectories():
    a, b = Trajectory(print, name="a"), Trajectory(print, name="a")
    assert a != b
    assert len({a, b, a}) == 2


def test_nothing_can_be_set_or_deleted():
    a = Trajectory(print)
    with pytest.raises(AttributeError, match="frozen"):
        a.name = "b"
    with pytest.raises(AttributeError, match="frozen"):
        del a.name
    with pytest.raises(AttributeError, match="frozen"):
        a[0].label = "b"
    with pytest.raises(TypeError):
        a.call_kwargs["prompt"] = "b"


def test_a_call_may_take_an_argument_called_pipeline():
    assert Trajectory(print, **{"pipeline": 3}).call_kwargs["pipeline"] == 3


def test_a_trajectory_is_no_sequence():
    with pytest.raises(TypeError):
        list(Trajectory(print))
    with pytest.raises(TypeError):
        1 in Trajectory(print)  # noqa: B015


@pytest.mark.parametrize("k", [0, 2, -1])
def test_a_row_keeps_the_batch_axis(k):
    x0 = torch.arange(12.0).reshape(3, 4)
    assert torch.equal(Trajectory(print)[k](x0), x0[[k]])


def test_a_frame_drops_the_frame_axis():
    x0 = torch.arange(48.0).reshape(1, 2, 3, 2, 4)
    clip = Trajectory(print, name="clip")
    assert torch.equal(clip.frames(1)(x0), x0[:, :, 1])
    assert torch.equal(clip.frames(-1, dim=1)(x0), x0[:, 1])


def test_views_look_at_the_same_memory_until_a_map_computes():
    x0 = torch.zeros(2, 3)
    Trajectory(print)[1](x0).fill_(1.0)
    assert x0.sum() == 3


def test_labels_say_how_a_view_was_made():
    clip = Trajectory(print, name="clip")
    assert view(clip).label == "clip"
    assert clip[-1].label == "clip[-1]"
    assert clip.frames(3).label == "clip.frames(3)"
    assert clip.through(maps.low_pass(8)).label == "clip through low_pass(8)"
    assert (
        clip[0].through(torch.tanh).through(maps.crop(0, 0, 2, 2)).label
        == "clip[0] through tanh through crop(0, 0, 2, 2)"
    )
    assert "clip[0]" in repr(clip[0])


@pytest.mark.parametrize(
    "map", [maps.low_pass(2), maps.crop(0, 0, 1, 1), maps.resize(2, 2), maps.frame(0)], ids=maps.call
)
def test_maps_of_places_are_refused_for_states_without_at_once_and_behind_maps_of_the_users(map):
    a = Trajectory(print, name="a")
    tokens, picture, video = torch.zeros(1, 16, 64), torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 3, 8, 8)
    for seen in a.through(map), a[0].through(map), a.through(torch.tanh).through(map):
        with pytest.raises(ValueError, match=r"view 'a.*tokens, \(B, S, C\).*couple.backends.flux.unpack"):
            seen(tokens)
        with pytest.raises(ValueError, match="2 axes. Give the state those axes"):
            seen(tokens[0])
        assert seen(video).shape
    assert a.through(map).check(5) == 5 - isinstance(map, maps.frame)
    assert a.through(torch.tanh).through(map).check(3) is None
    if isinstance(map, maps.frame):
        with pytest.raises(ValueError, match="those of a picture.*one frame already"):
            a.through(map).check(4)
    else:
        assert a.through(map)(picture).shape


def test_an_error_in_a_map_names_the_view():
    with pytest.raises(ZeroDivisionError) as caught:
        Trajectory(print, name="a").through(lambda x: x / (1 // 0))(torch.zeros(1))
    assert caught.value.__notes__ == ["in <lambda>, a map of view 'a through <lambda>'"]


def test_maps_are_applied_in_order():
    a = Trajectory(print)
    doubled = a[0].through(lambda x: x * 2).through(lambda x: x + 1)
    assert doubled(torch.tensor([[3.0], [5.0]])).tolist() == [[7.0]]
    assert isinstance(doubled, View)
    assert doubled.trajectory is a


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Trajectory(dict), TypeError, "`pipeline` is the class dict, not a pipeline"),
        (lambda: Trajectory("flux"), TypeError, "`pipeline` must be a pipeline, which can be called; got 'flux'"),
        (lambda: Trajectory(print).through(maps.low_pass), TypeError, "is the class low_pass.*Did you mean low_pass(8)?"),
        (lambda: Trajectory(print).through(8), TypeError, "`map` must be a callable"),
        (lambda: Trajectory(print, name="a")["x"], TypeError, "a[k] is one row of the batch, and a.frames(k) one frame, for a whole number k; got 'x'"),
        (lambda: Trajectory(print, name="a")[0:1], TypeError, "got slice(0, 1, None). For several give each its own edge: couple.pair(a[0], ...)"),
        (lambda: Trajectory(print).frames(0.5), TypeError, "got 0.5"),
        (lambda: Trajectory(print)[2](torch.zeros(2, 3)), IndexError, "row(2): axis 0.*shape (2, 3) has no index 2"),
        (lambda: Trajectory(print).frames(9)(torch.zeros(1, 1, 2, 1, 1)), IndexError, "frame(9, 2).*axis 2 of a state"),
        (lambda: Trajectory(print, name="a").through(lambda x: x.numpy())(torch.zeros(2)), TypeError, "view 'a through <lambda>': <lambda> returned a ndarray; a map returns a tensor"),
    ],
)  # fmt: skip
def test_bad_nodes_are_refused(make, error, message):
    with pytest.raises(error, match=re.escape(message).replace(r"\.\*", ".*")):
        make()
