"""The published checkpoint: every key of the authors' finds its place or is known to be unused."""

import json

import pytest
import torch

from couple.backends.magic_fixup import MagicFixupPipeline, MagicFixupUNet, convert, from_published, published
from tests.backends.magic_fixup.official import PARTS, golden_state, golden_unet, official_unet
from tests.golden import DATA
from tests.tiny.stable_diffusion import autoencoder

FULL_SIZE = json.loads((DATA / "magicfixup_unet_state_dict.json").read_text())["tensors"]
#: Beside the networks the file has these and more; nobody reads them.
OTHERS = {"betas": torch.zeros(1000), "first_stage_model.quant_conv.bias": torch.zeros(8)}


@pytest.fixture
def base(tmp_path):
    autoencoder().save_pretrained(tmp_path / "base" / "vae")
    return tmp_path / "base"


def written(path, states):
    tensors = {f"model.{part}.{key}": value for part, state in states.items() for key, value in state.items()}
    torch.save({**tensors, **OTHERS}, path)
    return path


def test_a_checkpoint_of_full_size_loads_strictly(tmp_path, base):
    # Every tensor repeats one number, so that the file is small.
    states = {
        part: {key: torch.tensor(float(i)).expand(*shape) for i, (key, shape) in enumerate(FULL_SIZE.items())}
        for part in PARTS
    }
    assert all(len(state) == 958 for state in states.values())
    pipe = from_published(checkpoint=written(tmp_path / "weights", states), base=base)
    for network, state in zip((pipe.unet, pipe.reference_unet), states.values(), strict=True):
        loaded = {float(tensor.flatten()[0]) for tensor in network.state_dict().values()}
        left = [key for i, key in enumerate(state) if i not in loaded]
        assert len(loaded) == 958 - len(left) == 686
        assert all(".attn2." in key or ".merge_attentions" in key for key in left)


def test_a_converted_folder_has_the_weights_and_the_schedule(tmp_path, base, monkeypatch):
    monkeypatch.setattr(published, "MagicFixupUNet", golden_unet)
    path = written(tmp_path / "weights", {part: golden_state(part) for part in PARTS})
    convert(tmp_path / "folder", checkpoint=path, base=base)
    assert not [*(tmp_path / "folder").rglob("*.bin")]
    pipe = MagicFixupPipeline.from_pretrained(tmp_path / "folder")
    for part, network in zip(PARTS, (pipe.unet, pipe.reference_unet), strict=True):
        expected = official_unet(part).state_dict()
        assert all(torch.equal(tensor, expected[key]) for key, tensor in network.state_dict().items())
    assert pipe.scheduler.alphas_cumprod[-1] == 0


def test_every_missing_and_unexpected_key_is_named():
    state = golden_state("diffusion_model")
    gone = [key for key in state if key.startswith("middle_block.1.transformer_blocks.0.attn3.to_")]
    for key in gone:
        state.pop(key)
    added = [f"label_emb.{i}.weight" for i in range(7)]
    with pytest.raises(ValueError) as error:
        published.load_unet({**state, **dict.fromkeys(added, torch.zeros(1))}, golden_unet(), source="weights.pt")
    assert len(gone) == 5
    assert "weights.pt is not a Magic Fixup network (missing: middle_block" in str(error.value)
    assert all(key in str(error.value) for key in (*gone, *added))


def test_a_network_of_another_size_is_named():
    with torch.device("meta"):
        unet = MagicFixupUNet()
    with pytest.raises(ValueError, match=r"weights.pt does not fit MagicFixupUNet: 685 of another shape"):
        published.load_unet(golden_state("diffusion_model"), unet, source="weights.pt")
