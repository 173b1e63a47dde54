"""Networks that say something other than the published one, and what they are shown of the input frames."""

import math

import pytest
import torch

from couple.backends.seva import SevaModel
from couple.backends.seva.denoiser import Conditioning, denoise, predict_x0
from tests.tiny.building import module

SIGMA = 3.0
ALPHA = 1 / math.sqrt(1 + SIGMA**2)


def network(**config):
    return module(SevaModel, model_channels=32, num_frames=3, num_head_channels=32, context_dim=8, **config)


def conditioning():
    generator = torch.Generator().manual_seed(0)
    return Conditioning(
        context=torch.randn(3, 1, 8, generator=generator),
        clean=torch.randn(3, 4, 8, 8, generator=generator) * torch.tensor([1.0, 0, 0])[:, None, None, None],
        inputs=torch.tensor([True, False, False]),
        rays=torch.randn(3, 6, 8, 8, generator=generator),
    )


@pytest.fixture
def state():
    return 4 * torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def heard(model, monkeypatch):
    """What the network is given and what it answers."""
    calls, forward = [], model.forward

    def recorded(*args):
        calls.append((args, forward(*args)))
        return calls[-1][1]

    monkeypatch.setattr(model, "forward", recorded)
    return calls


@pytest.mark.parametrize("clean_inputs", [False, True])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_x0_by_hand(state, monkeypatch, prediction_type, clean_inputs):
    model, known = network(prediction_type=prediction_type, clean_inputs=clean_inputs), conditioning()
    calls = heard(model, monkeypatch)
    x0 = predict_x0(model, state, SIGMA, known)
    ((told, *_), output), noisy = calls[0], torch.cat([known.clean[:1], state[1:]])
    if prediction_type == "epsilon":
        expected = noisy - SIGMA * output
    else:
        # v = alpha eps - sigma x0 of the variance-preserving state alpha x0 + sigma eps, and alpha^2 + sigma^2 = 1
        expected = ALPHA * (ALPHA * noisy) - (SIGMA * ALPHA) * output
    torch.testing.assert_close(x0, expected)
    torch.testing.assert_close(told[1:, :4], ALPHA * state[1:])
    torch.testing.assert_close(told[:1, :4], known.clean[:1] * (1 if clean_inputs else ALPHA))


def test_without_guidance_the_unconditional_branch_is_not_run(state, monkeypatch):
    model, known = network(channel_mult=(1, 2), num_res_blocks=1), conditioning()
    calls = heard(model, monkeypatch)
    plain = denoise(model, state, SIGMA, known, torch.ones(3))
    guided = denoise(model, state, SIGMA, known, torch.tensor([1.0, 1.0, 2.0]))
    assert [len(args[0]) for args, _ in calls] == [3, 6]
    torch.testing.assert_close(plain[:2], guided[:2])
    assert not torch.allclose(plain[2], guided[2])


def test_a_shallower_network_needs_smaller_multiples():
    assert network().downscale == 8
    assert network(channel_mult=(1, 2), num_res_blocks=1).downscale == 2


def test_an_unknown_prediction_is_refused():
    with pytest.raises(ValueError, match="prediction_type='sample' is unknown; use 'epsilon' or 'v_prediction'"):
        SevaModel(prediction_type="sample")
