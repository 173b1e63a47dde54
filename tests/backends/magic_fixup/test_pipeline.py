"""The pipeline: the authors' sampler, what goes in and comes out, and what is refused."""

import functools

import pytest
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from diffusers.schedulers import scheduling_ddim

from couple.backends.magic_fixup import MagicFixupPipeline, pipeline, scheduler
from tests.backends.magic_fixup.official import GOLDEN, PARTS, official_unet
from tests.golden import relative_error
from tests.tiny.building import picture
from tests.tiny.magic_fixup import FAMILIES, edit
from tests.tiny.stable_diffusion import autoencoder

FAMILY = FAMILIES["magic_fixup"]


def run(pipe=None, **changes):
    return (pipe or FAMILY.pipeline())(**{**FAMILY.arguments(0), **changes}).images


def with_scheduler(make, **config):
    parts = {**FAMILY.pipeline().components, "scheduler": make.from_config(scheduler().config, **config)}
    pipe = MagicFixupPipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_the_schedule_is_the_authors():
    ours = scheduler()
    torch.testing.assert_close(ours.betas, GOLDEN["schedule.betas"], atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.alphas_cumprod, GOLDEN["schedule.alphas_cumprod"], atol=1e-6, rtol=1e-4)


def test_the_first_state_is_the_noised_edit():
    first = scheduler().add_noise(GOLDEN["net.z_coarse"], GOLDEN["qsample.noise"], GOLDEN["qsample.t"])
    assert relative_error(first, GOLDEN["qsample.out"]) < 1e-4
    fifty = scheduler()
    fifty.set_timesteps(50)
    assert fifty.timesteps[:1].tolist() == GOLDEN["qsample.t"].tolist()


@pytest.fixture(scope="module")
def sampled():
    """The golden run, with the authors' noise in the order in which it is drawn."""
    pipe = MagicFixupPipeline(autoencoder(), *map(official_unet, PARTS), scheduler())
    pipe.set_progress_bar_config(disable=True)
    steps = GOLDEN.under("sample.")
    pipe.scheduler.set_timesteps(GOLDEN.meta["sampler"]["steps"])
    assert torch.equal(pipe.scheduler.timesteps, steps["timesteps"])
    pairs = zip(steps["noise_ref"].split(1), steps["noise_step"].split(1), strict=True)
    noises = iter([steps["noise_first"], *(noise for pair in pairs for noise in pair)])
    predictions = []
    taken = pipe.scheduler.step

    @functools.wraps(taken)
    def step(*args, **kwargs):
        result = taken(*args, **kwargs)
        predictions.append(result[1])
        return result

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        for module in (pipeline, scheduling_ddim):
            patch.setattr(module, "randn_tensor", lambda shape, **_: next(noises).reshape(shape))
        patch.setattr(pipe.scheduler, "step", step)
        latents = (GOLDEN[f"net.{key}"] for key in ("z_coarse", "mask", "z_ref"))
        result = pipe.denoise(*latents, eta=GOLDEN.meta["sampler"]["eta"])
    assert not list(noises)
    return result, predictions


def test_the_first_clean_prediction_is_the_authors(sampled):
    assert relative_error(sampled[1][0], GOLDEN["sample.x0_first"]) < 1e-3


def test_a_sampling_run_ends_as_the_authors(sampled):
    assert relative_error(sampled[0], GOLDEN["sample.result"]) < 1e-3


def test_outputs_are_of_the_wanted_kind():
    assert [image.size for image in run(output_type="pil")] == [(16, 16)] * 2
    assert run(output_type="np").shape == (2, 16, 16, 3)
    assert run(output_type="pt").shape == (2, 3, 16, 16)
    assert run().shape == (2, 4, 8, 8)
    assert torch.equal(FAMILY.pipeline()(**FAMILY.arguments(0), return_dict=False)[0], run())


def test_a_seed_gives_the_same_bits_and_another_seed_others():
    assert torch.equal(run(), run())
    assert not torch.equal(run(), run(generator=torch.Generator().manual_seed(7)))


def test_what_is_given_decides():
    base = run()
    assert not torch.equal(run(references=[picture(5, 16), picture(6, 16)]), base)
    assert not torch.equal(run(edits=[edit(5), edit(6)]), base)
    filled = [picture.copy() for picture in FAMILY.arguments(0)["edits"]]
    for whole in filled:
        whole.putalpha(255)
    assert not torch.equal(run(edits=filled), base)


