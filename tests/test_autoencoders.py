"""Decoding gives the pictures that pipelines show, encoding the latents they start from."""

import copy

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from diffusers import AutoencoderTiny

from couple import autoencoders
from couple.backends import flux
from tests.tiny import FAMILIES
from tests.tiny.building import module, picture
from tests.tiny.stable_diffusion import autoencoder

PICTURES = ["sd21", "sdxl", "pixart_sigma", "sd3", "sana", "flux", "flux2_klein", "qwen_image"]


def pixels(k, size=16):
    return torch.from_numpy(np.array(picture(k, size))).movedim(-1, 0)[None] / 127.5 - 1


def drawn(family):
    """The state a stock call ends in, and the picture it returns."""
    states = []

    def keep(pipeline, step, timestep, tensors):
        states.append(tensors["latents"])
        return tensors

    watch = {"callback": lambda step, timestep, latents: states.append(latents)}
    if family != "pixart_sigma":
        watch = {"callback_on_step_end": keep}
    images = FAMILIES[family].pipeline()(**{**FAMILIES[family].arguments(0), **watch, "output_type": "pt"}).images
    return states[-1], images


@pytest.mark.parametrize("family", PICTURES)
def test_decoding_the_last_state_gives_the_picture_of_the_pipeline(family):
    state, image = drawn(family)
    if state.ndim == 3:
        state = flux.unpack(state, 8, 8)
    decoded = autoencoders.decode(FAMILIES[family].pipeline().vae, state)
    assert decoded.std() > 0.01
    torch.testing.assert_close((decoded / 2 + 0.5).clamp(0, 1), image, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", PICTURES)
def test_encoding_scales_what_the_encoder_gives(family):
    vae = FAMILIES[family].pipeline().vae
    x = pixels(0, 32)
    encoded = vae.encode(x[:, :, None] if family == "qwen_image" else x, return_dict=False)[0]
    raw = encoded if isinstance(encoded, torch.Tensor) else encoded.mode()
    if family == "qwen_image":
        mean, std = (torch.tensor(vae.config[name]).reshape(1, -1, 1, 1) for name in ("latents_mean", "latents_std"))
        expected = (raw[:, :, 0] - mean) / std
    elif family == "flux2_klein":
        expected = FAMILIES[family].pipeline()._encode_vae_image(x, None)
        expected = flux.unpack(expected.flatten(2).movedim(1, 2), *raw.shape[-2:])
    else:
        expected = (raw - (vae.config.get("shift_factor") or 0)) * vae.config["scaling_factor"]
    torch.testing.assert_close(autoencoders.encode(vae, x), expected)


def test_a_distilled_autoencoder_takes_scaled_latents_as_they_are():
    vae = module(
        AutoencoderTiny, encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1),
    )  # fmt: skip
    x = pixels(0)
    state = autoencoders.encode(vae, x)
    assert torch.equal(state, vae.encode(x).latents)
    assert torch.equal(autoencoders.decode(vae, state), vae.decode(state).sample)


def test_a_batch_norm_over_patches_that_has_learnt_something_is_undone():
    vae = copy.deepcopy(FAMILIES["flux2_klein"].pipeline().vae)
    draw = torch.Generator().manual_seed(0)
    vae.bn.running_mean.copy_(torch.randn(16, generator=draw))
    vae.bn.running_var.copy_(torch.rand(16, generator=draw) + 0.5)
    state = autoencoders.encode(vae, pixels(0))
    patches = flux.pack(vae.encode(pixels(0)).latent_dist.mode())
    expected = (patches - vae.bn.running_mean) / (vae.bn.running_var + vae.config["batch_norm_eps"]).sqrt()
    torch.testing.assert_close(flux.pack(state), expected)
    torch.testing.assert_close(autoencoders.decode(vae, state), vae.decode(flux.unpack(patches, 8, 8)).sample)


def test_an_autoencoder_that_overflows_in_float16_works_in_float32_and_is_left_as_it_was():
    wide = autoencoder()
    narrow = copy.deepcopy(wide).half()
    rounded = copy.deepcopy(narrow).float()
    before = {name: weight.clone() for name, weight in narrow.state_dict().items()}
    state = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    decoded = autoencoders.decode(narrow, state.half())
    assert decoded.dtype == torch.float32
    assert torch.equal(decoded, autoencoders.decode(rounded, state.half()))
    with pytest.raises(RuntimeError):
        autoencoders.decode(narrow, state[:, :3])
    after = narrow.state_dict()
    assert all(torch.equal(after[name], before[name]) and after[name].dtype == torch.float16 for name in before)


def test_half_precision_latents_are_scaled_in_their_own_type_and_decoded_in_that_of_the_weights():
    vae = copy.deepcopy(autoencoder()).bfloat16()
    state = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert autoencoders.decode(vae, state).dtype == torch.bfloat16
    assert autoencoders.encode(vae, pixels(0)).dtype == torch.float32


def test_weights_that_accelerate_keeps_elsewhere_are_fetched():
    vae, away = autoencoder(), copy.deepcopy(autoencoder())
    cpu_offload(away, torch.device("cpu"))
    assert {weight.device.type for weight in away.parameters()} == {"meta"}
    state = autoencoders.encode(away, pixels(0))
    assert torch.equal(state, autoencoders.encode(vae, pixels(0)))
    assert torch.equal(autoencoders.decode(away, state), autoencoders.decode(vae, state))


def test_what_is_no_autoencoder_of_pictures_is_refused():
    with pytest.raises(TypeError, match="`vae_b` must be a diffusers autoencoder, e.g. pipe.vae; got None"):
        autoencoders.check("vae_b", None)
    with pytest.raises(TypeError, match="must be a diffusers autoencoder"):
        autoencoders.check("vae_a", FAMILIES["sd21"].pipeline().unet)
    with pytest.raises(
        NotImplementedError, match="`vae_a`: AutoencoderKLMochi makes videos and a bridge carries pictures"
    ):
        autoencoders.check("vae_a", FAMILIES["mochi"].pipeline().vae)
    autoencoders.check("vae_a", FAMILIES["wan"].pipeline().vae)
