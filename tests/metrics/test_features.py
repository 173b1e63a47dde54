"""DINO at tiny size, and FeatUp's upsampler against its own code."""

from pathlib import Path

import pytest
import torch
from transformers import ViTConfig, ViTModel

from couple.metrics.features import Dino, FeatUp, UpsamplerStack
from tests.golden import Golden, relative_error, weights

GENERATOR = torch.Generator().manual_seed(0)
MEAN, STD = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def transformer(hidden_size=12, layers=1):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = ViTConfig(
            hidden_size=hidden_size,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=16,
            initializer_range=0.5,
        )
        return ViTModel(config, add_pooling_layer=False).eval()


def test_a_summary_is_the_class_token_of_the_normalised_picture():
    model, pictures = transformer(), torch.rand(2, 3, 224, 224, generator=GENERATOR)
    with torch.no_grad():
        expected = model((pictures - MEAN) / STD).last_hidden_state[:, 0]
    torch.testing.assert_close(Dino(model).summary(pictures), expected)


def test_the_shorter_side_becomes_224_and_nothing_is_cropped():
    dino = Dino(transformer())
    seen = []
    dino._tokens = lambda pictures: seen.append(pictures) or torch.zeros(1, 2, 12)
    dino.summary(torch.tensor([0.0, 1.0]).expand(1, 3, 1, 2))
    assert seen[0].shape == (1, 3, 224, 448)
    torch.testing.assert_close(seen[0][..., [0, -1]], torch.tensor([0.0, 1.0]).expand(1, 3, 224, 2))


def test_patches_lie_as_in_the_picture():
    dino, pictures = Dino(transformer(layers=0)), torch.full((1, 3, 32, 48), 0.5)
    changed = pictures.clone()
    changed[:, :, 16:, 32:] = 1.0
    difference = (dino.patches(changed) - dino.patches(pictures)).abs().sum(1)
    assert difference.shape == (1, 2, 3) and difference.nonzero().tolist() == [[0, 1, 2]]
    with pytest.raises(ValueError, match="32 x 40 pixels are not made of patches of 16"):
        dino.patches(torch.zeros(1, 3, 32, 40))


def test_published_weights_load_from_a_folder_and_are_missed_in_one_sentence(tmp_path):
    model, pictures = transformer(), torch.rand(1, 3, 224, 224, generator=GENERATOR)
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(Dino.load(str(tmp_path)).summary(pictures), Dino(model).summary(pictures))
    with pytest.raises(FileNotFoundError, match=r"Apache-2.0\).*run: hf download nobody/no-dino"):
        Dino.load("nobody/no-dino")


def golden_upsampler():
    golden = Golden(Path(__file__).parent / "golden_tiny.safetensors")
    state = weights(golden.meta["keys_shapes"])
    return golden, {key: value + (value.ndim == 0) for key, value in state.items()}


def test_the_upsampler_is_featups_own():
    golden, state = golden_upsampler()
    stack = UpsamplerStack(5).eval()
    stack.load_state_dict(state)
    with torch.no_grad():
        got = stack(golden["featup.patches"], golden["featup.picture"])
    assert relative_error(got, golden["featup.out"]) < 1e-5


def checkpoint(dim):
    """What the published file holds, at another width: DINO, its norm, upsamplers, and what only training needs."""
    stack = UpsamplerStack(dim)
    state = {
        "model.0.model.cls_token": torch.zeros(1, 1, dim),
        "downsampler.w": torch.zeros(1),
        "scale_net.b": torch.zeros(1),
    }
    state |= {"model.1.norm.weight": torch.full((dim,), 2.0), "model.1.norm.bias": torch.full((dim,), 0.5)}
    return stack, state | {f"upsampler.{key}": value for key, value in stack.state_dict().items()}


def test_featup_is_the_upsampled_normalised_patches(tmp_path, monkeypatch):
    dino, (stack, state) = Dino(transformer(384)), checkpoint(384)
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "featup.ckpt")
    monkeypatch.setattr(Dino, "load", lambda repo: dino if repo == "facebook/dino-vits16" else None)
    featup = FeatUp.load(tmp_path / "featup.ckpt")
    pictures = torch.rand(2, 3, 32, 32, generator=GENERATOR)
    patches = dino.patches(pictures)
    mean, variance = patches.mean(1, keepdim=True), patches.var(1, keepdim=True, correction=0)
    with torch.no_grad():
        expected = stack.eval()((patches - mean) / (variance + 1e-5).sqrt() * 2 + 0.5, pictures)
    torch.testing.assert_close(featup(pictures), expected, atol=1e-4, rtol=1e-4)


def test_a_file_that_is_not_featups_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(Dino, "load", lambda repo: Dino(transformer(384)))
    state = checkpoint(384)[1]
    del state["upsampler.up3.range_temp"]
    torch.save({"state_dict": state}, tmp_path / "featup.ckpt")
    with pytest.raises(ValueError, match=r"featup.ckpt does not fit UpsamplerStack: 1 missing \(up3.range_temp\)"):
        FeatUp.load(tmp_path / "featup.ckpt")


def test_missing_weights_are_missed_in_one_sentence(tmp_path, monkeypatch):
    def offline(url, *arguments, **keywords):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"dino16_jbu_stack_cocostuff.ckpt \(licence: MIT\).*run: curl .* -o "):
        FeatUp.load()
