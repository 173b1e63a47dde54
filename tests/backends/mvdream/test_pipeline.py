"""The pipeline samples as the official loop does, with any scheduler, and says what is wrong with a call."""

import copy
import inspect
import re

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    ImagePipelineOutput,
    UniPCMultistepScheduler,
)

from couple.backends.mvdream import MVDreamModel, MVDreamPipeline, rig
from couple.backends.mvdream.loading import ddim
from tests.golden import Golden, relative_error, weights
from tests.tiny.building import embeds
from tests.tiny.mvdream import FAMILIES

GOLDEN = Golden("mvdream_golden_tiny.safetensors")
FAMILY = FAMILIES["mvdream"]


class Recording(DDIMScheduler):
    """DDIM that keeps every state."""

    def step(self, *args, **kwargs):
        stepped = super().step(*args, **kwargs)
        self.states = [*getattr(self, "states", []), stepped[0]]
        return stepped


def tiny(**parts):
    pipeline = MVDreamPipeline(**{**FAMILY.pipeline().components, **parts})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def latents(pipeline=None, **changes):
    pipeline = pipeline or FAMILY.pipeline()
    return pipeline(**{**FAMILY.arguments(0), "output_type": "latent", **changes}).images


def test_golden_samples():
    taken = inspect.signature(MVDreamModel).parameters
    net = MVDreamModel(**{name: value for name, value in GOLDEN.meta["config"].items() if name in taken})
    net.load_state_dict(weights(GOLDEN.meta["keys_shapes"]))
    sampler, noise = GOLDEN.meta["sampler"], GOLDEN["sample.noise"]
    pipeline = tiny(unet=net.eval(), scheduler=Recording.from_config(ddim().config))
    result = pipeline(
        prompt_embeds=GOLDEN["sample.context_pos"],
        negative_prompt_embeds=GOLDEN["sample.context_neg"],
        latents=noise,
        num_views=len(noise),
        elevation=sampler["elevation"],
        height=noise.shape[2] * pipeline.vae_scale_factor,
        width=noise.shape[3] * pipeline.vae_scale_factor,
        num_inference_steps=sampler["steps"],
        guidance_scale=sampler["guidance"],
        eta=sampler["eta"],
        output_type="latent",
    ).images
    assert pipeline.scheduler.timesteps.tolist() == GOLDEN["sample.timesteps"].tolist()
    for state, expected in zip(pipeline.scheduler.states, GOLDEN["sample.x"], strict=True):
        assert relative_error(state, expected) < 1e-4
    assert torch.equal(result, pipeline.scheduler.states[-1])


def test_default_sampler_is_the_official_one():
    for name, value in GOLDEN.meta["sampler"].items():
        assert ddim().config.get(name, value) == value


def test_pictures_of_every_kind():
    kinds = {kind: FAMILY.pipeline()(**{**FAMILY.arguments(0), "output_type": kind}) for kind in ("pil", "np", "pt")}
    assert all(type(output) is ImagePipelineOutput for output in kinds.values())
    pil, array, tensor = (output.images for output in kinds.values())
    assert [image.size for image in pil] == [(16, 16)] * 4
    assert array.shape == (4, 16, 16, 3) and tensor.shape == (4, 3, 16, 16)
    assert np.array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    assert abs(np.stack([np.asarray(image) for image in pil]) / 255 - array).max() <= 0.5 / 255 + 1e-6
    assert np.ptp(array[0]) > 0.05
    decoded = FAMILY.pipeline().vae.decode(latents() / FAMILY.pipeline().vae.config.scaling_factor).sample
    torch.testing.assert_close(tensor, (decoded / 2 + 0.5).clamp(0, 1))
    (plain,) = FAMILY.pipeline()(**FAMILY.arguments(0), return_dict=False)
    assert np.array_equal(plain, array)


def test_seeds_decide_and_latents_are_left_alone():
    assert torch.equal(latents(), latents())
    assert not torch.equal(latents(generator=torch.Generator().manual_seed(9)), latents())
    noise = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    before = noise.clone()
    assert torch.equal(latents(latents=noise), latents())
    assert torch.equal(noise, before)


def test_embeddings_stand_for_prompts():
    pipeline, prompt = FAMILY.pipeline(), FAMILY.arguments(0)["prompt"]
    ids = [pipeline.tokenizer(text, padding="max_length", return_tensors="pt").input_ids for text in (prompt, "blurry")]
    positive, negative = (pipeline.text_encoder(i).last_hidden_state for i in ids)
    expected = latents(negative_prompt="blurry")
    assert torch.equal(latents(prompt=None, prompt_embeds=positive, negative_prompt_embeds=negative), expected)
    assert torch.equal(latents(prompt=None, prompt_embeds=positive, negative_prompt="blurry"), expected)
    assert not torch.equal(latents(), expected)


def test_without_guidance_the_negative_prompt_is_not_read():
    assert torch.equal(latents(guidance_scale=1.0, negative_prompt="blurry"), latents(guidance_scale=1.0))


def test_guidance_goes_from_the_negative_to_the_positive_prediction():
    """After one step the state is affine in the scale."""
    pipeline = tiny(scheduler=DDIMScheduler.from_config(ddim().config, timestep_spacing="trailing"))
    one, two, four = (latents(pipeline, num_inference_steps=1, guidance_scale=scale) for scale in (1.0, 2.0, 4.0))
    assert relative_error(four - one, 3 * (two - one)) < 1e-3
    assert relative_error(two, one) > 1e-3


