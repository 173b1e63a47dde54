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

    def withheld(self) -> Conditioning:
        """What the unconditional branch knows: no token, no known frame and no mask, but the rays."""
        return Conditioning(
            torch.zeros_like(self.context), torch.zeros_like(self.clean), torch.zeros_like(self.inputs), self.rays
        )


def denoise(network: SevaModel, x: Tensor, sigma: float, conditioning: Conditioning, scales: Tensor) -> Tensor:
    """Predict the clean latents of the frames of a window, guidance applied.

    Args:
        network: called once, with the unconditional frames before the conditional ones; with the conditional ones
            alone where all scales are 1.
        x: x0 + sigma eps, shape (T, 4, h, w), float32.
        sigma: its noise level; all frames share it. The network is told the nearest level that it knows, while the
            state is taken at `sigma` itself (the official code moves both to the nearest).
        conditioning: of these frames.
        scales: guidance scale of each frame, shape (T,).

    Returns:
        Clean latents, of the shape and type of `x`.
    """
    if bool((scales == 1).all()):
        return predict_x0(network, x, sigma, conditioning)
    uncond, cond = predict_x0(network, x, sigma, conditioning.withheld(), conditioning).chunk(2)
    return guided(uncond, cond, scales)


def predict_x0(network: SevaModel, x: Tensor, sigma: float, *branches: Conditioning) -> Tensor:
    """Clean predictions under each of some conditionings, one after the other, shape (branches * T, 4, h, w)."""
    rays, context, clean = (torch.cat([getattr(b, n) for b in branches]) for n in ("rays", "context", "clean"))
    inputs = torch.cat([branch.inputs for branch in branches]).view(-1, 1, 1, 1)
    states = torch.where(inputs, clean, torch.cat([x] * len(branches)))
    alpha = 1 / math.sqrt(sigma * sigma + 1)
    scaled = states * alpha
    seen = torch.where(inputs, clean, scaled) if network.config["clean_inputs"] else scaled

    dtype = network.dtype
    mask = inputs.to(x).expand(-1, 1, *x.shape[2:])
    index = torch.full((len(states),), nearest_index(sigma), device=x.device)
    told = torch.cat([seen, mask, rays], dim=1).to(dtype)
    output = network(told, index, context.to(dtype), rays.to(dtype)).to(x.dtype)
    if network.config["prediction_type"] == "v_prediction":
        return alpha * scaled - sigma * alpha * output
    return states - sigma * output
