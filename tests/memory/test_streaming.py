"""Streams, played by the CPU: copies land when they are waited for and no sooner, and computing is as late as can be.

diffusers traces the order of the layers in their first forward and then asks for each group before the one ahead of it
runs. Here a weight that is read too early is nan, and a copy to where an older weight may still be read is noticed.
"""

import contextlib
import weakref
from collections import Counter
from functools import partial

import pytest
import torch
from diffusers.hooks import group_offloading
from torch import nn

import couple
from couple.engine.together import side_by_side
from couple.memory import Placement, streaming
from couple.memory.placement import denoises, found, planned
from couple.memory.streaming import size, tensors
from tests.tiny import FAMILIES

CPU = torch.device("cpu")


class Machine:
    """A device with a stream that computes and one that copies, and the memory of the latter.

    Attributes:
        passages: how often each tensor was copied, by its id.
        held: bytes of memory the copies ever took; what is free again is used first.
        now: bytes that are copied or about to be.
        races: copies to where something might still be read.
        log: what was asked for, in order.
        waits: how often the host waited for either stream.
        fails: the tensor whose copy runs out of memory.
        current: number of the current device; `made_on` that on which the stream was made.
    """

    def __init__(self):
        self.passages, self.log = Counter(), []
        self.held = self.now = self.races = self.waits = 0
        self.fails = None
        self.current = self.made_on = 0
        self.asked = 0  # of the computing stream; counted where a weight is read no more
        self.known = 0  # to the host to be computed
        self.copying = self.Copying(self)
        self.computing = self.Computing(self)
        self._free = []

    class Computing:
        def __init__(self, machine):
            self.machine = machine

        def wait_event(self, event):
            self.machine.copying.land(event)

        def synchronize(self):
            self.machine.waits += 1
            self.machine.known = self.machine.asked

    class Copying:
        def __init__(self, machine):
            self.machine = machine
            self.waiting = {}  # copies by their number
            self.asked = self.behind = 0

        def wait_stream(self, stream):
            assert stream is self.machine.computing
            self.behind = self.machine.asked

        def record_event(self):
            return self.asked

        def synchronize(self):
            self.machine.waits += 1
            self.land(self.asked)
            self.machine.known = max(self.machine.known, self.behind)

        def land(self, event):
            for number in [number for number in self.waiting if number <= event]:
                destination, source = self.waiting.pop(number)
                destination.copy_(source)

    # What diffusers asks the module of a device for

    def stream(self, stream):
        assert stream is self.copying
        return contextlib.nullcontext()

    def current_stream(self, device=None):
        return self.computing

    def bring(self, group, tensor, source):
        """Take the place of diffusers' copy of one tensor."""
        if tensor is self.fails:
            raise torch.OutOfMemoryError("there is no more")
        if group.stream is None:
            tensor.data = source.clone()
            return
        self.passages[id(tensor)] += 1
        empty = torch.full_like(source, float("nan")) if source.is_floating_point() else torch.zeros_like(source)
        self._allocate(empty, group.record_stream)
        self.copying.asked += 1
        self.copying.waiting[self.copying.asked] = empty, source
        self.log.append(("copy", id(tensor)))
        tensor.data = empty
        if not group.non_blocking:
            self.copying.synchronize()

    def _allocate(self, tensor, recorded):
        nbytes = size([tensor])
        self.now += nbytes
        for place in self._free:
            room, last_use, safe_for_host_only = place
            if room == nbytes and (not safe_for_host_only or self.known >= last_use):
                self._free.remove(place)
                self.races += max(self.known, self.copying.behind) < last_use
                break
        else:
            self.held += nbytes
        weakref.finalize(tensor.untyped_storage(), self._let_go, nbytes, recorded)

    def _let_go(self, nbytes, recorded):
        self.now -= nbytes
        self.asked += 1
        self._free.append((nbytes, self.asked, recorded))


@pytest.fixture
def machine(monkeypatch):
    machine = Machine()

    def with_stream(module, onload_device, **settings):
        machine.made_on = machine.current
        config = group_offloading.GroupOffloadingConfig(
            onload_device=CPU,
            offload_device=CPU,
            offload_type=group_offloading.GroupOffloadingType(settings["offload_type"]),
            num_blocks_per_group=settings["num_blocks_per_group"],
            non_blocking=False,
            record_stream=True,
            low_cpu_mem_usage=False,
            stream=machine.copying,
        )
        group_offloading._apply_group_offloading(module, config)

    def away(group):
        """Where diffusers finds weights that were not brought: it looks at their device, which here is always one."""
        own = {id(t): kept for t, kept in group.cpu_param_dict.items()}
        brought = any(t.data_ptr() != own[id(t)].data_ptr() for t in group.tensors if id(t) in own)
        return torch.device("meta") if brought else CPU

    @contextlib.contextmanager
    def device_index(index):
        before, machine.current = machine.current, machine.current if index is None else index
        yield
        machine.current = before

    monkeypatch.setattr(group_offloading, "TorchDeviceBackend", lambda _: machine)
    monkeypatch.setattr(
        group_offloading.ModuleGroup, "_transfer_tensor_to_device", lambda *given: machine.bring(*given[:3])
    )
    monkeypatch.setattr(streaming.Group, "offload_device", property(away), raising=False)
    monkeypatch.setattr(streaming, "apply_group_offloading", with_stream)
    monkeypatch.setattr(torch.accelerator, "device_index", device_index)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self.clone())
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda self: True)
    return machine


