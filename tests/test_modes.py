"""Torch modes are photographed and put back."""

import pytest
import torch

from couple.engine.modes import Modes


@pytest.mark.parametrize("inside", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_a_photograph_taken_inside_can_be_entered_outside_and_leaves_no_trace(inside):
    outside = Modes.current()
    with inside():
        photograph = Modes.current()
    assert Modes.current() == outside
    with photograph.entered():
        assert Modes.current() == photograph != outside
    assert Modes.current() == outside


def test_modes_are_restored_when_the_body_raises():
    with torch.no_grad():
        photograph = Modes.current()
    before = Modes.current()
    with pytest.raises(KeyError), photograph.entered():
        raise KeyError
    assert Modes.current() == before


def test_an_inference_guard_lets_ordinary_mode_in_and_out_again():
    outside = Modes.current()
    with torch.inference_mode():
        with outside.entered():
            assert not torch.is_inference_mode_enabled()
            assert torch.ones(1, requires_grad=True).mul(2).requires_grad
        assert torch.is_inference_mode_enabled()
