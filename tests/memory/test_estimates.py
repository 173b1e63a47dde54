"""What a run will take, before anything is there, and the plan that follows from it."""

import copy

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import couple
from couple import memory
from couple.backends import previews
from couple.memory import Placement, estimates, placement, streaming
from couple.memory.guests import Guest, Room
from tests.memory.placed import (
    META,
    PLACEMENTS,
    Blocks,
    denoiser,
    families,
    nodes,
)
from tests.tiny import FAMILIES


def test_the_most_that_is_alive_is_counted_as_by_hand():
    network = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 8)).to("meta")
    # Input 8, hidden 64 and its rectification at once: what goes in counts with what was given.
    assert estimates.peak(network, network, {"input": torch.empty(3, 8, device="meta")}) == (4 * 3 * (64 + 64), 0)


def test_what_waits_between_two_blocks_is_counted_as_by_hand():
    network = Blocks().to("meta")
    network.blocks[0] = nn.Sequential(nn.Linear(4, 64), nn.Linear(64, 4)).to("meta")
    most, between = estimates.peak(network, network, {"x": torch.empty(3, 4, device="meta"), "t": None})
    # Inside of a block its hidden 64, and what it makes of them; behind the second block, what went in and came out.
    assert (most, between) == (4 * 3 * (64 + 4), 4 * 3 * (4 + 4))


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
    assert estimates.peak(network, network, inputs) == (found.activations, found.between)
    assert 0 < found.between < found.activations


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_pipeline_can_be_planned_within_a_budget(name):
    family = FAMILIES[name]
    node = couple.Trajectory(family.pipeline(), **family.arguments(0))
    networks = [network for network in placement.found([node]) if placement.denoises(network)]
    plan = memory.planned(Placement("auto", budget=10**12, device="cpu"), [node], networks, None)
    assert "resident" in plan.line and plan.decoding > 0
    unknown = any(type(network).__name__ not in estimates.INPUTS for network in networks[:1])
    assert ("work at least" in plan.line) == unknown


@pytest.mark.parametrize("name", ["cogvideox", "flux2_klein", "ltx", "mochi", "qwen_image", "sana", "sd3"])
def test_the_state_is_as_large_as_estimated(name):
    family = FAMILIES[name]
    call = family.arguments(0)
    sizes = {size: call[size] for size in estimates.SIZES if size in call}
    settings = {"num_inference_steps": 2, "output_type": "latent", "return_dict": False}
    state = family.pipeline()(**{**call, **settings})[0]
    assert estimates.estimate(family.pipeline(), **sizes).latents == 4 * state.numel()


def test_sizes_that_are_not_given_are_those_of_the_pipeline():
    wan, cog = FAMILIES["wan"].pipeline(), FAMILIES["cogvideox"].pipeline()
    assert estimates.state_shape(wan.transformer, wan.vae, {}) == (1, 16, 21, 60, 104)
    config = cog.transformer.config
    frames = (config.sample_frames - 1) // 4 + 1
    assert estimates.state_shape(cog.transformer, cog.vae, {}) == (
        *(1, config.in_channels, frames),
        *(config.sample_height, config.sample_width),
    )


def test_a_network_that_fails_without_data_is_unknown_and_ends_nothing(monkeypatch):
    pipeline = FAMILIES["flux"].pipeline()

    def fail(self, *_, **__):
        raise KeyError("data")

    monkeypatch.setattr(type(pipeline.vae), "decode", fail)
    monkeypatch.setattr(type(pipeline.transformer), "forward", fail)
    found = estimates.estimate(pipeline)
    assert found.activations is None and found.decoding is None
    assert found.weights["vae"] == streaming.size(streaming.tensors(pipeline.vae))


@pytest.mark.parametrize(
    ("name", "changes", "forwards"),
    [("wan", {}, 2), ("wan", {"guidance_scale": 1.0}, 1), ("flux", {}, 1), ("sd21", {}, 1)],
)
def test_what_streamed_forwards_hold_while_others_run_is_counted(name, changes, forwards):
    network = denoiser(name)
    members = nodes(name, 3, **changes)
    sizes = {size: members[0].call_kwargs.get(size) for size in estimates.SIZES}
    one = estimates.estimate(members[0].pipeline, **sizes)

    def work(kind, count):
        plan = memory.planned(Placement(kind, budget=10**12, device="cpu"), members[:count], [network], 1)
        return plan.working[network] - 4 * count * one.latents

    assert work("resident", 3) == one.activations
    assert work("stream", 3) == one.activations + (3 * forwards - 1) * one.between
    assert work("stream", 1) == one.activations + (forwards - 1) * one.between


def test_what_is_free_is_what_others_do_not_hold(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 10**6))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 700)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 500)
    device = torch.device("cuda", 0)
    with FakeTensorMode():
        here, there = nn.Module(), nn.Linear(8, 8)
        here.weight = nn.Parameter(torch.empty(20, device=device))
        assert placement._free(device, []) == 1080  # and 500 of somebody else
        assert placement._free(device, [here, there, here]) == 1080 + 72  # nine tenths of its 80
    assert placement._free(torch.device("cpu"), []) is None


def test_a_plan_that_decodes_in_tiles_says_that_pixels_change():
    members = nodes("flux")
    vae = members[0].pipeline.vae
    for budget, words in ((10**9, ""), (streaming.size(streaming.tensors(vae)), "in tiles, which changes pixels")):
        plan = memory.planned(Placement("stream", budget=budget, device="cpu"), members, [denoiser("flux")], None)
        assert plan.tiled == ([vae] if words else [])
        assert ("tiles" in plan.line) == bool(words) and words in plan.line


def test_a_guest_is_encoded_where_it_works(monkeypatch):
    vae = copy.deepcopy(FAMILIES["cogvideox"].pipeline().vae)
    stock, given = vae.encode, []
    monkeypatch.setattr(
        vae, "encode", lambda pictures: given.append(pictures.device) or stock(torch.zeros(1, 3, 1, 16, 16))
    )
    Guest(Room(META, None, lambda nbytes: None), [], 0, False).join(vae)
    assert vae.device.type == "cpu"
    previews._encode(vae, torch.zeros(1, 3, 16, 16))
    assert given == [META]


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
