"""What a picture shows, as vectors: DINO's, for whole pictures and for patches, and FeatUp's, for every pixel.

VBench compares whole frames by DINO ViT-B/16. MEt3R compares pixels by DINO ViT-S/16, enlarged sixteenfold by FeatUp's
stack of learned joint bilateral upsamplers, in which the picture itself says where borders run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from couple.backends.checkpoint import load_strictly, read_checkpoint
from couple.metrics.pretrained import from_hub, from_url

#: Mean and standard deviation of ImageNet's channels.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FEATUP = (
    "https://marhamilresearch4.blob.core.windows.net/feature-upsampling-public/pretrained/"
    "dino16_jbu_stack_cocostuff.ckpt"
)


class Dino:
    """Features of DINO (Caron et al. 2021), a vision transformer.

    At sizes other than 224 x 224 transformers interpolates positions a little differently from the original code: at
    256 x 256 they are off by less than a tenth of a patch.

    Args:
        model: a `transformers.ViTModel` in evaluation mode.
    """

    def __init__(self, model: Any):
        self.model = model

    @classmethod
    def load(cls, repo: str = "facebook/dino-vitb16") -> Dino:
        """Load published weights: "facebook/dino-vitb16" (VBench's) or "facebook/dino-vits16" (FeatUp's).

        Raises:
            FileNotFoundError: they are not on this machine and cannot be fetched.
        """
        from transformers import ViTModel

        return cls(from_hub(ViTModel, repo, licence="Apache-2.0").eval())

    def summary(self, pictures: Tensor) -> Tensor:
        """One vector for each picture, shape (N, C): the class token, as VBench has it.

        Args:
            pictures: shape (N, 3, H, W), floating, in [0, 1]; resized so that the shorter side is 224.
        """
        height, width = pictures.shape[2:]
        short = min(height, width)
        size = [224 * height // short, 224 * width // short]
        return self._tokens(F.interpolate(pictures, size, mode="bilinear"))[:, 0]

    def patches(self, pictures: Tensor) -> Tensor:
        """One vector for each patch of 16 x 16 pixels, shape (N, C, H / 16, W / 16).

        Args:
            pictures: shape (N, 3, H, W), floating, in [0, 1].

        Raises:
            ValueError: a side is not a multiple of a patch's.
        """
        size, patch = pictures.shape[2:], self.model.config.patch_size
        if size[0] % patch or size[1] % patch:
            raise ValueError(
                f"pictures of {size[0]} x {size[1]} pixels are not made of patches of {patch}; resize them."
            )
        return self._tokens(pictures)[:, 1:].mT.unflatten(2, (size[0] // patch, size[1] // patch))

    @torch.no_grad()
    def _tokens(self, pictures: Tensor) -> Tensor:
        mean, std = (pictures.new_tensor(values)[:, None, None] for values in (MEAN, STD))
        return self.model((pictures - mean) / std, interpolate_pos_encoding=True).last_hidden_state


class FeatUp(nn.Module):
    """Features for every pixel: DINO ViT-S/16, normalised, enlarged by FeatUp (Fu et al. 2024).

    After mhamilton723/FeatUp @ 6b5a6c0e, as MEt3R uses it: the picture that guides is in [0, 1], not normalised.
    `FeatUp.load()` has the published weights.

    Args:
        dino: of C features.
        dim: C.
    """

    def __init__(self, dino: Dino, dim: int = 384):
        super().__init__()
        self.dino = dino
        self.norm = nn.LayerNorm(dim)
        self.upsampler = UpsamplerStack(dim)

    @classmethod
    def load(cls, path: str | Path | None = None) -> FeatUp:
        """Load published weights, in evaluation mode.

        Args:
            path: FeatUp's dino16_jbu_stack_cocostuff.ckpt, fetched if left out. It is opened with `weights_only`.

        Raises:
            FileNotFoundError: the file, or DINO, is not on this machine and cannot be fetched.
            ValueError: the file does not hold what is expected.
        """
        path = from_url(FEATUP, licence="MIT") if path is None else path
        featup = cls(Dino.load("facebook/dino-vits16"))
        load_strictly(featup.norm, read_checkpoint(path, prefix="model.1.norm."), source=path)
        load_strictly(featup.upsampler, read_checkpoint(path, prefix="upsampler."), source=path)
        return featup.eval()

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Tensor:
        """One vector for each pixel, shape (N, C, H, W); pictures as in `Dino.patches`."""
        return torch.cat([self._enlarged(picture) for picture in pictures.split(1)])

    def _enlarged(self, picture: Tensor) -> Tensor:
        patches = self.dino.patches(picture)
        return self.upsampler(self.norm(patches.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), picture)


class UpsamplerStack(nn.Module):
    """Four joint bilateral upsamplers, each to twice the size, and a 1 x 1 convolution for what they smear."""

    def __init__(self, dim: int):
        super().__init__()
        self.up1, self.up2, self.up3, self.up4 = (JointBilateralUpsampler() for _ in range(4))
        self.fixup_proj = nn.Sequential(nn.Dropout2d(0.2), nn.Conv2d(dim, dim, 1))

    def forward(self, features: Tensor, picture: Tensor) -> Tensor:
        """Enlarge features (N, C, h, w), at least 2 x 2, to (N, C, 16 h, 16 w), guided by a picture (N, 3, H, W)."""
        for up in (self.up1, self.up2, self.up3, self.up4):
            size = [2 * side for side in features.shape[2:]]
            features = up(features, F.adaptive_avg_pool2d(picture, size))
        return features + 0.1 * self.fixup_proj(features)


class JointBilateralUpsampler(nn.Module):
    """A weighted mean of the 7 x 7 pixels around each, with weights that fall with distance and with unlikeness.

    Unlikeness is that of a learned projection of the picture; a small network corrects the weights, whose sum may then
    differ from 1.
    """

    def __init__(self, radius: int = 3, keys: int = 32):
        super().__init__()
        self.radius, self.window = radius, 2 * radius + 1
        area = self.window**2
        self.range_temp = nn.Parameter(torch.tensor(0.0))
        self.sigma_spatial = nn.Parameter(torch.tensor(1.0))
        self.range_proj = nn.Sequential(nn.Conv2d(3, keys, 1), nn.GELU(), nn.Dropout2d(0.1), nn.Conv2d(keys, keys, 1))
        self.fixup_proj = nn.Sequential(
            nn.Conv2d(3 + area, area, 1), nn.GELU(), nn.Dropout2d(0.1), nn.Conv2d(area, area, 1)
        )

    def forward(self, features: Tensor, picture: Tensor) -> Tensor:
        """Enlarge features (N, C, h, w) to the size of the picture (N, 3, H, W), at least 4 x 4: (N, C, H, W)."""
        weights = self._weights(picture).split(1, dim=1)
        around = self._around(F.interpolate(features, picture.shape[2:], mode="bicubic"))
        result = features.new_zeros(*features.shape[:2], *picture.shape[2:])
        for weight, shifted in zip(weights, around, strict=True):
            result += weight * shifted
        return result

    def _weights(self, picture: Tensor) -> Tensor:
        """Weights of the pixels around each, row by row, shape (N, window^2, H, W)."""
        keys = self.range_proj(picture)
        likeness = torch.stack([(keys * shifted).sum(1) for shifted in self._around(keys)], 1)
        line = torch.linspace(-1, 1, self.window, device=picture.device).square()
        near = torch.exp(-(line[:, None] + line).flatten() / (2 * self.sigma_spatial**2))
        weights = (likeness * self.range_temp.exp().clamp(1e-4, 1e4)).softmax(1) * near[:, None, None]
        weights = weights / weights.sum(1, keepdim=True).clamp_min(1e-7)
        return weights + 0.1 * self.fixup_proj(torch.cat([weights, picture], 1))

    def _around(self, x: Tensor) -> Iterator[Tensor]:
        """`x` shifted by every step of the window, row by row, mirrored beyond its border."""
        height, width = x.shape[2:]
        x = F.pad(x, [self.radius] * 4, mode="reflect")
        for top in range(self.window):
            for left in range(self.window):
                yield x[:, :, top : top + height, left : left + width]
