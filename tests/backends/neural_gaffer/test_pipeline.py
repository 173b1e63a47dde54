"""Neural Gaffer's pipeline against stock Stable Diffusion that is given its conditions by a hook."""

import copy

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, StableDiffusionPipeline
from PIL import Image
from transformers import CLIPImageProcessor

from couple.backends.neural_gaffer import NeuralGafferPipeline, environment
from tests.tiny.building import picture
from tests.tiny.relighting import FAMILIES, cameras, environment_map, image_encoder, unet
from tests.tiny.stable_diffusion import autoencoder

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
SCHEDULERS = {
    "ddim": DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False),
    "ddpm": DDPMScheduler(**BETAS, clip_sample=False),
    "euler": EulerDiscreteScheduler(**BETAS),
}


@pytest.fixture
def gaffer():
    return FAMILIES["neural_gaffer"].pipeline()


def call(pipeline, **changes):
    arguments = {"images": [picture(0, 16), picture(1, 16)], "environment_map": environment_map(0)}
    arguments |= {"cameras": cameras(), "num_inference_steps": 2, "output_type": "pt"}
    return pipeline(**{**arguments, "generator": torch.Generator().manual_seed(0), **changes}).images


def encoded(pictures):
    """Means of the posterior, not scaled, of 8-bit pictures."""
    pixels = np.stack([np.asarray(p.resize((16, 16), Image.Resampling.BILINEAR)) for p in pictures])
    pixels = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        return autoencoder().encode(pixels).latent_dist.mean


def maps(make):
    return [Image.fromarray(make(environment.rotated(environment_map(0), w2c))) for w2c in blender()]


def blender():
    return torch.diag(torch.tensor([1.0, -1, -1, 1], dtype=torch.float64)) @ cameras().w2c


def token(pictures):
    """Embeddings of pictures resized to 32 x 32 by corners."""
    pixels = torch.stack([torch.from_numpy(np.asarray(p).copy()) for p in pictures]).permute(0, 3, 1, 2) / 255
    resized = torch.nn.functional.interpolate(pixels, size=(32, 32), mode="bicubic", align_corners=True)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    with torch.no_grad():
        return image_encoder()((resized - mean) / std).image_embeds[:, None]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_it_is_stock_sampling_with_conditions(scheduler, guidance_scale):
    given = [picture(0, 16), picture(1, 16)]
    parts = (autoencoder(), image_encoder(), CLIPImageProcessor(), unet(16), SCHEDULERS[scheduler])
    pipeline = NeuralGafferPipeline(*parts)
    pipeline.set_progress_bar_config(disable=True)
    shared = {"num_inference_steps": 4, "guidance_scale": guidance_scale, "output_type": "latent"}
    got = call(pipeline, images=given, generator=torch.Generator().manual_seed(3), **shared)

    stock = StableDiffusionPipeline(
        autoencoder(),
        None,
        None,
        copy.deepcopy(unet(16)),
        SCHEDULERS[scheduler],
        None,
        None,
        requires_safety_checker=False,
    )
    stock.set_progress_bar_config(disable=True)
    stock.unet.register_to_config(in_channels=4)
    condition = torch.cat([encoded(given), encoded(maps(environment.hdr)), encoded(maps(environment.ldr))], dim=1)

    def condition_it(_, args):
        rows = condition if len(args[0]) == 2 else torch.cat([torch.zeros_like(condition), condition])
        return (torch.cat([args[0], rows], dim=1), *args[1:])

    stock.unet.register_forward_pre_hook(condition_it)
    embeds = token(given)
    expected = stock(
        prompt_embeds=embeds,
        negative_prompt_embeds=torch.zeros_like(embeds),
        height=16,
        width=16,
        generator=torch.Generator().manual_seed(3),
        **shared,
    ).images
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_the_encoder_sees_the_corners_of_the_picture(gaffer):
    seen = []
    handle = image_encoder().register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        call(gaffer, images=[picture(0, 16), picture(1, 16)])
    finally:
        handle.remove()
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    for k, pixels in enumerate(seen[0]):
        expected = (np.asarray(picture(k, 16))[[0, 0, -1, -1], [0, -1, 0, -1]] / 255 - mean) / std
        corners = pixels.permute(1, 2, 0).numpy()[[0, 0, -1, -1], [0, -1, 0, -1]]
        np.testing.assert_allclose(corners, expected, atol=1e-4)


