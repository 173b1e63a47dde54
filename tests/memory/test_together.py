"""Answers that are not computed yet, and forwards that wait for each other."""

import copy

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

import couple
from couple.engine.together import Promised, pause, side_by_side
from tests.memory.placed import (
    PLACEMENTS,
    Blocks,
    Boom,
)


def test_a_promise_is_looked_up_when_it_is_touched_and_not_before():
    looked = []

    def look():
        looked.append(1)
        return torch.arange(6.0).reshape(2, 3)

    promise = Promised.of(look)
    assert isinstance(promise, torch.Tensor) and not looked
    assert promise.shape == (2, 3) and looked
    for value in (promise + 1, 1 + promise, torch.cat([promise, promise]), promise[..., :2], promise.to(torch.float64)):
        assert type(value) is torch.Tensor
    assert torch.equal(copy.deepcopy(promise), look())
    assert torch.equal(torch.stack([promise.mean(), promise.max()]), torch.tensor([2.5, 5.0]))
    assert float(promise[0, 1]) == 1.0 and promise.tolist() == look().tolist() and promise.numpy().shape == (2, 3)


def test_forwards_side_by_side_wait_for_each_other_at_every_pause():
    seen = []

    def forward(name, stops):
        for k in range(stops):
            seen.append((name, k))
            pause()

    side_by_side([lambda: forward("a", 3), lambda: forward("b", 3), lambda: forward("c", 1)])
    assert seen == [("a", 0), ("b", 0), ("c", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]


def test_an_error_beside_others_ends_them_where_they_are():
    ended = []

    def waiting():
        try:
            pause()
        finally:
            ended.append(1)

    def failing():
        raise Boom

    with pytest.raises(Boom):
        side_by_side([waiting, failing])
    assert ended == [1]
    pause()  # outside of them it does nothing


class Editing:
    """A pipeline that edits what it gave to its network before it looks at the answer."""

    def __init__(self, network):
        self.transformer = network
        self.scheduler = FlowMatchEulerDiscreteScheduler()

    @torch.no_grad()
    def __call__(self, generator=None):
        self.scheduler.set_timesteps(3)
        state = torch.randn(1, 4, generator=generator)
        for t in self.scheduler.timesteps:
            given = state.clone()
            answer = self.transformer(given, t)[0]
            given.zero_()
            state = self.scheduler.step(answer, t, state, return_dict=False)[0]
        return state


def test_a_pipeline_that_edits_its_question_is_told_so():
    def node():
        return couple.Trajectory(Editing(network), generator=torch.Generator().manual_seed(0))

    network = Blocks()
    with pytest.raises(RuntimeError, match=r"edited in place what it had given to Blocks.*Placement\('resident'\)"):
        couple.sample([node()], placement=PLACEMENTS["blocks"](), progress=False)
    one, other = node(), node()
    placed = couple.sample([one], placement=PLACEMENTS["resident"](), progress=False)[one]
    assert torch.equal(placed, couple.sample([other], progress=False)[other])
