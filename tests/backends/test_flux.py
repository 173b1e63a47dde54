"""Flux latents lie as diffusers lays them."""

import pytest
import torch
from diffusers import FluxPipeline

from couple.backends.flux import pack, unpack


def test_tokens_and_pictures_are_laid_out_as_in_diffusers():
    latents = torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    tokens = pack(latents)
    assert torch.equal(tokens, FluxPipeline._pack_latents(latents, 2, 4, 6, 8))
    assert torch.equal(unpack(tokens, 6, 8), latents)
    assert torch.equal(unpack(tokens, 6, 8), FluxPipeline._unpack_latents(tokens, 48, 64, 8))


def test_tokens_that_do_not_fill_the_picture_are_refused():
    with pytest.raises(ValueError, match="12 tokens of 16 channels do not make a 48 x 64 latent picture"):
        unpack(torch.zeros(2, 12, 16), 48, 64)
