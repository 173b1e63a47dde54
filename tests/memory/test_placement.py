"""Placements: the same bits wherever the weights are, one passage of them a step, and what is on the device when."""

import copy
import re
from contextlib import ExitStack

import pytest
import torch
from diffusers.hooks import group_offloading
from torch import nn

import couple
from couple import memory
from couple.engine.merging import Merger
from couple.hooks import Processors
from couple.memory import Placement, streaming
from couple.memory.guests import Guest, Room
from couple.memory.placement import Plan
from couple.memory.residence import Residence
from tests.memory.placed import (
    META,
    PLACEMENTS,
    STEPS,
    Blocks,
    denoiser,
    families,
    nodes,
    run,
    same,
)
from tests.tiny import FAMILIES


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"memory": "gpu"}, "'resident', 'stream' or 'auto'; got 'gpu'"),
        ({"budget": "12 apples"}, "such as '12GB' or '8GiB'; got '12 apples'"),
        ({"budget": "5iB"}, "such as '12GB'"),
        ({"budget": 0}, "got 0"),
        ({"budget": True}, "got True"),
        ({"budget": 1.5}, "got 1.5"),
        ({"fp8": "yes"}, "True or False; got 'yes'"),
        ({"device": "gpu"}, "such as 'cuda' or 'cpu'; got 'gpu'"),
        ({"device": "xpu:3"}, "does not see"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Placement(**settings)


@pytest.mark.parametrize(
    ("budget", "nbytes"),
    [
        (7, 7),
        ("12GB", 12 * 10**9),
        ("8 GiB", 2**33),
        ("1.5gb", 15 * 10**8),
        ("100B", 100),
        ("2kib", 2048),
        (None, None),
    ],
)
def test_a_budget_is_read_in_bytes(budget, nbytes):
    assert Placement(budget=budget, device="cpu").budget == nbytes


def test_a_placement_cannot_be_changed():
    with pytest.raises(AttributeError):
        Placement(device="cpu").memory = "stream"


def test_a_network_that_is_offloaded_already_is_refused():
    network = copy.deepcopy(denoiser("flux"))
    pipeline = copy.copy(FAMILIES["flux"].pipeline())
    pipeline.transformer = network
    group_offloading.apply_group_offloading(network, "cpu", "cpu", "leaf_level")
    node = couple.Trajectory(pipeline, **FAMILIES["flux"].arguments(0))
    with pytest.raises(ValueError, match="FluxTransformer2DModel is already offloaded"):
        couple.sample([node], placement=Placement(device="cpu"), progress=False)


# The same bits


@families
@pytest.mark.parametrize("max_batch", [None, 1, 2])
def test_where_the_weights_are_changes_no_bit(name, max_batch):
    count = 3 if max_batch == 2 else 2  # three are served as two and one
    expected, _ = run(name=name, count=count, max_batch=max_batch)
    for place in PLACEMENTS.values():
        found, _ = run(place(), name=name, count=count, max_batch=max_batch)
        assert same(found, expected)


@families
def test_placed_pictures_are_decoded_as_ever(name):
    expected, _ = run(name=name, output_type="np", max_batch=1)
    for place in ("resident", "blocks", "layers"):
        assert same(run(PLACEMENTS[place](), name=name, output_type="np", max_batch=1)[0], expected)


@pytest.mark.parametrize("steps", [1, 2])
def test_streamed_calls_without_edges_are_the_stock_calls(steps):
    members = nodes("wan", steps=steps)
    expected = [node.pipeline(**node.call_kwargs)[0] for node in members]
    members = nodes("wan", steps=steps)
    result = couple.sample(members, max_batch=1, placement=PLACEMENTS["blocks"](), progress=False)
    assert same([result[node][0] for node in members], expected)


# How often weights move


@pytest.mark.parametrize("max_batch", [None, 2, 1])
@pytest.mark.parametrize(("name", "first"), [("flux", 1), ("sd21", 1), ("wan", 2)])
@pytest.mark.parametrize("count", [1, 3])
def test_weights_pass_once_a_step_for_all_trajectories_and_both_branches(name, first, max_batch, count, passages):
    # Wan asks a second time for what is to be left out; how its answers look is known after the first forward.
    for steps in (2, 5):
        passages.clear()
        _, result = run(PLACEMENTS["blocks"](), name=name, count=count, steps=steps, max_batch=max_batch)
        assert {times for _, times in passages.values()} == {steps - 1 + first}
        arrived = sum(nbytes for nbytes, _ in passages.values())
        others = result.placement.moved - arrived
        assert 0 < others < 600_000  # text encoders and the layers that stay


def test_stock_calls_move_weights_for_every_forward(passages):
    """The peer: group offload of a stock pipeline, one call after the other."""
    pipeline = copy.copy(FAMILIES["wan"].pipeline())
    pipeline.transformer = copy.deepcopy(pipeline.transformer)
    group_offloading.apply_group_offloading(pipeline.transformer, "cpu", "cpu", "block_level", num_blocks_per_group=1)
    for node in nodes("wan", 2):
        pipeline(**node.call_kwargs)
    moved = {passages[id(t)][1] for layer in pipeline.transformer.blocks for t in streaming.tensors(layer)}
    assert moved == {2 * 2 * STEPS}


def test_blocks_that_fit_into_the_budget_stay(passages):
    network = denoiser("wan")
    plan = memory.planned(Placement("stream", budget=10**9, device="cpu"), nodes("wan"), [network], None)
    block, rest = streaming.size(streaming.tensors(network.blocks[1])), streaming.size(streaming.tensors(network))
    rest -= 2 * block
    least = plan.working[network] + rest + 2 * block  # two blocks at once: one runs and one comes
    for extra, streamed in ((0, 2), (rest + block + 64, 1), (rest + 2 * block + 64, 0)):
        passages.clear()
        report = run(Placement("stream", budget=least + extra, device="cpu"), name="wan", steps=6)[1].placement
        assert len(passages) == streamed * len(streaming.tensors(network.blocks[1]))
        assert ("of them stay" in report.plan) == (extra > 0)


def test_kept_blocks_are_spread_and_bounded_by_the_budget():
    network = nn.Sequential(*(nn.Linear(8, 8) for _ in range(8)))
    block = streaming.size(network[0].parameters())
    stack = nn.Module()
    stack.blocks = nn.ModuleList(network)
    stream = streaming.Stream(stack, torch.device("cpu"), leaves=False, keep=4 * block, arrived=lambda _: None)
    stayed = [any(t is kept for kept in stream.kept) for t in (layer.weight for layer in network)]
    assert stayed == [False, True] * 4
    assert stream.streamed == 4 * block
    stream.close()
    assert not any("_diffusers_hook" in vars(m) or "forward" in vars(m) for m in stack.modules())


def test_two_networks_that_do_not_fit_together_take_turns_in_snake_order():
    def moved(steps):
        members = [nodes("flux", 1, steps)[0], nodes("sd21", 1, steps)[0]]
        result = couple.sample(members, placement=Placement("resident", budget=1, device="cpu"), progress=False)
        return result.placement.moved

    both = sum(streaming.size(streaming.tensors(denoiser(name))) for name in ("flux", "sd21"))
    assert moved(5) - moved(3) == both  # A B | B A: each is brought at every other step
    assert moved(4) - moved(3) in [streaming.size(streaming.tensors(denoiser(name))) for name in ("flux", "sd21")]


def test_guests_leave_when_they_are_done_or_in_the_way():
    arrived = []
    room = Room(torch.device("cpu"), 100, arrived.append)
    text, first, second = (
        Guest(room, [torch.zeros(n // 4)], 0, denoises) for n, denoises in ((40, False), (48, True), (60, True))
    )
    room.bring(text)
    room.bring(text)
    assert arrived == [40] and room.holds(text)
    room.bring(first)
    assert not room.holds(text) and room.holds(first)
    room.bring(text)
    assert room.holds(first) and room.holds(text)
    room.bring(second)
    assert [room.holds(guest) for guest in (text, first, second)] == [False, False, True]
    assert arrived == [40, 48, 40, 60]


def test_a_network_that_is_on_the_device_already_is_counted_and_can_be_sent_away():
    room = Room(META, 130, lambda nbytes: None)
    one, other = (Guest(room, [torch.zeros(15, device=META)], 0, True) for _ in range(2))
    away = Guest(room, [torch.zeros(15)], 0, True)
    for guest in (one, other, away):
        room.settle_in(guest)
    assert room.holds(one) and room.holds(other) and not room.holds(away)
    room.bring(one)
    left = []
    one.leave, other.leave = lambda: left.append(one), lambda: left.append(other)
    away.come = lambda: True
    room.bring(away)  # 180 bytes are too many: who was used longest ago goes
    assert left == [other] and room.holds(one) and room.holds(away)


def test_the_ladder_sends_away_networks_that_were_on_the_device_before():
    one, other = (Blocks().to(META) for _ in range(2))
    plan = Plan(False, False, None, {}, {}, 0, [], "")
    with ExitStack() as stack:
        residence = Residence(Placement("auto", device="cpu"), plan, [], stack)
        residence._room.device = META
        for module in (one, other):
            residence._invite(module, 0)
        assert residence.is_here(one) and residence.is_here(other)
        left = []
        residence._guests[other].leave = lambda: left.append(other)
        with pytest.warns(RuntimeWarning, match="sent other networks away"):
            residence.relief(Merger(None, Processors([])), one, [1])()
        assert left == [other] and residence.is_here(one) and not residence.is_here(other)


def test_a_network_that_is_on_the_device_in_part_leaves_and_comes_as_a_whole():
    room = Room(META, None, lambda nbytes: None)
    guest = Guest(room, [torch.zeros(3, device=META), torch.zeros(3)], 0, True)
    left = []
    guest.leave = lambda: left.append(guest)
    room.settle_in(guest)
    assert left == [guest] and not room.holds(guest)


def test_denoisers_that_take_turns_on_cuda_wait_in_pinned_memory(monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda self: any(self is tensor for tensor in pinned))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(self.clone()) or pinned[-1])
    room = Room(torch.device("cuda", 0), None, lambda nbytes: None)
    weight, text = torch.ones(3), torch.ones(3)
    guest, encoder = Guest(room, [weight], 0, True), Guest(room, [text], 0, False)
    for _ in range(2):
        guest.leave()
        encoder.leave()
    assert [tensor.data_ptr() for tensor in pinned] == [weight.data_ptr()]


def test_pictures_are_decoded_one_by_one_where_there_is_a_budget():
    rows = []
    vae = FAMILIES["flux"].pipeline().vae
    hook = vae.decoder.register_forward_pre_hook(lambda _, args: rows.append(args[0].shape[0]))
    try:
        changes = {"output_type": "np", "num_images_per_prompt": 2}
        run(Placement("stream", budget="1GB", device="cpu"), **changes)
        assert rows == [1] * 4
        assert not vae.use_slicing
    finally:
        hook.remove()
