"""IC-Light's pipeline against stock Stable Diffusion whose UNet is given the condition by a hook, as in the demo."""

import copy
import sys
import types

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
)
from PIL import Image

from couple.backends.ic_light import IcLightPipeline, widen_conv_in
from tests.tiny.building import PROMPTS, clip_encoder, clip_tokenizer, picture
from tests.tiny.relighting import FAMILIES, ic_light, mattes
from tests.tiny.stable_diffusion import autoencoder, unet

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
SCHEDULERS = {
    "ddim": DDIMScheduler(**BETAS, clip_sample=False),
    "ddpm": DDPMScheduler(**BETAS, clip_sample=False),
    "euler": EulerDiscreteScheduler(**BETAS),
    "dpm++": DPMSolverMultistepScheduler(**BETAS, algorithm_type="sde-dpmsolver++", use_karras_sigmas=True),
}


def latents_of(pictures):
    pixels = torch.stack([torch.from_numpy(np.asarray(p).astype(np.float32)) for p in pictures]).permute(0, 3, 1, 2)
    vae = autoencoder()
    with torch.no_grad():
        return vae.encode(pixels / 127 - 1).latent_dist.mean * vae.config.scaling_factor


def over_grey(picture, alpha):
    laid = 127 + (np.asarray(picture).astype(np.float32) - 127) * alpha.numpy()[..., None]
    return Image.fromarray(laid.astype(np.uint8))


