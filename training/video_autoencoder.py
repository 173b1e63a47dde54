"""The bundled video model's autoencoder: an encoder that is exactly linear, and a decoder that is trained.

It compresses as Wan's does: 8 x 8 pixels and, after a first frame of its own, four frames become one latent. A block of
pixels is projected on its principal directions, partially whitened. The map is known before any training, so the
diffusion model can be trained on it at once (`encode`).
"""

import math
from functools import cache
from itertools import product

import torch
from decoders import fit_decoder
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify
from sprites import random_clips, render
from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS = 48
SPACE, TIME, PATCH = 8, 4, 2
INNER = 21
"""Directions kept of a 4 x 4 patch of one frame."""
PAIRED = 60
"""Directions kept of an 8 x 8 patch of two frames."""


def _principal(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Principal directions (count, D) and variances (count,) of rows (N, D) about zero, float64."""
    values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    values, vectors = values.flip(0)[:count], vectors.flip(1)[:, :count]
    return (vectors * vectors.sum(0).sign()).T, values


def _unshuffle(frames: Tensor, factor: int) -> Tensor:
    """Frames (B, C, T, H, W) to (B, C factor^2, T, H / factor, W / factor), row before column."""
    b, c, t, h, w = frames.shape
    frames = F.pixel_unshuffle(frames.transpose(1, 2).reshape(b * t, c, h, w), factor)
    return frames.reshape(b, t, -1, h // factor, w // factor).transpose(1, 2)


def _pairs(frames: Tensor) -> Tensor:
    """Frames (B, C, T, H, W) to (B, 2 C, T / 2, H, W): the channels of both frames of a pair."""
    return torch.cat([frames[:, :, 0::2], frames[:, :, 1::2]], 1)


def _project(frames: Tensor, weight: Tensor) -> Tensor:
    return torch.einsum("dc,bcthw->bdthw", weight.to(frames.dtype), frames)


def _rows(frames: Tensor) -> Tensor:
    return frames.movedim(1, -1).reshape(-1, frames.shape[1])


@cache
def projections() -> dict[str, Tensor]:
    """The linear maps of the encoder, float32.

    `inner` (INNER, 48) reads a 4 x 4 patch; `first` (C, 4 INNER) an 8 x 8 patch of the first frame; `pair`
    (PAIRED, 8 INNER) an 8 x 8 patch of two frames; `rest` (C, 2 PAIRED) one of four. Latents have a mean standard
    deviation of one, and channel i one that is proportional to the square root of its principal direction's: half-way
    between keeping distances between videos and drowning the fine channels in noise. `first_mean` and `rest_mean` (C,)
    are taken off at the end.
    """
    videos = render(random_clips(800, torch.Generator().manual_seed(1))).double()
    patches = _unshuffle(videos, 4)
    maps = {"inner": _principal(_rows(patches), INNER)[0]}
    patches = _unshuffle(_project(patches, maps["inner"]), 2)
    start, later = patches[:, :, :1], _pairs(patches[:, :, 1:])
    maps["pair"] = _principal(_rows(later), PAIRED)[0]
    later = _pairs(_project(later, maps["pair"]))
    for name, frames in (("first", start), ("rest", later)):
        rows = _rows(frames)
        directions, values = _principal(rows - rows.mean(0), CHANNELS)
        scale = values**-0.25 / (values**0.25).mean()
        maps[name] = directions * scale[:, None]
        maps[name + "_mean"] = maps[name] @ rows.mean(0)
    return {name: value.float() for name, value in maps.items()}


def encode(videos: Tensor) -> Tensor:
    """Latents (B, C, 1 + (T - 1) / 4, H / 8, W / 8) of videos (B, 3, T, H, W): what the saved encoder computes."""
    maps = projections()
    patches = _unshuffle(_project(_unshuffle(videos, 4), maps["inner"]), 2)
    start = _project(patches[:, :, :1], maps["first"]) - maps["first_mean"][:, None, None, None]
    later = _pairs(_project(_pairs(patches[:, :, 1:]), maps["pair"]))
    later = _project(later, maps["rest"]) - maps["rest_mean"][:, None, None, None]
    return torch.cat([start, later], 2)


def _set(module: nn.Module, weight: Tensor, tap: tuple[int, ...], row: int = 0, column: int = 0) -> None:
    """Write a matrix into a convolution's weight at one tap, from an output row and an input column on."""
    rows, columns = weight.shape
    module.weight[(slice(row, row + rows), slice(column, column + columns), *tap)] = weight


def build() -> AutoencoderKLWan:
    """An `AutoencoderKLWan` whose encoder computes `encode` to rounding error; its decoder is untrained.

    Stride-2 convolutions gather and project, the time convolutions join pairs of frames, and residual blocks with a
    zero last convolution are identities. The first frame skips every time convolution, so it travels in channels of its
    own. The last normalisation and activation are made linear: a channel with a huge constant fixes the norm, and an
    offset keeps SiLU where it is the identity.
    """
    width, constant, lift = 64, 1e6, 48.0
    vae = AutoencoderKLWan(
        base_dim=width,
        decoder_base_dim=48,
        z_dim=CHANNELS,
        dim_mult=[1, 1, 1],
        num_res_blocks=0,
        temperal_downsample=[True, True],
        latents_mean=[0.0] * CHANNELS,
        latents_std=[1.0] * CHANNELS,
        in_channels=3 * PATCH**2,
        out_channels=3 * PATCH**2,
        patch_size=PATCH,
        scale_factor_temporal=TIME,
        scale_factor_spatial=SPACE,
    )
    maps, encoder = projections(), vae.encoder
    with torch.no_grad():
        for parameter in (*encoder.parameters(), *vae.quant_conv.parameters(), *vae.post_quant_conv.parameters()):
            parameter.zero_()
        present = (2, 1, 1)
        _set(encoder.conv_in, torch.eye(3 * PATCH**2), present)
        inner, outer = encoder.down_blocks
        # Wan's patches count columns before rows: channel 4 c + 2 column + row.
        patch = maps["inner"].reshape(INNER, 3, 2, PATCH, 2, PATCH)
        for i, j in product(range(2), range(2)):
            _set(inner.resample[1], patch[:, :, i, :, j, :].transpose(2, 3).reshape(INNER, -1), (i, j))
            _set(outer.resample[1], maps["first"][:, 2 * i + j :: 4], (i, j))
            _set(outer.resample[1], maps["pair"][:, 2 * i + j :: 4], (i, j), column=INNER)
        for k in range(2):
            _set(inner.time_conv, torch.eye(INNER), (k + 1, 0, 0), row=(k + 1) * INNER)
            _set(outer.time_conv, maps["rest"][:, k * PAIRED : (k + 1) * PAIRED], (k + 1, 0, 0))
        outer.time_conv.bias[:CHANNELS] = maps["first_mean"] - maps["rest_mean"]
        held = encoder.mid_block.resnets[0].conv2.bias
        held[:CHANNELS], held[-1] = lift, constant
        encoder.norm_out.gamma.fill_(constant / width**0.5)
        _set(encoder.conv_out, torch.eye(CHANNELS), present)
        encoder.conv_out.bias[:CHANNELS] = -lift - maps["first_mean"]
        encoder.conv_out.bias[CHANNELS:] = -30.0
        _set(vae.quant_conv, torch.eye(2 * CHANNELS), (0, 0, 0))
        _set(vae.post_quant_conv, torch.eye(CHANNELS), (0, 0, 0))
    return vae


def _decode(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """`vae.decode` without the clamp at its end, through which no gradient would flow."""
    vae.clear_cache()
    frames = []
    for latent in latents.split(1, dim=2):
        vae._conv_idx = [0]
        frames.append(vae.decoder(latent, feat_cache=vae._feat_map, feat_idx=vae._conv_idx, first_chunk=not frames))
    vae.clear_cache()
    return unpatchify(torch.cat(frames, 2), PATCH)


def train_decoder(vae: AutoencoderKLWan, seed: int, steps: int) -> float:
    """Train the decoder on renders, in place; returns its PSNR in dB on 64 clips it has not seen.

    The latents are disturbed a little, because those of the diffusion model will not be exact either.
    """
    torch.manual_seed(seed)

    def loss_at(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        videos = render(random_clips(8, generator))
        latents = encode(videos)
        noise = torch.randn(latents.shape, generator=generator)
        latents = latents + 0.1 * torch.rand(8, 1, 1, 1, 1, generator=generator) * noise
        difference = _decode(vae, latents) - videos
        return difference.square().mean() + 0.05 * difference.abs().mean()

    fit_decoder(vae.decoder, vae.decoder.conv_out, loss_at, steps)
    videos = render(random_clips(64, torch.Generator().manual_seed(2)))
    with torch.no_grad():
        error = (vae.decode(encode(videos)).sample - videos).square().mean().item() / 4
    return -10 * math.log10(error)