def test_the_light_and_the_camera_matter(gaffer):
    usual = call(gaffer)
    assert not torch.allclose(call(gaffer, environment_map=environment_map(1)), usual)
    assert not torch.allclose(call(gaffer, cameras=cameras()[[1, 0]]), usual)
    assert not torch.allclose(call(gaffer, turn=1.0), usual)
    assert torch.equal(call(gaffer, environment_map=environment_map(0).numpy()), usual)
    assert torch.equal(call(gaffer, cameras=blender()[:, :3]), usual)


def test_transparent_pictures_are_laid_over_white(gaffer):
    cut = picture(0, 16).convert("RGBA")
    cut.paste((255, 0, 0, 0), (0, 0, 8, 16))
    white = picture(0, 16)
    white.paste("white", (0, 0, 8, 16))
    assert torch.equal(call(gaffer, images=[cut, cut]), call(gaffer, images=[white, white]))


def test_the_map_given_is_left_alone(gaffer):
    light = environment_map(0)
    call(gaffer, environment_map=light)
    assert torch.equal(light, environment_map(0))


def test_it_survives_saving(gaffer, tmp_path):
    gaffer.save_pretrained(tmp_path)
    loaded = NeuralGafferPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(call(loaded), call(gaffer))


def test_it_runs_in_half_precision(gaffer):
    parts = {name: copy.deepcopy(part) for name, part in gaffer.components.items()}
    half = NeuralGafferPipeline(**parts).to(torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    assert call(half, output_type="latent").dtype == torch.bfloat16
    assert (call(half).float() - call(gaffer)).abs().mean() < 0.05


def test_output_types(gaffer):
    assert call(gaffer, output_type="latent").shape == (2, 4, 8, 8)
    assert [image.size for image in call(gaffer, output_type="pil", height=8, width=24)] == [(24, 8)] * 2
    plain = gaffer(
        picture(0, 16), environment_map(0), cameras()[0], num_inference_steps=1, output_type="np", return_dict=False
    )
    assert isinstance(plain, tuple) and plain[0].shape == (1, 16, 16, 3)


def spoilt(value):
    light = environment_map(0)
    light[3, 4, 1] = value
    return light


REFUSED = {
    "cameras": ({"cameras": cameras()[0]}, ValueError, "there are 1 cameras for 2 pictures"),
    "matrices": ({"cameras": torch.eye(3)}, ValueError, r"`cameras` has shape \(3, 3\); world-to-camera"),
    "rotations": ({"cameras": 2 * blender()}, ValueError, "rotations that are none"),
    "NaN": ({"environment_map": spoilt(torch.nan)}, ValueError, "`environment_map` has values that are not finite"),
    "infinity": (
        {"environment_map": spoilt(torch.inf)},
        ValueError,
        "`environment_map` has values that are not finite",
    ),
    "negative": ({"environment_map": spoilt(-0.5)}, ValueError, r"negative radiance \(-0.5\); use map.clamp"),
    "map shape": ({"environment_map": torch.ones(3, 8, 16)}, ValueError, r"\(3, 8, 16\); a map has \(H, W, 3\)"),
    "integers": (
        {"environment_map": torch.ones(8, 16, 3, dtype=torch.uint8)},
        TypeError,
        "of torch.uint8; give linear",
    ),
    "size": ({"height": 17}, ValueError, "height 17 and width 16 must be multiples of 2"),
    "pictures": ({"images": "a.png"}, TypeError, "`images` must be PIL pictures or a tensor"),
    "latents": ({"latents": torch.zeros(1, 4, 8, 8)}, ValueError, r"these pictures need \(2, 4, 8, 8\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_calls_that_cannot_work_are_refused(gaffer, case):
    changes, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        call(gaffer, **changes)


def test_a_network_of_other_channels_is_refused():
    with pytest.raises(ValueError, match=r"8 input channels; Neural Gaffer has 16: widen_conv_in\(unet, 16\)"):
        NeuralGafferPipeline(autoencoder(), image_encoder(), CLIPImageProcessor(), unet(8), SCHEDULERS["ddim"])