class Row(nn.Module):
    """Blocks one after the other, with or without a layer that is in no block."""

    def __init__(self, count=6, head=True, log=None):
        super().__init__()
        self.head = nn.Linear(4, 4) if head else None
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(count))
        for block in self.blocks:
            plain = block.forward
            block.forward = lambda x, block=block, plain=plain: (
                None if log is None else log.append(("compute", id(block.weight))),
                plain(x),
            )[1]

    def forward(self, x):
        x = x if self.head is None else self.head(x)
        for block in self.blocks:
            x = block(x)
        return x


class Twice(nn.Module):
    """Two layers that are used again before another one."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.last, self.end = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x):
        return self.end(self.last(self.two(self.one(x)) + self.two(self.one(x + 1))))


def streamed(network, leaves=False, keep=0, device=CPU):
    return streaming.Stream(network.requires_grad_(False), device, leaves, keep, lambda _: None)


def calls(name, steps):
    family = FAMILIES[name]
    changes = {"num_inference_steps": steps, "output_type": "latent"}
    seeds = [torch.Generator().manual_seed(k) for k in range(3)]
    return [
        couple.Trajectory(family.pipeline(), **{**family.arguments(k), **changes, "generator": seed})
        for k, seed in enumerate(seeds)
    ]


def sampled(members, placement=None):
    edges = couple.chain(members, weight=0.1)
    result = couple.sample(members, edges, max_batch=1, placement=placement, progress=False)
    return [result[node][0] for node in members]


@pytest.mark.parametrize(
    ("name", "place"),
    [*((name, place) for name in ("flux", "wan") for place in ("blocks", "layers", "half")), ("seva", "blocks")],
)
def test_streams_change_no_bit_and_cost_one_more_passage_at_the_first_step(name, place, machine):
    steps = 2 if name == "seva" else 4
    members = calls(name, steps)
    network = next(n for n in found(members) if denoises(n))
    plan = planned(Placement("stream", budget=2**50, device="cpu"), members, [network], 1)
    total = sum(size(tensors(block)) for block in streaming.blocks(network))
    half = plan.working[network] + streaming.floor(network, False) + size(tensors(network)) - total // 2 + 64
    expected = sampled(members)
    placement = Placement("stream", budget={"blocks": None, "layers": 1, "half": half}[place], device="cpu")
    for one, other in zip(sampled(calls(name, steps), placement), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)  # the weights lie elsewhere in memory
    assert machine.races == machine.now == 0
    copied = sum(size([t]) for block in streaming.blocks(network) for t in tensors(block) if id(t) in machine.passages)
    assert 0 < copied < total if place == "half" else copied == total
    if place == "blocks":
        # The first forward is alone, the other two share the next passage. Wan is asked twice at each step.
        assert set(machine.passages.values()) == {steps + (2 if name == "wan" else 1)}


@pytest.mark.parametrize(
    ("make", "leaves"),
    [(Row, False), (Row, True), (partial(Row, head=False), False), (partial(Row, head=False), True), (Twice, True)],
)
def test_no_weight_is_read_before_it_is_there_or_written_while_it_is_read(make, leaves, machine):
    network, x = make(), torch.randn(2, 4)
    expected = network(x).detach()
    stream = streamed(network, leaves)
    for _ in range(3):
        for tensor in stream.kept:
            assert not tensor.isnan().any()
        assert torch.equal(network(x), expected)
    assert machine.races == 0 and machine.now == 0
    stream.close()
    assert torch.equal(network(x), expected)


@pytest.mark.parametrize("beside", [1, 3])
@pytest.mark.parametrize("head", [True, False])
def test_two_blocks_are_on_the_device_at_once_however_late_it_computes(head, beside, machine):
    network, x = Row(count=8, head=head), torch.randn(2, 4)
    streamed(network)
    for _ in range(3):
        side_by_side([lambda: network(x)] * (beside if machine.passages else 1))
    assert machine.held == 2 * size(tensors(network.blocks[0]))
    assert machine.races == 0


@pytest.mark.parametrize("head", [True, False])
def test_a_block_is_copied_while_the_one_before_it_computes(head, machine):
    network, x = Row(count=4, head=head, log=machine.log), torch.randn(2, 4)
    streamed(network)
    network(x)
    machine.log.clear()
    machine.waits = 0
    network(x)
    assert machine.waits <= 1  # diffusers does behind the last block; nobody does while there is more to ask for
    # A copy waits for what was asked for before it: all but the block it runs beside.
    order = [(what, k) for what, key in machine.log for k, b in enumerate(network.blocks) if key == id(b.weight)]
    assert order == [
        *(("copy", 0), ("copy", 1), ("compute", 0)),
        *(("copy", 2), ("compute", 1), ("copy", 3), ("compute", 2), ("compute", 3)),
    ]


def test_a_copy_that_fails_midway_leaves_nothing_on_the_device(machine):
    network, x = Row(), torch.randn(2, 4)
    expected = network(x).detach()
    stream = streamed(network)
    network(x)
    machine.fails = network.blocks[3].bias
    with pytest.raises(torch.OutOfMemoryError):
        network(x)
    stream.settle()
    machine.copying.synchronize()
    assert machine.now == 0
    machine.fails = None
    assert torch.equal(network(x), expected)


def test_the_stream_is_made_on_the_device_it_copies_to(machine):
    streamed(Row(), device=torch.device("cuda", 1))
    assert machine.made_on == 1
    assert machine.current == 0