def test_it_never_starts_from_pure_noise():
    still = run(latents=torch.zeros(2, 4, 8, 8), eta=0.0, num_inference_steps=1)
    other = run(latents=torch.zeros(2, 4, 8, 8), eta=0.0, num_inference_steps=1, edits=[edit(5), edit(6)])
    assert still.isfinite().all() and not torch.equal(still, other)


def test_rows_are_pictures():
    """With no noise but what is given, a picture's result does not depend on its company."""
    pipe = FAMILY.pipeline()
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(2, 1, 8, 8)
    pipe.scheduler.set_timesteps(2)

    def rows(chosen):
        # Two draws of the reference's noise, cut to the rows.
        fresh = iter(torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(2))[:, chosen])
        with pytest.MonkeyPatch.context() as patch, torch.no_grad():
            patch.setattr(pipeline, "randn_tensor", lambda *_, **__: next(fresh))
            parts = (latents[chosen], mask[chosen], latents.flip(1)[chosen])
            return pipe.denoise(*parts, eta=0.0, noise=latents.flip(2)[chosen])

    torch.testing.assert_close(rows([1]), rows([0, 1])[1:])


@pytest.mark.parametrize(
    "make, config",
    [
        (DDPMScheduler, {}),
        (EulerDiscreteScheduler, {}),
        (EulerDiscreteScheduler, {"use_karras_sigmas": True}),
        (DPMSolverMultistepScheduler, {}),
    ],
    ids=["ddpm", "euler", "karras", "dpm"],
)
def test_other_schedulers_sample_too(make, config):
    pipe = with_scheduler(make, **config)
    assert run(pipe).isfinite().all()
    assert torch.equal(run(pipe), run(pipe))


def test_the_reference_is_as_noisy_as_the_state_where_timesteps_repeat():
    pipe = with_scheduler(DPMSolverMultistepScheduler, use_karras_sigmas=True)
    pipe.scheduler.set_timesteps(20)
    assert len(set(pipe.scheduler.timesteps.tolist())) < 20
    sigmas = pipe.scheduler.sigmas[:-1]
    seen = []
    handle = pipe.reference_unet.register_forward_pre_hook(lambda _, args: seen.append(args[0][0, 0, 0, 0]))
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(pipeline, "randn_tensor", lambda shape, **_: torch.zeros(shape))
        pipe.denoise(torch.zeros(1, 4, 8, 8), torch.ones(1, 1, 8, 8), torch.ones(1, 4, 8, 8))
    handle.remove()
    torch.testing.assert_close(torch.stack(seen), 1 / (1 + sigmas**2).sqrt(), atol=0, rtol=1e-4)


def test_variance_exploding_states_are_the_same_states():
    """Euler and DDIM without noise take the same step, in their own conventions."""
    pipes = [with_scheduler(make) for make in (EulerDiscreteScheduler, type(scheduler()))]
    euler, ddim = (run(pipe, eta=0.0, num_inference_steps=8) for pipe in pipes)
    assert (euler - ddim).abs().max() < 0.05 * ddim.abs().max()


def test_saved_and_loaded_it_gives_the_same(tmp_path):
    FAMILY.pipeline().save_pretrained(tmp_path)
    again = MagicFixupPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    torch.testing.assert_close(run(again), run(), atol=1e-4, rtol=1e-4)


def test_what_the_caller_gave_is_not_changed():
    given = {"edits": torch.rand(1, 4, 16, 16), "references": torch.rand(1, 3, 16, 16)}
    copies = {key: value.clone() for key, value in given.items()}
    run(**given)
    assert all(torch.equal(given[key], copies[key]) for key in given)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"references": [picture(0, 16)]}, r"there are 2 edits of 16 x 16 .* and 1 references of 16 x 16; give each"),
        ({"references": [picture(0, 32)] * 2}, r"2 references of 32 x 32"),
        (
            {"edits": [edit(0, 18)], "references": [picture(0, 18)]},
            r"18 x 18 pixels; .* multiples of 4, .*\(512, 512\)",
        ),
        ({"guidance_scale": 7.5}, r"`guidance_scale` is 7.5; .* leave it at 1"),
        (
            {"latents": torch.zeros(2, 4, 16, 16)},
            r"`latents` has shape .*; expected unit noise of shape \(2, 4, 8, 8\)",
        ),
        ({"output_type": "jpeg"}, r"`output_type` is 'jpeg'; expected one of pil, np, pt, latent"),
        ({"num_inference_steps": 500}, r"the first timestep, 999, is pure noise"),
    ],
    ids=["count", "size", "multiple", "guidance", "latents", "output", "terminal"],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        run(**changes)
