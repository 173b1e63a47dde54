"""Placements: the same bits wherever the weights are, one passage of them a step, and everything as it was after."""

import copy
import functools
import re
import warnings

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.hooks import group_offloading
from torch import nn

import couple
from couple import memory
from couple.engine.together import Promised, pause, side_by_side
from couple.memory import Placement, estimates, streaming
from couple.memory.guests import Guest, Room
from tests.tiny import FAMILIES

STEPS = 3
#: What gives each tiny denoiser something to leave out.
PLACEMENTS = {
    "resident": lambda: Placement("resident", device="cpu"),
    "one at a time": lambda: Placement("resident", budget=1, device="cpu"),
    "blocks": lambda: Placement("stream", device="cpu"),
    "layers": lambda: Placement("stream", budget=1, device="cpu"),
    "half of the blocks": lambda: Placement("stream", budget=1_600_000, device="cpu"),
    "auto": lambda: Placement("auto", device="cpu"),
}
families = pytest.mark.parametrize("name", ["flux", "wan", "sd21"])


def nodes(name, count=2, steps=STEPS, **changes):
    family = FAMILIES[name]
    settings = {"num_inference_steps": steps, "output_type": "latent", **changes}
    seeds = [{"generator": torch.Generator().manual_seed(k)} for k in range(count)]
    return [
        couple.Trajectory(family.pipeline(), **{**family.arguments(k % 3), **settings, **seed})
        for k, seed in enumerate(seeds)
    ]


def run(placement=None, *, name="flux", count=2, max_batch=None, weight=0.1, steps=STEPS, **changes):
    members = nodes(name, count, steps, **changes)
    edges = couple.chain(members, weight=weight) if count > 1 else []
    result = couple.sample(members, edges, max_batch=max_batch, placement=placement, progress=False)
    return [torch.as_tensor(np.asarray(result[node][0])) for node in members], result


def denoiser(name):
    parts = FAMILIES[name].pipeline().components
    return parts["unet"] if "unet" in parts else parts["transformer"]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture
def passages(monkeypatch):
    """Bytes that diffusers' group offload moves to the device, by tensor and number of moves."""
    moved = {}
    stock = group_offloading.ModuleGroup._transfer_tensor_to_device

    def counted(self, tensor, source, stream):
        nbytes, times = moved.get(id(tensor), (0, 0))
        moved[id(tensor)] = nbytes + source.numel() * source.element_size(), times + 1
        return stock(self, tensor, source, stream)

    monkeypatch.setattr(group_offloading.ModuleGroup, "_transfer_tensor_to_device", counted)
    return moved


# The settings


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
    plan = memory.planned(Placement("auto", budget=10**9, device="cpu"), nodes("wan"), [network], None)
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


# Everything as it was


@functools.cache
def used(name):
    """The first call of all leaves things behind, such as tables of position embeddings and counts of layers."""
    run(name=name, output_type="np")


def photograph(name):
    used(name)
    parts = [part for part in FAMILIES[name].pipeline().components.values() if isinstance(part, nn.Module)]
    layers = [
        (type(layer), sorted(vars(layer)), len(layer._forward_pre_hooks), getattr(layer, "processor", None))
        for part in parts
        for layer in part.modules()
    ]
    held = [(t.data_ptr(), t.dtype, t.device, t.shape) for part in parts for t in streaming.tensors(part)]
    switches = [(getattr(p, "use_slicing", None), getattr(p, "use_tiling", None)) for p in parts]
    return layers, held, switches


class Boom(Exception):
    pass


@families
@pytest.mark.parametrize("error", [None, Boom, KeyboardInterrupt])
@pytest.mark.parametrize("place", ["one at a time", "blocks", "layers", "half of the blocks"])
def test_networks_are_what_and_where_they_were(name, place, error):
    before = photograph(name)
    plain, _ = run(name=name)

    def interrupt(info):
        if info.step == 1 and error is not None:
            raise error

    members = nodes(name)
    settings = {"placement": PLACEMENTS[place](), "progress": False, "callback": interrupt}
    if error is None:
        couple.sample(members, **settings)
    else:
        with pytest.raises(error):
            couple.sample(members, **settings)
    assert photograph(name) == before
    assert same(run(name=name)[0], plain)


