"""How the decoders of the bundled autoencoders are trained: Muon for their inner convolutions, AdamW for the rest.

With AdamW alone the decoders of patches stay below the best linear one for hundreds of steps.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

RATES = {"muon": 0.02, "adamw": 0.003}


class _Matrix(nn.Module):
    """A convolution's weight kept as a matrix, one row an output channel, which is what Muon can train."""

    def __init__(self, shape: torch.Size):
        super().__init__()
        self.shape = shape

    def forward(self, matrix: Tensor) -> Tensor:
        return matrix.view(self.shape)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight.flatten(1)


def fit_decoder(decoder: nn.Module, last: nn.Module, loss_at: Callable[[int], Tensor], steps: int) -> None:
    """Train a decoder in place, from the start.

    Args:
        decoder: left in evaluation mode.
        last: its last convolution, which is no inner one.
        loss_at: the loss of a step, given its number.
        steps: in all.
    """
    decoder.train()
    for module in decoder.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    inner = [m for m in decoder.modules() if isinstance(m, nn.Conv2d | nn.Conv3d) and m is not last]
    for module in inner:
        parametrize.register_parametrization(module, "weight", _Matrix(module.weight.shape))
    matrices = [module.parametrizations.weight.original for module in inner]
    rest = [p for p in decoder.parameters() if not any(p is matrix for matrix in matrices)]
    optimizers = [
        torch.optim.Muon(matrices, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, betas=(0.9, 0.99), weight_decay=0.0),
    ]
    for step in range(steps):
        loss = loss_at(step)
        loss.backward()
        for rate, optimizer in zip(RATES.values(), optimizers, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, (step + 1) / 20, (steps - step) / (0.6 * steps))
            optimizer.step()
            optimizer.zero_grad()
        if (step + 1) % 50 == 0:
            print(f"decoder step {step + 1}: loss {loss.item():.5f}", flush=True)
    for module in inner:
        parametrize.remove_parametrizations(module, "weight")
    decoder.eval()
