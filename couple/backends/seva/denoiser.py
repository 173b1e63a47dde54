"""One call of the network: what the frames of a window are told, and the guided clean prediction for them.

The state comes in as x0 + sigma eps, whatever the scheduler's own convention is. Input frames are known, so their
state is replaced by the clean latent before every forward; the network then says what noise it sees in that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from couple.backends.seva.guidance import guided
from couple.backends.seva.model import SevaModel
from couple.backends.seva.schedule import nearest_index


@dataclass(frozen=True, eq=False)
class Conditioning:
    """What is known of T frames.

    Attributes:
        context: image token, shape (T, 1, context channels).
        clean: clean latents of the input frames, zeros elsewhere, shape (T, 4, h, w).
        inputs: True for the input frames, shape (T,), bool.
        rays: Pluecker map, shape (T, 6, h, w).
    """

    context: Tensor
    clean: Tensor
    inputs: Tensor
    rays: Tensor

    def at(self, slots: Tensor) -> Conditioning:
        """Choose frames, in the order of the indices `slots`; a frame may be repeated."""
        return Conditioning(self.context[slots], self.clean[slots], self.inputs[slots], self.rays[slots])


def denoise(network: SevaModel, x: Tensor, sigma: float, conditioning: Conditioning, scales: Tensor) -> Tensor:
    """Predict the clean latents of the frames of a window, guidance applied.

    Args:
        network: called once, with the unconditional frames before the conditional ones.
        x: x0 + sigma eps, shape (T, 4, h, w), float32.
        sigma: its noise level; all frames share it. The network is told the nearest level that it knows, while the
            state is taken at `sigma` itself (the official code moves both to the nearest).
        conditioning: of these frames.
        scales: guidance scale of each frame, shape (T,).

    Returns:
        Clean latents, of the shape and type of `x`.
    """
    uncond, cond = branches(network, x, sigma, conditioning).chunk(2)
    return guided(uncond, cond, scales)


def branches(network: SevaModel, x: Tensor, sigma: float, conditioning: Conditioning) -> Tensor:
    """Clean predictions without and with the input frames, one after the other, shape (2T, 4, h, w).

    The unconditional branch has no token, no known frame and no mask, but it keeps the rays.
    """
    rays, inputs = conditioning.rays, conditioning.inputs.view(-1, 1, 1, 1)
    mask = inputs.to(x).expand(-1, 1, *x.shape[2:])
    states = torch.cat([x, torch.where(inputs, conditioning.clean, x)])
    masks = torch.cat([torch.zeros_like(mask), mask])
    dense = torch.cat([rays, rays])
    token = torch.cat([torch.zeros_like(conditioning.context), conditioning.context])

    dtype = network.dtype
    scaled = torch.cat([states / math.sqrt(sigma * sigma + 1), masks, dense], dim=1)
    index = torch.full((len(states),), nearest_index(sigma), device=x.device)
    noise = network(scaled.to(dtype), index, token.to(dtype), dense.to(dtype))
    return states - sigma * noise.to(x.dtype)