@pytest.mark.parametrize("place", ["blocks", "layers"])
def test_an_error_inside_a_block_leaves_nothing_behind(place):
    before = photograph("wan")
    calls = iter(range(100))

    def fail(*_):
        if next(calls) == 5:
            raise Boom

    hook = denoiser("wan").blocks[1].register_forward_hook(fail)
    try:
        with pytest.raises(Boom):
            run(PLACEMENTS[place](), name="wan", max_batch=1)
    finally:
        hook.remove()
    assert photograph("wan") == before


def test_step_caches_outlive_a_streamed_run():
    from diffusers import FirstBlockCacheConfig

    network = denoiser("flux")
    network.enable_cache(FirstBlockCacheConfig(threshold=0.2))
    try:
        expected, _ = run(steps=5)
        assert same(run(PLACEMENTS["blocks"](), steps=5)[0], expected)
        assert same(run(steps=5)[0], expected)
    finally:
        network.disable_cache()


# Eight bits


@pytest.mark.parametrize("place", ["resident", "stream"])
def test_eight_bits_halve_what_is_stored_and_are_undone(place):
    before, exact = photograph("flux"), run()[0]
    network = denoiser("flux")
    stored = set()

    def look(info):
        stored.add(network.single_transformer_blocks[0].proj_mlp.weight.dtype)

    members = nodes("flux")
    placement = Placement(place, fp8=True, device="cpu")
    result = couple.sample(
        members, couple.pair(*members, weight=0.1), placement=placement, callback=look, progress=False
    )
    assert stored == {torch.float8_e4m3fn}
    for node, expected in zip(members, exact, strict=True):
        error = (result[node][0] - expected).norm() / expected.norm()
        assert 0 < error < 0.1
    assert photograph("flux") == before


# Running out of memory


class Full:
    """Makes a layer run out of memory while `too_much(first argument)` holds."""

    def __init__(self, layer, too_much):
        self.hits = 0
        self.too_much = too_much
        self.handle = layer.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, layer, args, kwargs):
        if self.too_much(args[0] if args else next(iter(kwargs.values()))):
            self.hits += 1
            raise torch.OutOfMemoryError("there is no more")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.handle.remove()


def block(name):
    network = denoiser(name)
    return network.blocks[1] if name == "wan" else network.transformer_blocks[0]


@pytest.mark.parametrize("name", ["flux", "wan"])
def test_a_batch_that_is_too_large_is_halved_until_it_fits(name):
    expected, _ = run(name=name, count=4, max_batch=1)
    with (
        Full(block(name), lambda hidden: hidden.shape[0] > 1) as full,
        pytest.warns(RuntimeWarning, match="out of memory: .*max_batch=1"),
    ):
        found, result = run(Placement("auto", device="cpu"), name=name, count=4)
    kind = type(denoiser(name)).__name__
    assert result.placement.steps == [
        f"{kind}: sent other networks away and freed the cache",
        f"{kind}: max_batch=2",
        f"{kind}: max_batch=1",
    ]
    assert full.hits == 3
    assert same(found, expected)


def test_weights_are_streamed_when_nothing_else_is_left():
    before = photograph("flux")
    expected, _ = run(max_batch=1)
    left = iter([True] * 4)
    with (
        Full(block("flux"), lambda _: next(left, False)),
        pytest.warns(RuntimeWarning, match="streamed by layers"),
    ):
        found, result = run(Placement("auto", device="cpu"))
    assert [step.partition(": ")[2] for step in result.placement.steps] == [
        "sent other networks away and freed the cache",
        "max_batch=1",
        "weights streamed by blocks",
        "weights streamed by layers",
    ]
    assert same(found, expected)
    assert photograph("flux") == before