def demo(pipeline, condition, **kwargs):
    """Run stock text to image while the UNet of `pipeline` is given `condition`."""
    stock = StableDiffusionPipeline(
        vae=pipeline.vae,
        text_encoder=pipeline.text_encoder,
        tokenizer=pipeline.tokenizer,
        unet=copy.deepcopy(pipeline.unet),
        scheduler=pipeline.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    stock.set_progress_bar_config(disable=True)
    stock.unet.register_to_config(in_channels=4)
    stock.unet.register_forward_pre_hook(
        lambda _, args: (torch.cat([args[0], condition.repeat(len(args[0]) // 2, 1, 1, 1)], dim=1), *args[1:])
    )
    return stock(height=16, width=16, output_type="latent", **kwargs).images


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_by_foreground_it_is_the_demo(scheduler, guidance_scale):
    pipeline = ic_light(8, SCHEDULERS[scheduler])
    pipeline.set_progress_bar_config(disable=True)
    given = [picture(0, 16), picture(1, 16)]
    condition = latents_of([over_grey(p, a) for p, a in zip(given, mattes(), strict=True)])
    shared = {"prompt": list(PROMPTS[:2]), "negative_prompt": ["dull", "worst"], "num_inference_steps": 4}
    shared["guidance_scale"] = guidance_scale
    got = pipeline(
        images=given, alpha=mattes(), output_type="latent", generator=torch.Generator().manual_seed(3), **shared
    ).images
    expected = demo(pipeline, condition, generator=torch.Generator().manual_seed(3), **shared)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_by_background_it_is_the_demo():
    pipeline = ic_light(12, SCHEDULERS["ddim"])
    pipeline.set_progress_bar_config(disable=True)
    given, behind = [picture(0, 16), picture(1, 16)], picture(2, 16)
    foreground = latents_of([over_grey(p, a) for p, a in zip(given, mattes(), strict=True)])
    condition = torch.cat([foreground, latents_of([behind, behind])], dim=1)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    got = pipeline(
        "dusk", given, background=behind, alpha=mattes(), num_inference_steps=3, latents=noise, output_type="latent"
    ).images
    expected = demo(pipeline, condition, prompt=["dusk"] * 2, num_inference_steps=3, guidance_scale=2.0, latents=noise)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture
def fc():
    return FAMILIES["ic_light fc"].pipeline()


@pytest.fixture
def fbc():
    return FAMILIES["ic_light fbc"].pipeline()


def call(pipeline, **changes):
    arguments = {"prompt": "dusk", "images": [picture(0, 16), picture(1, 16)], "alpha": mattes()}
    arguments |= {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(0), "output_type": "pt"}
    return pipeline(**{**arguments, **changes}).images


def test_a_tensor_is_its_pictures(fc):
    given = torch.stack([torch.from_numpy(np.asarray(picture(k, 16)).copy()) for k in (0, 1)])
    assert torch.equal(call(fc, images=given.permute(0, 3, 1, 2) / 255), call(fc))


def test_transparent_pictures_bring_their_matte(fc):
    given = []
    for k, alpha in enumerate((mattes() * 255).to(torch.uint8)):
        cut = picture(k, 16).convert("RGBA")
        cut.putalpha(Image.fromarray(alpha.numpy()))
        given.append(cut)
    exact = (mattes() * 255).to(torch.uint8).float() / 255
    assert torch.equal(call(fc, images=given, alpha=None), call(fc, alpha=exact))


def test_rembg_finds_the_matte_of_opaque_pictures(fc, monkeypatch):
    def remove(given, only_mask):
        assert only_mask and given.mode == "RGB"
        return Image.fromarray((mattes()[0] * 255).to(torch.uint8).numpy())

    monkeypatch.setitem(sys.modules, "rembg", types.SimpleNamespace(remove=remove))
    exact = (mattes() * 255).to(torch.uint8).float() / 255
    assert torch.equal(call(fc, alpha=None), call(fc, alpha=exact))


def test_without_a_matte_and_rembg_it_says_what_to_do(fc, monkeypatch):
    monkeypatch.setitem(sys.modules, "rembg", None)
    with pytest.raises(ImportError, match=r"give alpha=.* or run: pip install \"rembg\[cpu\]\""):
        call(fc, alpha=None)


def test_pictures_are_cropped_to_the_size(fc):
    wide = Image.new("RGB", (32, 16))
    wide.paste(picture(0, 16), (8, 0))
    alpha = torch.ones(1, 16, 32)
    cropped = call(fc, images=wide, alpha=alpha, height=16, width=16)
    assert torch.equal(cropped, call(fc, images=picture(0, 16), alpha=torch.ones(1, 16, 16)))
    assert call(fc, images=wide, alpha=alpha).shape == (1, 3, 16, 32)


def test_long_prompts_are_read_to_their_end(fc):
    prompt = "a" * 80
    assert not torch.equal(call(fc, prompt=prompt + " b"), call(fc, prompt=prompt + " c"))


def test_short_prompts_are_encoded_as_by_stock_stable_diffusion(fc):
    parts = (autoencoder(), clip_encoder(), clip_tokenizer(), unet(), SCHEDULERS["ddim"])
    stock = StableDiffusionPipeline(*parts, None, None, requires_safety_checker=False)
    expected, nothing = stock.encode_prompt("a pink star", "cpu", 1, True, "")
    with torch.no_grad():
        context = fc._context(["a pink star", ""], torch.device("cpu"))
    torch.testing.assert_close(context, torch.cat([expected, nothing]))


def test_it_survives_saving(fbc, tmp_path):
    fbc.save_pretrained(tmp_path)
    loaded = IcLightPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(call(loaded, background=picture(3, 16)), call(fbc, background=picture(3, 16)))


def test_it_runs_in_half_precision(fc):
    half = IcLightPipeline(**{name: copy.deepcopy(part) for name, part in fc.components.items()}).to(torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    assert call(half, output_type="latent").dtype == torch.bfloat16
    assert (call(half).float() - call(fc)).abs().mean() < 0.05


def test_output_types(fc):
    latents = call(fc, output_type="latent")
    assert latents.shape == (2, 4, 8, 8)
    assert [image.size for image in call(fc, output_type="pil")] == [(16, 16)] * 2
    assert call(fc, output_type="np").shape == (2, 16, 16, 3)
    plain = fc("dusk", picture(0, 16), alpha=mattes()[:1], num_inference_steps=1, output_type="pt", return_dict=False)
    assert isinstance(plain, tuple) and plain[0].shape == (1, 3, 16, 16)


REFUSED = {
    "prompts": ({"prompt": ["a", "b", "c"]}, ValueError, "`prompt` has 3 entries for 2 pictures"),
    "negatives": ({"negative_prompt": ["a"] * 3}, ValueError, "`negative_prompt` has 3 entries for 2 pictures"),
    "no picture": ({"images": []}, ValueError, "`images` is empty"),
    "array": ({"images": np.zeros((2, 16, 16, 3))}, TypeError, "`images` must be PIL pictures or a tensor"),
    "shape": ({"images": torch.zeros(2, 16, 16, 3)}, ValueError, r"\(2, 16, 16, 3\); a tensor of pictures has shape"),
    "range": ({"images": torch.full((2, 3, 16, 16), 2.0)}, ValueError, r"`images` must be in \[0, 1\]"),
    "NaN": ({"images": torch.full((2, 3, 16, 16), torch.nan)}, ValueError, r"`images` must be in \[0, 1\]"),
    "sizes": ({"images": [picture(0, 16), picture(1, 32)]}, ValueError, "2 different sizes; give height"),
    "size": ({"height": 15, "width": 16}, ValueError, "height 15 and width 16 must be multiples of 2.*height=14"),
    "mattes": ({"alpha": mattes()[:1]}, ValueError, r"`alpha` has shape \(1, 16, 16\); 2 pictures need \(2, H, W\)"),
    "matte shape": ({"alpha": mattes()[:, None]}, ValueError, r"`alpha` has shape \(2, 1, 16, 16\)"),
    "matte range": ({"alpha": mattes() * 255}, ValueError, r"`alpha` must be in \[0, 1\] and goes from 0 to 255"),
    "matte NaN": ({"alpha": mattes() * torch.nan}, ValueError, r"`alpha` must be in \[0, 1\]"),
    "background": ({"background": picture(0, 16)}, ValueError, "sees the foreground alone"),
    "latents": (
        {"latents": torch.zeros(2, 4, 4, 4)},
        ValueError,
        r"\(2, 4, 4, 4\); these pictures need \(2, 4, 8, 8\)",
    ),
    "generators": ({"generator": [torch.Generator()] * 3}, ValueError, "list of 3 for 2 pictures"),
    "output": ({"output_type": "jpg"}, ValueError, "`output_type` is 'jpg'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_calls_that_cannot_work_are_refused(fc, case):
    changes, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        call(fc, **changes)


def test_a_background_must_be_there_and_fit(fbc):
    with pytest.raises(ValueError, match="this UNet sees a background"):
        call(fbc)
    with pytest.raises(ValueError, match="`background` has 3 entries for 2 pictures"):
        call(fbc, background=[picture(k, 16) for k in range(3)])


def test_a_network_of_other_channels_is_refused():
    with pytest.raises(ValueError, match=r"4 input channels; IC-Light has 8 or 12: widen_conv_in\(unet, 8\)"):
        IcLightPipeline(autoencoder(), clip_encoder(), clip_tokenizer(), unet(), SCHEDULERS["ddim"])


def test_a_widened_network_does_not_see_its_new_channels_yet():
    narrow, wide = unet(), widen_conv_in(copy.deepcopy(unet()), 12)
    x, context = torch.randn(1, 12, 8, 8, generator=torch.Generator().manual_seed(0)), torch.ones(1, 3, 32)
    assert wide.config.in_channels == wide.conv_in.in_channels == 12
    assert narrow.config.in_channels == 4
    torch.testing.assert_close(wide(x, 5, context).sample, narrow(x[:, :4], 5, context).sample)
    assert widen_conv_in(wide, 12).conv_in.weight.shape[1] == 12
    with pytest.raises(ValueError, match="sees 12 channels already, more than the 8 asked for"):
        widen_conv_in(wide, 8)
