"""The network against the outputs of the authors' code."""

import pytest
import torch

from couple.backends.magic_fixup import MagicFixupUNet
from tests.backends.magic_fixup.official import GOLDEN, official_unet
from tests.golden import relative_error
from tests.tiny.magic_fixup import unet

NET = {key: GOLDEN[f"net.{key}"] for key in ("x_t", "z_coarse", "mask", "z_ref", "t", "ref_noised")}


@pytest.fixture(scope="module")
def reference():
    state = torch.cat([NET["ref_noised"], NET["z_ref"], NET["mask"]], 1)
    with torch.no_grad():
        return official_unet("reference_model")(state, NET["t"])


def predict(features=None):
    state = torch.cat([NET["x_t"], NET["z_coarse"], NET["mask"]], 1)
    with torch.no_grad():
        return official_unet("diffusion_model")(state, NET["t"], features)


def test_noise_with_a_reference_is_the_authors(reference):
    assert relative_error(predict(reference.features).sample, GOLDEN["net.eps"]) < 1e-4


def test_noise_without_a_reference_is_the_authors():
    assert relative_error(predict().sample, GOLDEN["net.eps_no_reference"]) < 1e-4


@pytest.mark.parametrize(
    "theirs, ours", [("middle_block", "mid_block.attentions.0"), ("output_blocks.3", "up_blocks.1.attentions.0")]
)
def test_features_are_the_authors(reference, theirs, ours):
    feature = reference.features[f"{ours}.transformer_blocks.0"]
    assert relative_error(feature, GOLDEN[f"net.ref_feature.{theirs}"]) < 1e-4


def test_output_of_the_reference_network_is_the_authors(reference):
    assert relative_error(reference.sample, GOLDEN["net.ref_out"]) < 1e-4


def test_a_network_that_looks_keeps_no_features():
    net, sample = unet(), torch.randn(1, 9, 8, 8, generator=torch.Generator().manual_seed(0))
    features = net(sample, 1).features
    assert len(features) == 4 and not net(sample, 1, features).features


def test_saved_and_loaded_it_predicts_the_same(tmp_path):
    net, sample = unet(), torch.randn(1, 9, 8, 8, generator=torch.Generator().manual_seed(0))
    net.save_pretrained(tmp_path)
    again = MagicFixupUNet.from_pretrained(tmp_path)
    features = net(sample, 1).features
    with torch.no_grad():
        torch.testing.assert_close(again(sample, 1, features).sample, net(sample, 1, features).sample)
