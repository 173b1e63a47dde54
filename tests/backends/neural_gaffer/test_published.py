"""Loading Neural Gaffer: a training state in the published layout, tiny and, without numbers, at full size."""

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPImageProcessor

from couple.backends.checkpoint import load_strictly
from couple.backends.neural_gaffer import from_published
from tests.tiny.building import picture
from tests.tiny.relighting import cameras, environment_map, image_encoder, unet
from tests.tiny.stable_diffusion import autoencoder

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    autoencoder().save_pretrained(folder / "vae")
    image_encoder().save_pretrained(folder / "image_encoder")
    CLIPImageProcessor().save_pretrained(folder / "feature_extractor")
    unet(8).save_pretrained(folder / "unet")
    DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1).save_pretrained(
        folder / "scheduler"
    )
    return folder


def save(state, folder, name):
    (folder / "optimizer.bin").write_bytes(b"never opened")
    if name.endswith(".safetensors"):
        save_file(state, folder / name)
    else:
        torch.save(state, folder / name)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("wrapper", ["", "module."])
def test_the_network_is_that_of_the_state(base, tmp_path, name, wrapper):
    expected = unet(16).state_dict()
    save({wrapper + key: value for key, value in expected.items()}, tmp_path, name)
    pipeline = from_published(tmp_path, base=base)
    got = pipeline.unet.state_dict()
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[key], value) for key, value in expected.items())
    assert pipeline.unet.config.in_channels == 16 and not pipeline.unet.training
    assert pipeline.scheduler.config.steps_offset == 1 and not pipeline.scheduler.config.set_alpha_to_one
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(picture(0, 16), environment_map(0), cameras()[0], num_inference_steps=1, output_type="pt").images
    assert made.isfinite().all()


def test_precision(base, tmp_path):
    save(unet(16).state_dict(), tmp_path, "model.safetensors")
    pipeline = from_published(tmp_path, base=base, dtype=torch.bfloat16)
    assert pipeline.unet.dtype == pipeline.vae.dtype == pipeline.image_encoder.dtype == torch.bfloat16


@pytest.mark.parametrize(
    "fault, message",
    [
        (lambda state: state.pop("conv_in.bias"), r"1 missing \(conv_in.bias\)"),
        (lambda state: state.update(extra=torch.zeros(1)), r"1 unexpected \(extra\)"),
        (
            lambda state: state.update(unet(8).state_dict()),
            r"conv_in.weight \(16, 8, 3, 3\), expected \(16, 16, 3, 3\)",
        ),
    ],
    ids=["missing", "unexpected", "shape"],
)
def test_weights_that_do_not_fit_are_named(base, tmp_path, fault, message):
    state = dict(unet(16).state_dict())
    fault(state)
    save(state, tmp_path, "model.safetensors")
    with pytest.raises(ValueError, match=message):
        from_published(tmp_path, base=base)


def test_code_in_a_checkpoint_does_not_run(base, tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("sprung").touch, ())

    save({"conv_in.bias": Trap()}, tmp_path, "pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        from_published(tmp_path, base=base)
    assert not tmp_path.joinpath("sprung").exists()


def test_a_folder_without_weights_says_where_they_are(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"unzip .*hf download coast01/Neural_Gaffer neural_gaffer_res256_ckpt"):
        from_published(tmp_path)


def test_a_full_size_state_fits():
    config = {"sample_size": 32, "cross_attention_dim": 768, "in_channels": 16}
    with torch.device("meta"):
        full, saved = UNet2DConditionModel(**config), UNet2DConditionModel(**config)
    load_strictly(full, saved.state_dict(), source="state")
    # Stable Diffusion 1.5 and twelve more channels of 320 kernels of 3 x 3.
    assert sum(value.numel() for value in full.parameters()) == 859_520_964 + 12 * 320 * 9
