"""The network is the official one: same numbers, same names, views that see each other and nobody else."""

import inspect
import json

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from diffusers.models.attention_dispatch import attention_backend

from couple.backends.mvdream import MVDreamModel
from couple.backends.mvdream.layers import MVDreamAttnProcessor
from tests.golden import DATA, Golden, relative_error, weights
from tests.tiny.mvdream import unet

GOLDEN = Golden("mvdream_golden_tiny.safetensors")
VIEWS = GOLDEN.meta["config"]["views"]


@pytest.fixture(scope="module")
def network():
    taken = inspect.signature(MVDreamModel).parameters
    net = MVDreamModel(**{name: value for name, value in GOLDEN.meta["config"].items() if name in taken})
    net.load_state_dict(weights(GOLDEN.meta["keys_shapes"]))
    return net.eval().requires_grad_(False)


def predict(network, camera):
    return network(GOLDEN["net.x"], GOLDEN["net.t"], GOLDEN["net.context"], camera, VIEWS).sample


def test_golden_with_cameras(network):
    got = predict(network, GOLDEN["net.camera"])
    assert relative_error(got, GOLDEN["net.out"]) < 1e-5
    assert relative_error(got, GOLDEN["net.out_original_repo"]) < 1e-5


def test_golden_without_cameras(network):
    assert relative_error(predict(network, None), GOLDEN["net.out_no_camera"]) < 1e-5


def test_full_size_has_the_published_keys_and_shapes():
    with torch.device("meta"):
        net = MVDreamModel()
    published = json.loads((DATA / "mvdream_unet_state_dict.json").read_text())
    assert {key: list(value.shape) for key, value in net.state_dict().items()} == published["tensors"]
    assert net.num_parameters() == published["_meta"]["num_params"] == 867_572_164


def test_one_view_without_a_camera_is_stable_diffusion():
    """The network it was fine-tuned from, as diffusers has it, is an oracle at sizes other than the golden ones."""
    config = {"layers_per_block": 1, "cross_attention_dim": 32, "attention_head_dim": (2, 4)}
    stock = UNet2DConditionModel(
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        use_linear_projection=True,
        **config,
    ).eval()
    state = {f"model.diffusion_model.{key}": value for key, value in unet().state_dict().items()}
    stock.load_state_dict(convert_ldm_unet_checkpoint(state, {**config, "class_embed_type": None}))
    x, context = random(0, 3, 4, 6, 10), random(1, 3, 5, 32)
    timestep = torch.tensor([3, 500, 999])
    with torch.no_grad():
        expected = stock(x, timestep, context).sample
    assert relative_error(unet()(x, timestep, context, num_views=1).sample, expected) < 1e-5


def random(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_views_of_a_sample_see_each_other_and_no_other_sample():
    x, context, camera = random(0, 6, 4, 8, 8), random(1, 6, 5, 32), random(2, 6, 16)
    before = unet()(x, 500, context, camera, num_views=3).sample
    x[1] += 1
    after = unet()(x, 500, context, camera, num_views=3).sample
    changed = (after - before).abs().amax(dim=(1, 2, 3)) > 1e-3
    assert changed.tolist() == [True] * 3 + [False] * 3


def test_one_timestep_serves_all_rows():
    x, context = random(0, 4, 4, 8, 8), random(1, 4, 5, 32)
    expected = unet()(x, torch.full((4,), 37), context).sample
    for timestep in (37, torch.tensor(37), torch.tensor(37.0)):
        assert torch.equal(unet()(x, timestep, context, return_dict=False)[0], expected)


def test_the_attention_backend_can_be_chosen():
    x, context = random(0, 4, 4, 8, 8), random(1, 4, 5, 32)
    net = MVDreamModel.from_config(unet().config)
    net.load_state_dict(unet().state_dict())
    expected = unet()(x, 500, context).sample
    # diffusers sets it for the whole process too, which the context takes back.
    with attention_backend("native"):
        net.set_attention_backend("_native_math")
        backends = {processor._attention_backend for processor in net.attn_processors.values()}
        with torch.no_grad():
            got = net(x, 500, context).sample
    assert [backend.value for backend in backends] == ["_native_math"]
    assert relative_error(got, expected) < 1e-5
    assert MVDreamAttnProcessor._attention_backend is None


def test_rows_that_are_not_whole_samples_are_refused():
    with pytest.raises(ValueError, match="`sample` has 6 rows, which are not samples of 4 views; set num_views"):
        unet()(random(0, 6, 4, 8, 8), 500, random(1, 6, 5, 32))
