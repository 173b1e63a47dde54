"""Layers that networks in the layout of the latent-diffusion code share, under the names of their checkpoints."""

import torch.nn.functional as F
from torch import Tensor, nn


class Downsample(nn.Module):
    """Halve height and width by a convolution."""

    def __init__(self, channels: int) -> None:
        """Make the convolution."""
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (rows, channels, h, w) to (rows, channels, h/2, w/2)."""
        return self.op(x)


class Upsample(nn.Module):
    """Double height and width, and convolve."""

    def __init__(self, channels: int) -> None:
        """Make the convolution."""
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (rows, channels, h, w) to (rows, channels, 2h, 2w)."""
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
