"""What the encoders are given and what is made of their answers."""

import pytest
import torch

from couple.backends.seva.images import decode, encode, token
from tests.tiny import seva as tiny
from tests.tiny.stable_diffusion import autoencoder

MEAN, STD = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])


@pytest.fixture
def seen():
    """What the CLIP encoder was given."""
    pictures = []
    handle = tiny.eyes().register_forward_pre_hook(lambda _, args: pictures.extend(args))
    yield pictures
    handle.remove()


def pixels(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_latents_are_the_scaled_mean_of_the_posterior():
    vae, given = autoencoder(), pixels(2, 3, 16, 16)
    with torch.no_grad():
        expected = vae.encode(given).latent_dist.mean * 0.18215
        torch.testing.assert_close(encode(vae, given), expected)
        torch.testing.assert_close(decode(vae, expected), vae.decode(expected / 0.18215).sample)


def test_the_token_is_the_mean_over_pictures():
    given = pixels(2, 3, 16, 16)
    one, other = (token(tiny.eyes(), picture[None]) for picture in given)
    assert one.shape == (1, 1, 16)
    assert not torch.allclose(one, other)
    torch.testing.assert_close(token(tiny.eyes(), given), (one + other) / 2)


def test_clip_sees_normalised_pictures_whose_corners_stay_corners(seen):
    small = pixels(1, 3, 7, 9)
    token(tiny.eyes(), small)
    (given,) = seen
    assert given.shape == (1, 3, 16, 16)
    ends = ([0, 0, -1, -1], [0, -1, 0, -1])
    shown = given[0][:, *ends] * STD[:, None] + MEAN[:, None]
    torch.testing.assert_close(shown, (small[0][:, *ends] + 1) / 2)


def test_large_pictures_are_blurred_before_they_shrink(seen):
    board = torch.tensor([1.0, -1.0]).repeat(48)
    token(tiny.eyes(), (board[:, None] * board).expand(1, 3, 96, 96))
    shown = seen[0][0] * STD[:, None, None] + MEAN[:, None, None]
    assert (shown - 0.5).abs().max() < 0.02