def test_a_prompt_that_is_too_long_is_cut_off_with_a_warning():
    with pytest.warns(UserWarning, match="a prompt of 102 tokens is cut off: the text encoder sees the first 77"):
        long = latents(prompt="x " * 100)
    assert torch.equal(long, latents(prompt="x " * 75))


def test_views_follow_their_cameras():
    cameras, order = rig(4, elevation=15), [2, 0, 3, 1]
    noise = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    drawn = latents(cameras=cameras, latents=noise)
    assert torch.equal(drawn, latents(elevation=15, latents=noise))
    shuffled = latents(cameras=cameras[order], latents=noise[order])
    torch.testing.assert_close(shuffled, drawn[order], atol=1e-4, rtol=1e-4)
    assert relative_error(latents(elevation=0, latents=noise), drawn) > 1e-3


@pytest.mark.parametrize("size", [(16, 16, 2), (8, 24, 3), (24, 16, 6)])
def test_other_sizes_and_numbers_of_views(size):
    height, width, views = size
    assert latents(height=height, width=width, num_views=views).shape == (views, 4, height // 2, width // 2)


def test_vp_and_ve_schedulers_draw_the_same():
    """DDIM without noise and Euler are one method in two conventions of the state."""
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    vp = DDIMScheduler(**betas, clip_sample=False, set_alpha_to_one=True)
    ve = EulerDiscreteScheduler(**betas, timestep_spacing="leading")
    expected = latents(tiny(scheduler=vp))
    assert relative_error(latents(tiny(scheduler=ve)), expected) < 1e-3


@pytest.mark.parametrize(
    "scheduler",
    [
        DDPMScheduler,
        EulerAncestralDiscreteScheduler,
        DPMSolverMultistepScheduler,
        HeunDiscreteScheduler,
        UniPCMultistepScheduler,
    ],
)
def test_other_schedulers(scheduler):
    pipeline = tiny(scheduler=scheduler.from_config(ddim().config))
    first = latents(pipeline)
    assert first.isfinite().all() and torch.equal(first, latents(pipeline))


def test_half_precision():
    half = tiny(unet=copy.deepcopy(FAMILY.pipeline().unet).to(torch.bfloat16))
    drawn = latents(half)
    assert drawn.dtype == torch.bfloat16
    assert relative_error(drawn, latents()) < 0.1
    assert np.isfinite(half(**FAMILY.arguments(0)).images).all()


def test_saved_and_loaded_it_draws_the_same(tmp_path):
    FAMILY.pipeline().save_pretrained(tmp_path)
    loaded = MVDreamPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded.unet) is MVDreamModel
    torch.testing.assert_close(latents(loaded), latents(), atol=1e-5, rtol=1e-5)


BAD = {
    "cameras": (
        {"cameras": rig(3)},
        "`cameras` has 3 cameras for 4 views; pass num_views=3 or choose with cameras[:4].",
    ),
    "views": ({"num_views": 0}, "`num_views` is 0; give at least 1."),
    "size": (
        {"height": 18, "width": 7},
        "pictures of 18 x 7 pixels do not fit the network, which takes multiples of 4; pass height=16, width=8.",
    ),
    "steps": ({"num_inference_steps": 0}, "`num_inference_steps` is 0; give at least 1."),
    "latents": (
        {"latents": torch.zeros(4, 4, 8, 9)},
        "`latents` has shape (4, 4, 8, 9); 4 views of 16 x 16 pixels take latents of shape (4, 4, 8, 8).",
    ),
    "no prompt": ({"prompt": None}, "give either `prompt` or `prompt_embeds`, and not both."),
    "both": ({"prompt_embeds": embeds(0, 1, 7, 32)}, "give either `prompt` or `prompt_embeds`, and not both."),
    "embeds": (
        {"prompt": None, "prompt_embeds": embeds(0, 4, 7, 16)},
        "`prompt_embeds` has shape (4, 7, 16); the network takes (1, 7, 32) for one prompt.",
    ),
    "flat embeds": (
        {"prompt": None, "prompt_embeds": embeds(0, 7, 32)},
        "`prompt_embeds` has shape (7, 32); the network takes (1, L, 32) for one prompt.",
    ),
    "negative": (
        {"negative_prompt_embeds": embeds(0, 1, 7, 32)},
        "`negative_prompt_embeds` has shape (1, 7, 32); the network takes (1, 77, 32) for one prompt.",
    ),
    "output": ({"output_type": "jpeg"}, "`output_type` is 'jpeg'; give one of pil, np, pt, latent."),
    "elevation": ({"elevation": 95.0}, "`elevation` is 95.0 degrees; it must lie between -90 and 90."),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_before_anything_runs(name, monkeypatch):
    changes, message = BAD[name]
    monkeypatch.setattr(MVDreamModel, "forward", None)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        latents(**changes)


def test_a_list_of_prompts_is_refused():
    with pytest.raises(TypeError, match=r"`prompt` is \['a', 'b'\]; one call draws one object: give one text"):
        latents(prompt=["a", "b"])