def test_at_the_foot_of_the_ladder_the_error_is_the_users():
    before = photograph("flux")
    with (
        Full(block("flux"), lambda _: True) as full,
        pytest.warns(RuntimeWarning),
        pytest.raises(torch.OutOfMemoryError, match="there is no more"),
    ):
        run(Placement("auto", device="cpu"))
    assert full.hits == 5
    assert photograph("flux") == before


@pytest.mark.parametrize("memory", ["resident", "stream"])
def test_only_auto_steps_down(memory):
    with (
        Full(block("flux"), lambda _: True) as full,
        warnings.catch_warnings(action="error"),
        pytest.raises(torch.OutOfMemoryError),
    ):
        run(Placement(memory, device="cpu"))
    assert full.hits == 1


def test_an_autoencoder_decodes_row_by_row_and_then_in_tiles():
    before = photograph("flux")
    vae = FAMILIES["flux"].pipeline().vae
    kept = vae.tile_latent_min_size, vae.tile_sample_min_size
    vae.tile_latent_min_size, vae.tile_sample_min_size = 4, 8
    try:
        with (
            Full(vae.decoder, lambda z: z.shape[0] > 1 or z.shape[-1] > 4),
            pytest.warns(RuntimeWarning, match="AutoencoderKL: in tiles"),
        ):
            found, result = run(Placement("auto", device="cpu"), output_type="np", num_images_per_prompt=2, max_batch=1)
    finally:
        vae.tile_latent_min_size, vae.tile_sample_min_size = kept
    assert result.placement.steps == [
        "AutoencoderKL: sent other networks away and freed the cache",
        "AutoencoderKL: row by row",
        "AutoencoderKL: in tiles",
    ]
    expected, _ = run(output_type="np", num_images_per_prompt=2, max_batch=1)
    assert [picture.shape for picture in found] == [picture.shape for picture in expected]
    assert photograph("flux") == before


# Answers that are not computed yet


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


class Blocks(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, x, t):
        for layer in self.blocks:
            x = layer(x)
        return (x,)


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


# A device with streams, played by the CPU: diffusers then traces the order of the layers in their first forward


@pytest.fixture
def streams(monkeypatch):
    def with_stream(module, onload_device, **settings):
        config = group_offloading.GroupOffloadingConfig(
            onload_device=onload_device,
            offload_device=torch.device("cpu"),
            offload_type=group_offloading.GroupOffloadingType(settings["offload_type"]),
            num_blocks_per_group=settings["num_blocks_per_group"],
            non_blocking=False,
            record_stream=False,
            low_cpu_mem_usage=False,
            stream=torch.cpu.Stream(),
        )
        group_offloading._apply_group_offloading(module, config)

    monkeypatch.setattr(torch.cpu.Stream, "synchronize", lambda self: None, raising=False)
    monkeypatch.setattr(streaming, "apply_group_offloading", with_stream)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self.clone())
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda self: True)


@pytest.mark.parametrize("place", ["blocks", "layers", "half of the blocks"])
@pytest.mark.parametrize("name", ["flux", "wan"])
def test_streams_change_no_bit_and_cost_one_more_passage_at_the_first_step(name, place, streams, passages):
    expected, _ = run(name=name, count=3, max_batch=1, steps=4)
    found, _ = run(PLACEMENTS[place](), name=name, count=3, max_batch=1, steps=4)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)  # the weights lie elsewhere in memory
    if place == "blocks":
        # The first forward is alone, the other two share the next passage.
        assert {times for _, times in passages.values()} == {3 + {"flux": 2, "wan": 3}[name]}


# Estimates


def test_the_most_that_is_alive_is_counted_as_by_hand():
    network = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 8)).to("meta")
    # Input 8, hidden 64 and its rectification at once: what goes in counts with what was given.
    assert estimates.peak(network, network, {"input": torch.empty(3, 8, device="meta")}) == 4 * 3 * (64 + 64)


