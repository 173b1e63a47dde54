"""The network: the official tensors at full size, its cost, and what diffusers can do with it."""

import json

import pytest
import torch
from diffusers.models.attention_dispatch import attention_backend
from torch.utils.flop_counter import FlopCounterMode

from couple.backends.seva import SevaModel
from tests.golden import DATA, relative_error
from tests.tiny import seva as tiny


@pytest.fixture(scope="module")
def published():
    """The network at its published size, without memory."""
    with torch.device("meta"):
        return SevaModel()


def arguments(clips=1, frames=tiny.FRAMES, seed=0):
    draw = torch.Generator().manual_seed(seed)
    rows = clips * frames
    return (
        torch.randn(rows, 11, 8, 8, generator=draw),
        torch.full((rows,), 500),
        torch.randn(rows, 1, 16, generator=draw),
        torch.randn(rows, 6, 8, 8, generator=draw),
    )


def test_the_state_dict_is_the_official_one(published):
    official = {
        key: tuple(shape) for key, shape in json.loads((DATA / "seva_state_dict.json").read_text())["tensors"].items()
    }
    assert {key: tuple(value.shape) for key, value in published.state_dict().items()} == official
    assert len(official) == 1146
    assert published.num_parameters() == 1_263_968_004
    state = {key: torch.empty(shape, device="meta") for key, shape in official.items()}
    published.load_state_dict(state, strict=True, assign=True)


def test_a_forward_of_21_views_at_576_pixels_costs_38_5_teraflop(published):
    """Counted for one clip; guidance doubles it."""

    def empty(*shape):
        return torch.empty(21, *shape, device="meta")

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        published(empty(11, 72, 72), empty(), empty(1, 1024), empty(6, 72, 72))
    assert counter.get_total_flops() == pytest.approx(38.5e12, rel=0.02)


def test_clips_of_a_batch_do_not_see_each_other_but_their_frames_do():
    network, (x, t, y, dense) = tiny.network(), arguments(clips=2)
    out = network(x, t, y, dense)
    x[tiny.FRAMES] += 1  # first frame of the second clip
    moved = (network(x, t, y, dense) - out).abs().amax(dim=(1, 2, 3))
    assert (moved[: tiny.FRAMES] == 0).all()
    assert (moved[tiny.FRAMES :] > 1e-4).all()


def test_the_order_of_frames_is_only_in_their_rays():
    network, (x, t, y, dense) = tiny.network(), arguments()
    y = y[:1].expand_as(y)
    order = torch.tensor([2, 0, 3, 1])
    out = network(x, t, y, dense)
    assert relative_error(network(x[order], t, y, dense[order]), out[order]) < 1e-5


def test_a_clip_may_have_another_number_of_frames_than_the_config():
    network, given = tiny.network(), arguments(frames=3)
    assert network(*given, num_frames=3).shape == (3, 4, 8, 8)


def test_bfloat16_is_close_to_float32():
    network, given = tiny.network(), arguments()
    expected = network(*given)
    half = SevaModel.from_config(network.config).to(torch.bfloat16)
    half.load_state_dict(network.state_dict())
    x, t, y, dense = given
    with torch.no_grad():
        out = half(x.bfloat16(), t, y.bfloat16(), dense.bfloat16())
    assert out.dtype == torch.bfloat16
    assert relative_error(out, expected) < 0.05


def test_the_attention_backend_can_be_chosen():
    network = SevaModel.from_config(tiny.network().config)
    network.load_state_dict(tiny.network().state_dict())
    layers = [part for part in network.modules() if hasattr(part, "processor")]
    assert len(layers) == 64  # two blocks of two attentions in each of 16 transformers
    # diffusers sets it for the whole process too, which the context takes back.
    with attention_backend("native"), torch.no_grad():
        network.set_attention_backend("_native_math")
        assert {layer.processor._attention_backend.value for layer in layers} == {"_native_math"}
        assert relative_error(network(*arguments()), tiny.network()(*arguments())) < 1e-5


@pytest.mark.parametrize("layer", [0, 3])
def test_the_chosen_attention_backend_is_the_one_that_runs(layer):
    network = SevaModel.from_config(tiny.network().config)
    layers = [part for part in network.modules() if hasattr(part, "processor")]
    layers[layer].set_attention_backend("_native_cudnn")
    with pytest.raises(RuntimeError, match="kernel"), torch.no_grad():
        network(*arguments())


def test_the_blocks_that_diffusers_compiles_and_keeps_whole_exist():
    names = {type(part).__name__ for part in tiny.network().modules()}
    assert names >= {*SevaModel._repeated_blocks, *SevaModel._no_split_modules}


@pytest.mark.parametrize("path", ["input_blocks.4.1", "middle_block.1"])
def test_a_repeated_block_compiles_in_one_graph(path):
    block = tiny.network().get_submodule(path)
    assert type(block).__name__ in SevaModel._repeated_blocks
    x, context = torch.randn(4, block.norm.num_channels, 2, 2), torch.randn(4, 1, 16)
    compiled = torch.compile(block, fullgraph=True, backend="eager")
    with torch.no_grad():
        assert relative_error(compiled(x, context, 4), block(x, context, 4)) < 1e-6


def test_a_saved_network_is_the_same_again(tmp_path):
    network, given = tiny.network(), arguments()
    network.save_pretrained(tmp_path)
    loaded = SevaModel.from_pretrained(tmp_path)
    assert dict(loaded.config)["num_frames"] == tiny.FRAMES
    with torch.no_grad():
        assert relative_error(loaded(*given), network(*given)) < 1e-6
