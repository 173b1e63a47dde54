"""A bare denoiser becomes a pipeline with any scheduler and prediction type."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

from couple import DenoiserPipeline, ExactDenoiser

PICTURES = torch.tensor([[-1.0, 0.5], [1.0, -0.5]])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("cls", [DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler])
def test_every_sample_is_one_of_the_pictures_whatever_is_predicted(cls, prediction):
    options = {} if cls is EulerDiscreteScheduler else {"clip_sample": False}
    scheduler = cls(prediction_type=prediction, **options)
    pipe = DenoiserPipeline(ExactDenoiser.pictures(PICTURES), scheduler)
    samples = pipe((16, 2), num_inference_steps=20, generator=seeded())
    distance = torch.cdist(samples, PICTURES)
    assert (distance.min(1).values < 0.1).all()
    assert distance.argmin(1).unique().numel() == 2


def test_flow_models_start_from_pure_noise():
    pipe = DenoiserPipeline(ExactDenoiser.pictures(PICTURES), FlowMatchEulerDiscreteScheduler())
    samples = pipe((16, 2), num_inference_steps=20, generator=seeded())
    assert (torch.cdist(samples, PICTURES).min(1).values < 1e-4).all()


def test_a_network_sees_the_scaled_sample_and_the_timestep():
    seen = []

    class Output:
        def __init__(self, sample):
            self.sample = sample

    def network(sample, timestep):
        seen.append((sample.std().item(), float(timestep)))
        return Output(torch.zeros_like(sample))

    pipe = DenoiserPipeline(network, EulerDiscreteScheduler())
    pipe((1, 1000), num_inference_steps=3, generator=seeded())
    assert [timestep for _, timestep in seen] == [float(t) for t in pipe.scheduler.timesteps]
    assert seen[0][0] == pytest.approx(1, abs=0.1)


def test_latents_are_the_noise_and_are_left_alone():
    pipe = DenoiserPipeline(ExactDenoiser.gaussian(torch.zeros(2), 1.0), FlowMatchEulerDiscreteScheduler())
    noise = torch.randn(3, 2, generator=seeded())
    kept = noise.clone()
    expected = pipe((3, 2), num_inference_steps=5, generator=seeded())
    assert torch.equal(pipe(latents=noise, num_inference_steps=5), expected)
    assert torch.equal(noise, kept)


def test_the_schedule_may_be_given_in_full():
    pipe = DenoiserPipeline(ExactDenoiser.gaussian(torch.zeros(2), 1.0), FlowMatchEulerDiscreteScheduler())
    pipe((1, 2), schedule={"sigmas": [1.0, 0.5, 0.25]})
    assert pipe.scheduler.sigmas.tolist() == [1.0, 0.5, 0.25, 0.0]


def test_stochastic_schedulers_draw_from_the_generator_alone():
    pipe = DenoiserPipeline(ExactDenoiser.gaussian(torch.zeros(2), 1.0), DDPMScheduler(clip_sample=False))
    first, second, other = (pipe((1, 2), num_inference_steps=5, generator=seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_a_class_of_scheduler_and_a_missing_shape_are_refused():
    with pytest.raises(TypeError, match=r"`scheduler` is the class DDIMScheduler.*Did you mean DDIMScheduler\(\)\?"):
        DenoiserPipeline(print, DDIMScheduler)
    with pytest.raises(TypeError, match=r"got a DDIMScheduler. Did you mean DenoiserPipeline\(network, scheduler\)"):
        DenoiserPipeline(DDIMScheduler(), print)
    with pytest.raises(TypeError, match="`model` must be a network.*got the class Linear"):
        DenoiserPipeline(torch.nn.Linear, DDIMScheduler())
    with pytest.raises(TypeError, match="`scheduler` must be a diffusers scheduler.*got a Linear"):
        DenoiserPipeline(print, torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="give `shape`"):
        DenoiserPipeline(print, DDIMScheduler())()


@pytest.mark.parametrize(
    ("network", "error", "message"),
    [
        (lambda x, t: x[:, :1], ValueError, r"the network returned shape \(2, 1\) for a state of \(2, 2\)"),
        (lambda x, t: torch.cat([x, x], 1), ValueError, r"the network returned shape \(2, 4\)"),
        (lambda x, t: x.sum(), ValueError, r"the network returned shape \(\)"),
        (lambda x, t: (x,), TypeError, r"the network returned a tuple.*network\(sample, timestep\)\[0\]"),
        (lambda x, t: None, TypeError, "the network returned a NoneType"),
    ],
)
def test_an_output_that_does_not_fit_the_state_is_refused(network, error, message):
    with pytest.raises(error, match=message):
        DenoiserPipeline(network, DDIMScheduler())((2, 2), num_inference_steps=2)


def test_a_network_may_predict_its_variance_too():
    pipe = DenoiserPipeline(lambda x, t: torch.cat([x, x], 1), DDPMScheduler(variance_type="learned_range"))
    assert pipe((1, 2, 4, 4), num_inference_steps=2, generator=seeded()).shape == (1, 2, 4, 4)
