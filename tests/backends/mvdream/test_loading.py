"""Both published kinds of file load strictly, at full size, and nothing else does."""

import json

import pytest
import torch
from safetensors.torch import save_file

from couple.backends.mvdream import MVDreamModel, MVDreamPipeline
from couple.backends.mvdream.loading import load_weights
from tests.golden import DATA
from tests.tiny.mvdream import FAMILIES, unet

SHAPES = json.loads((DATA / "mvdream_unet_state_dict.json").read_text())["tensors"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    FAMILIES["mvdream"].pipeline().save_pretrained(folder)
    return folder


def original(path, shapes):
    """A checkpoint as large as the published one that stores one number a tensor."""
    state = {f"model.diffusion_model.{key}": torch.full((1,), 0.5).expand(*shape) for key, shape in shapes.items()}
    others = {"betas": torch.zeros(1000), "first_stage_model.quant_conv.bias": torch.zeros(8)}
    torch.save({**others, **state}, path)
    return path


def test_the_original_checkpoint_loads_at_full_size(tmp_path, base):
    pipeline = MVDreamPipeline.from_single_file(original(tmp_path / "sd-v2.1-base-4view.pt", SHAPES), base=base)
    assert pipeline.unet.num_parameters() == 867_572_164
    assert all(not p.is_meta and p.flatten()[0] == 0.5 for p in pipeline.unet.parameters())
    assert not pipeline.unet.training
    assert pipeline.scheduler.config.beta_schedule == "scaled_linear"


def test_a_checkpoint_of_another_network_is_refused(tmp_path, base):
    shapes = {**SHAPES, "time_embed.0.bias": [640]}
    del shapes["camera_embed.0.weight"]
    path = original(tmp_path / "other.pt", shapes)
    with pytest.raises(ValueError, match=r"does not fit MVDreamModel: 1 missing \(camera_embed.0.weight\).*\(640,\)"):
        MVDreamPipeline.from_single_file(path, base=base)


@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_weights_arrive(tmp_path, kind):
    state, path = unet().state_dict(), tmp_path / f"weights.{kind}"
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": {f"model.diffusion_model.{key}": value for key, value in state.items()}}, path)
    with torch.device("meta"):
        net = MVDreamModel.from_config(unet().config)
    load_weights(net, path)
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no checkpoint .*nowhere.pt"):
        MVDreamPipeline.from_single_file(tmp_path / "nowhere.pt")
