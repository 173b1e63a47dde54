"""The pipelines by their arguments: equivalent calls, schedulers, outputs, and every refusal."""

import copy

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
)
from PIL import Image

from couple.backends.mv_adapter import MVAdapterPipeline, MVAdapterXLPipeline, framed, rig, shifted
from tests.tiny import stable_diffusion
from tests.tiny.building import embeds, picture
from tests.tiny.mv_adapter import FAMILIES

T2MV, I2MV, T2MV_XL, I2MV_XL = FAMILIES
FOUR = rig((0, 90, 180, 270), height=32, width=32)


def call(name, **changes):
    """Draw with the tiny pipeline `name`; the picture and the steps are small."""
    family = FAMILIES[name]
    arguments = {**family.arguments(0), "output_type": "latent", "num_inference_steps": 2, **changes}
    return family.pipeline()(**arguments).images


def test_the_default_views_are_the_six_of_the_published_models():
    six = rig((0, 45, 90, 180, 270, 315), height=32, width=32)
    got = call(T2MV, cameras=None, height=32, width=32)
    assert got.shape == (6, 4, 4, 4)
    assert torch.equal(got, call(T2MV, cameras=six))


def test_the_size_is_that_of_the_cameras_and_need_not_be_square():
    assert call(T2MV, cameras=rig((0, 90), height=16, width=48)).shape == (2, 4, 2, 6)


def test_views_are_told_apart_by_their_cameras_and_know_of_each_other():
    noise = torch.randn(4, 4, 4, 4, generator=torch.Generator().manual_seed(5))
    same = call(T2MV, latents=noise)
    turned = call(T2MV, latents=noise, cameras=rig((0, 90, 180, 30), height=32, width=32))
    # Only the last camera differs: its own view moves, and through it the others.
    assert not torch.equal(same[3], turned[3])
    assert not torch.equal(same[0], turned[0])
    alone = call(T2MV, latents=noise, cameras=rig((0, 90, 180, 30), height=32, width=32), multiview_scale=0.0)
    apart = call(T2MV, latents=noise, multiview_scale=0.0)
    assert torch.allclose(alone[:3], apart[:3], atol=1e-5)
    assert not torch.allclose(alone[3], apart[3], atol=1e-3)