@families
def test_weights_are_estimated_to_the_byte_before_they_are_there(name, tmp_path):
    pipeline = FAMILIES[name].pipeline()
    pipeline.save_pretrained(tmp_path)
    for file in tmp_path.rglob("*.safetensors"):
        file.unlink()
    found = estimates.estimate(tmp_path, dtype=torch.float32, height=32, width=32, num_frames=5)
    networks = {part: net for part, net in pipeline.components.items() if isinstance(net, nn.Module)}
    assert found.weights == {part: streaming.size(streaming.tensors(net)) for part, net in networks.items()}
    assert found == estimates.estimate(pipeline, height=32, width=32, num_frames=5)
    half = estimates.estimate(tmp_path, height=32, width=32, num_frames=5)
    assert half.weights["vae"] < found.weights["vae"]
    large, larger = (estimates.estimate(pipeline, height=side, width=256, num_frames=5) for side in (128, 256))
    for part in ("activations", "latents", "decoding"):
        assert 1.2 * getattr(large, part) < getattr(larger, part) < 2.1 * getattr(large, part)
    assert all(t.device.type == "cpu" for net in networks.values() for t in streaming.tensors(net))


@families
def test_what_a_forward_holds_is_what_the_estimate_says(name):
    network = denoiser(name)
    found = estimates.estimate(FAMILIES[name].pipeline(), height=32, width=32, num_frames=5)
    state = torch.zeros((1, 16, 2, 4, 4) if name == "wan" else (1, 4, 16, 16))
    assert 4 * state.numel() == found.latents
    inputs = estimates.INPUTS[type(network).__name__](network.config, state)
    assert estimates.peak(network, network, inputs) == found.activations


def test_folders_that_hold_no_pipeline_are_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no pipeline"):
        estimates.estimate(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "X", "unet": ["my_code", "Model"]}')
    with pytest.raises(ValueError, match="names no network"):
        estimates.estimate(tmp_path)


def test_auto_takes_what_fits_and_says_so():
    network = denoiser("flux")
    nbytes = streaming.size(streaming.tensors(network))
    for budget, words in ((10**9, "resident"), (nbytes + 1, "streamed by layers"), (1, "are needed at once")):
        members = nodes("flux")
        plan = memory.planned(Placement("auto", budget=budget, device="cpu"), members, [network], None)
        assert words in plan.line and "\n" not in plan.line


def test_the_plan_is_said_in_one_line(capsys):
    couple.sample(nodes("flux", 1), placement=PLACEMENTS["blocks"]())
    assert "denoisers streamed by blocks on cpu" in capsys.readouterr().err
    couple.sample(nodes("flux", 1), placement=PLACEMENTS["blocks"](), progress=False)
    assert capsys.readouterr().err == ""


# On a GPU

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


def on_cuda(placement, name, max_batch=None, output_type="latent"):
    torch.cuda.reset_peak_memory_stats()
    found, result = run(placement, name=name, max_batch=max_batch, output_type=output_type)
    return [tensor.cpu() for tensor in found], result, torch.cuda.max_memory_allocated()


@cuda
@families
@pytest.mark.parametrize("max_batch", [None, 1])
def test_streamed_on_cuda_is_resident_on_cuda(name, max_batch):
    before = photograph(name)
    expected, _, _ = on_cuda(Placement("resident", device="cuda"), name, max_batch)
    for fraction in (None, "1KB"):
        found, _, _ = on_cuda(Placement("stream", budget=fraction, device="cuda"), name, max_batch)
        assert same(found, expected)
    assert [kept[1:] for kept in photograph(name)[1]] == [kept[1:] for kept in before[1]]


@cuda
def test_encoders_leave_cuda_before_denoising_and_pictures_are_decoded():
    pipeline = FAMILIES["flux"].pipeline()
    where = []

    def look(info):
        where.extend(p.device.type for p in pipeline.text_encoder_2.parameters())

    members = nodes("flux", output_type="np")
    couple.sample(members, placement=Placement("resident", device="cuda"), callback=look, progress=False)
    assert set(where) == {"cpu"}


@cuda
def test_memory_really_runs_out_on_cuda_and_is_found():
    before = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction(1e-3)
    try:
        with pytest.warns(RuntimeWarning, match="out of memory"):
            hidden = {"height": 1024, "width": 1024}
            run(Placement("auto", budget=before, device="cuda"), name="sd21", count=8, **hidden)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
