"""Windows cover every view, begin with the inputs, overlap by half; averages are averages."""

import pytest
import torch

from couple.backends.seva.windows import averaged, windows


@pytest.mark.parametrize("frames", [3, 4, 21])
@pytest.mark.parametrize("inputs", [1, 2])
@pytest.mark.parametrize("more", [1, 2, 5, 20, 61])
def test_windows_of_a_long_scene(frames, inputs, more):
    views = frames + more
    slots = windows(inputs, views, frames).tolist()
    assert {view for window in slots for view in window} == set(range(views))
    half = (frames - inputs) // 2
    for window in slots:
        assert window[:inputs] == list(range(inputs))
        targets = window[inputs:]
        assert targets == list(range(targets[0], targets[0] + frames - inputs))
    for one, other in zip(slots, slots[1:], strict=False):
        assert other[inputs] > one[inputs]
        assert len(set(one[inputs:]) & set(other[inputs:])) >= half


@pytest.mark.parametrize(("views", "slots"), [(1, [0, 0, 0]), (2, [0, 1, 1]), (3, [0, 1, 2])])
def test_a_short_scene_repeats_its_last_view(views, slots):
    assert windows(1, views, 3).tolist() == [slots]


def test_predictions_of_repeats_do_not_count():
    predictions = torch.tensor([1.0, 2.0, 30.0, 40.0])
    assert averaged([predictions], windows(1, 2, 4), 2).tolist() == [1.0, 2.0]


def test_overlaps_are_averaged():
    slots = torch.tensor([[0, 1, 2], [0, 2, 3]])
    predictions = [torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[5.0], [7.0], [9.0]])]
    assert averaged(predictions, slots, 4).tolist() == [[3.0], [2.0], [5.0], [9.0]]