def test_views_in_another_order_are_the_same_views():
    noise = torch.randn(4, 4, 4, 4, generator=torch.Generator().manual_seed(5))
    order = [2, 0, 3, 1]
    got = call(T2MV, latents=noise[order], cameras=FOUR[order])
    expected = call(T2MV, latents=noise)
    assert torch.allclose(got, expected[order], atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("name", FAMILIES)
def test_without_guidance_there_are_no_negative_rows(name):
    sizes = []
    unet = FAMILIES[name].pipeline().unet
    handle = unet.register_forward_hook(lambda _, args, out: sizes.append(len(out[0])))
    call(name, guidance_scale=1.0)
    call(name, guidance_scale=2.0)
    handle.remove()
    # A reference picture is looked at once before the two steps.
    once = [1] if "i2mv" in name else []
    assert sizes == [*once, 4, 4, *once, 8, 8]


@pytest.mark.parametrize("name", [I2MV, I2MV_XL])
def test_the_reference_picture_counts_as_much_as_it_is_weighted(name):
    size = FAMILIES[name].arguments(0)["cameras"].height
    one, other = call(name), call(name, image=picture(7, size))
    assert not torch.allclose(one, other, atol=1e-3)
    off = [call(name, image=picture(k, size), reference_scale=0.0) for k in (0, 7)]
    assert torch.equal(*off)


def test_a_reference_may_be_a_picture_an_array_a_tensor_or_latents():
    image = picture(0)
    array = np.asarray(image, dtype=np.float32) / 255
    expected = call(I2MV, image=image)
    assert torch.equal(call(I2MV, image=[image]), expected)
    assert torch.allclose(call(I2MV, image=array), expected, atol=1e-4)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    assert torch.allclose(call(I2MV, image=tensor), expected, atol=1e-4)
    latents = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    kept = latents.clone()
    assert not torch.allclose(call(I2MV, image=latents), expected, atol=1e-3)
    assert torch.equal(latents, kept)


def test_encoded_prompts_are_the_prompts():
    pipe = FAMILIES[T2MV].pipeline()
    prompts = FAMILIES[T2MV].arguments(0)
    positive, negative = pipe.encode_prompt(prompts["prompt"], "cpu", 1, True, prompts["negative_prompt"])
    given = {"prompt": None, "negative_prompt": None, "prompt_embeds": positive, "negative_prompt_embeds": negative}
    assert torch.equal(call(T2MV, **given), call(T2MV))

    pipe = FAMILIES[T2MV_XL].pipeline()
    positive, negative, pooled, negative_pooled = pipe.encode_prompt(
        prompts["prompt"], device="cpu", negative_prompt=prompts["negative_prompt"]
    )
    given |= {"prompt_embeds": positive, "negative_prompt_embeds": negative}
    given |= {"pooled_prompt_embeds": pooled, "negative_pooled_prompt_embeds": negative_pooled}
    assert torch.equal(call(T2MV_XL, **given), call(T2MV_XL))


@pytest.mark.parametrize(
    "cls",
    [
        DDIMScheduler,
        DDPMScheduler,
        EulerDiscreteScheduler,
        EulerAncestralDiscreteScheduler,
        DPMSolverMultistepScheduler,
    ],
)
def test_any_scheduler_samples_alike_from_alike_generators(cls):
    there = FAMILIES[I2MV].pipeline()
    pipe = MVAdapterPipeline(**{**there.components, "scheduler": shifted(cls())}, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    arguments = FAMILIES[I2MV].arguments(0)
    first = pipe(**arguments).images
    again = pipe(**FAMILIES[I2MV].arguments(0)).images
    assert first.isfinite().all()
    assert torch.equal(first, again)
    assert not torch.equal(first, pipe(**{**arguments, "generator": torch.Generator().manual_seed(1)}).images)


@pytest.mark.parametrize("name", [T2MV, T2MV_XL])
def test_views_come_in_every_form(name):
    arguments = {**FAMILIES[name].arguments(0), "num_inference_steps": 1}
    pipe = FAMILIES[name].pipeline()
    side = arguments["cameras"].height
    pictures = pipe(**{**arguments, "output_type": "pil"}).images
    assert len(pictures) == 4
    assert pictures[0].size == (side, side)
    arguments["generator"] = torch.Generator().manual_seed(0)
    (tensors,) = pipe(**{**arguments, "output_type": "pt"}, return_dict=False)
    assert tensors.shape == (4, 3, side, side)
    assert np.allclose(np.asarray(pictures[1]) / 255, tensors[1].permute(1, 2, 0), atol=1 / 255)


def test_an_autoencoder_in_float16_works_in_float32_and_is_float16_again():
    parts = FAMILIES[I2MV].pipeline().components
    half = copy.deepcopy(parts["vae"]).half()
    pipe = MVAdapterPipeline(**{**parts, "vae": half}, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    used = []
    half.decoder.register_forward_hook(lambda _, args, out: used.append(out.dtype))
    half.encoder.register_forward_hook(lambda _, args, out: used.append(out.dtype))
    expected = call(I2MV, output_type="np")
    got = pipe(**{**FAMILIES[I2MV].arguments(0), "output_type": "np", "num_inference_steps": 2}).images
    assert used == [torch.float32, torch.float32]
    assert half.dtype == torch.float16
    assert np.abs(got - expected).mean() < 0.05


def test_a_cut_out_object_is_centred_on_grey():
    image = Image.new("RGBA", (50, 40), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (5, 10, 15, 30))  # 10 wide, 20 high
    result = framed(image, 100, 120)
    assert (result.mode, result.size) == ("RGB", (120, 100))
    red = np.asarray(result)[..., 0] > 200
    assert (red.any(1).sum(), red.any(0).sum()) == (90, 45)
    assert np.flatnonzero(red.any(1))[0] == 5
    assert np.asarray(result)[0, 0].tolist() == [127, 127, 127]
    with pytest.raises(ValueError, match="mode RGB and no alpha channel; cut the object out first"):
        framed(image.convert("RGB"), 8, 8)
    with pytest.raises(ValueError, match="transparent everywhere"):
        framed(Image.new("RGBA", (8, 8)), 8, 8)


REFUSED = [
    (T2MV, {"cameras": FOUR[:3], "latents": torch.zeros(4, 4, 4, 4)}, r"3 cameras of 32 x 32 .* need \(3, 4, 4, 4\)"),
    (T2MV, {"latents": torch.zeros(6, 4, 4, 4)}, r"shape \(6, 4, 4, 4\); 4 cameras .* as many `cameras`"),
    (T2MV, {"height": 64, "width": 64}, r"32 x 32 pixels and .* is 64 x 64; pass cameras.resized\(64, 64\)"),
    (T2MV, {"cameras": None, "height": 40, "width": 32}, r"40 x 32 pixels .* multiples of 16, e.g. 48 x 32"),
    (T2MV_XL, {"cameras": FOUR.resized(48, 48)}, r"48 x 48 pixels .* multiples of 32, e.g. 64 x 64"),
    (T2MV, {"image": picture(0)}, "text-to-multi-view and reads no picture; leave out `image`"),
    (I2MV, {"image": None}, "image-to-multi-view; pass image=picture or load a t2mv"),
    (I2MV, {"image": [picture(0), picture(1)]}, r"`image` has 2 pictures; all views share one .* image=images\[0\]"),
    (I2MV, {"image": torch.zeros(2, 3, 32, 32)}, r"2 pictures; all views share one: image=image\[:1\]"),
    (I2MV, {"image": torch.zeros(1, 4, 8, 8)}, r"shape \(1, 4, 8, 8\); .* latents of shape \(1, 4, 4, 4\)"),
    (I2MV, {"image": np.zeros((3, 32, 32))}, r"shape \(3, 32, 32\); an array is a picture of shape \(H, W, 3\)"),
    (I2MV, {"image": Image.new("RGBA", (32, 32))}, r"mode RGBA; .* image=framed\(image, 32, 32\)"),
    (T2MV, {"prompt": None}, "give either `prompt` or `prompt_embeds`"),
    (T2MV, {"prompt_embeds": embeds(0, 1, 5, 32)}, "give either `prompt` or `prompt_embeds`"),
    (T2MV, {"prompt": None, "prompt_embeds": embeds(0, 4, 5, 32)}, r"shape \(4, 5, 32\); all views share one prompt"),
    (
        T2MV,
        {"prompt": None, "prompt_embeds": embeds(0, 1, 5, 64)},
        r"shape \(1, 5, 64\); .* of shape \(1, tokens, 32\)",
    ),
    (T2MV_XL, {"prompt": None, "prompt_embeds": embeds(0, 1, 5, 64)}, "`prompt_embeds` and `pooled_prompt_embeds` tog"),
    (
        T2MV_XL,
        {"prompt": None, "prompt_embeds": embeds(0, 1, 5, 64), "pooled_prompt_embeds": embeds(0, 4, 32)},
        r"`pooled_prompt_embeds` has shape \(4, 32\); all views share one",
    ),
    (T2MV, {"num_inference_steps": 0}, "`num_inference_steps` is 0; it must be at least 1"),
    (T2MV, {"output_type": "jpg"}, "`output_type` is 'jpg'; it must be one of pil, np, pt, latent"),
]


@pytest.mark.parametrize(("name", "changes", "message"), REFUSED, ids=range(len(REFUSED)))
def test_what_does_not_fit_is_refused_before_any_network_runs(name, changes, message):
    pipe = FAMILIES[name].pipeline()
    ran = []
    handles = [
        net.register_forward_pre_hook(lambda net, args: ran.append(net))
        for net in (pipe.unet, pipe.adapter, pipe.text_encoder)
    ]
    with pytest.raises(ValueError, match=message):
        call(name, **changes)
    for handle in handles:
        handle.remove()
    assert not ran


def test_arguments_of_another_type_are_refused():
    with pytest.raises(TypeError, match="`prompt` is a list; all views share one string"):
        call(T2MV, prompt=["a", "b"])
    with pytest.raises(TypeError, match="`negative_prompt` is a list; all views share one string"):
        call(T2MV, negative_prompt=["a", "b"])
    with pytest.raises(TypeError, match="`cameras` is a Tensor; give couple.scenes.cameras.Cameras"):
        call(T2MV, cameras=torch.eye(4).repeat(4, 1, 1))
    with pytest.raises(TypeError, match="`image` is a str; give a PIL picture"):
        call(I2MV, image="cat.png")


def test_a_unet_of_the_wrong_kind_is_refused():
    plain, xl = FAMILIES[T2MV].pipeline(), FAMILIES[T2MV_XL].pipeline()
    stock = MVAdapterPipeline(**{**plain.components, "unet": stable_diffusion.unet()}, requires_safety_checker=False)
    with pytest.raises(ValueError, match=r"UNet2DConditionModel without an adapter; use load_pipeline\(base"):
        stock("a cat", cameras=FOUR)
    of_xl = MVAdapterPipeline(**{**plain.components, "unet": xl.unet}, requires_safety_checker=False)
    with pytest.raises(ValueError, match="UNet is of the SDXL family; use MVAdapterXLPipeline"):
        of_xl("a cat", cameras=FOUR)
    of_sd = MVAdapterXLPipeline(**{**xl.components, "unet": plain.unet})
    with pytest.raises(ValueError, match="UNet is of the SD 2.1 family; use MVAdapterPipeline"):
        of_sd("a cat", cameras=FOUR)


def test_without_a_text_encoder_prompts_come_encoded():
    parts = FAMILIES[T2MV].pipeline().components
    pipe = MVAdapterPipeline(**{**parts, "text_encoder": None, "tokenizer": None}, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    with pytest.raises(ValueError, match="no text encoder; give `prompt_embeds` and, unless guidance_scale=1"):
        pipe(prompt_embeds=embeds(0, 1, 5, 32), cameras=FOUR)
    views = pipe(prompt_embeds=embeds(0, 1, 5, 32), cameras=FOUR, num_inference_steps=1, guidance_scale=1).images
    assert len(views) == 4
