"""The autoencoder of a bundled model: an encoder that is exactly linear, and a decoder that is trained.

Each 4 x 4 patch of a picture (48 numbers) is projected on its principal directions, partially whitened. The map is
known before any training, so a diffusion model can be trained on it at once (`Patches.encode`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from decoders import fit_decoder
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

PATCH = 4


@dataclass(frozen=True)
class Patches:
    """The linear map of the patches of a world's pictures to latents.

    Attributes:
        draw: makes pictures, `draw(count, generator)`, shape (count, 3, H, W), in [-1, 1].
        channels: how many principal directions are kept.
        samples: how many pictures they are measured on.
    """

    draw: Callable[[int, torch.Generator], Tensor]
    channels: int
    samples: int = 1000

    @cached_property
    def projection(self) -> tuple[Tensor, Tensor]:
        """Weight (channels, 48) and bias (channels,), float32; latents have unit variance.

        Channel i has standard deviation proportional to the square root of its principal direction's: half-way between
        keeping distances between pictures and drowning the fine channels in noise.
        """
        pictures = self.draw(self.samples, torch.Generator().manual_seed(1))
        patches = F.pixel_unshuffle(pictures, PATCH).permute(0, 2, 3, 1).reshape(-1, 3 * PATCH**2).double()
        mean = patches.mean(0)
        values, vectors = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
        values, vectors = values.flip(0)[: self.channels], vectors.flip(1)[:, : self.channels]
        vectors = vectors * vectors.sum(0).sign()
        scale = values**-0.25 / (values**0.5).mean() ** 0.5
        weight = (vectors * scale).T
        return weight.float(), -(weight @ mean).float()

    def encode(self, pictures: Tensor) -> Tensor:
        """Latents (B, channels, H / 4, W / 4) of pictures (B, 3, H, W) in [-1, 1]: what the saved encoder computes."""
        weight, bias = self.projection
        return F.conv2d(F.pixel_unshuffle(pictures, PATCH), weight[:, :, None, None], bias)


def build(patches: Patches, size: int) -> AutoencoderKL:
    """An `AutoencoderKL` whose encoder computes `patches.encode` to rounding error; its decoder is untrained.

    `size` is the side of its pictures, for the record.

    Stride-2 convolutions gather the patch, residual blocks with a zero last convolution are identities, and the last
    normalisation and activation are made linear: in each group four channels hold large constants of both signs, which
    fix the group's variance (constant^2 / 4) and show its mean; an offset keeps SiLU where it is the identity.
    """
    groups, held, constant, lift = 4, 12, 256.0, 24.0
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 48, 64),
        layers_per_block=1,
        norm_num_groups=groups,
        latent_channels=patches.channels,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.0,
        shift_factor=0.0,
        sample_size=size,
    )
    encoder = vae.encoder
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.zero_()
        copied = torch.arange(16)
        encoder.conv_in.weight[copied[:3], copied[:3], 1, 1] = 1
        for block in encoder.down_blocks:
            for resnet in block.resnets:
                if resnet.conv_shortcut is not None:
                    kept = torch.arange(resnet.in_channels)
                    resnet.conv_shortcut.weight[kept, kept, 0, 0] = 1
        # Channel c at tap (i, j) of a halving goes to 4 c + 2 i + j.
        for block, channels in zip(encoder.down_blocks[:2], (3, 12), strict=True):
            for c in range(channels):
                for i in range(2):
                    for j in range(2):
                        block.downsamplers[0].conv.weight[4 * c + 2 * i + j, c, i, j] = 1
        # The last block's shortcut spreads 48 channels over four groups of twelve and adds +-constants to each.
        places = torch.arange(48) + 4 * (torch.arange(48) // held)
        shortcut = encoder.down_blocks[2].resnets[0].conv_shortcut
        shortcut.weight.zero_()
        shortcut.weight[places, torch.arange(48), 0, 0] = 1
        signs = torch.tensor([1.0, -1.0, 1.0, -1.0])
        weight, bias = patches.projection
        # Channel 16 c + 8 i + 4 j + 2 p + q is pixel (2 p + i, 2 q + j) of the patch.
        bits = torch.cartesian_prod(torch.arange(3), *[torch.arange(2)] * 4)
        order = bits @ torch.tensor([16, 4, 1, 8, 2])
        encoder.conv_norm_out.weight.fill_(constant / 2)
        encoder.conv_norm_out.bias.fill_(lift)
        encoder.conv_out.weight[: patches.channels, places, 1, 1] = weight[:, order]
        encoder.conv_out.bias[: patches.channels] = bias
        encoder.conv_out.bias[patches.channels :] = -30.0
        for group in range(groups):
            constants = slice(16 * group + held, 16 * group + held + 4)
            data = order[held * group : held * (group + 1)]
            shortcut.bias[constants] = signs * constant
            # After the offset the constants show minus the group's mean (plus `lift`); taking them off undoes both.
            encoder.conv_norm_out.bias[constants] = lift - signs * constant
            encoder.conv_out.weight[: patches.channels, constants, 1, 1] = -weight[:, data].sum(1, keepdim=True) / 4
    return vae


def train_decoder(vae: AutoencoderKL, patches: Patches, seed: int, steps: int) -> float:
    """Train the decoder on renders, in place; returns its PSNR in dB on 256 pictures it has not seen.

    The latents are disturbed a little, because those of the diffusion model will not be exact either.
    """
    torch.manual_seed(seed)
    decoder = vae.decoder.to(memory_format=torch.channels_last)

    def loss_at(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        pictures = patches.draw(24, generator)
        latents = patches.encode(pictures)
        noise = torch.randn(latents.shape, generator=generator)
        latents = latents + 0.05 * torch.rand(24, 1, 1, 1, generator=generator) * noise
        difference = decoder(latents) - pictures
        return difference.square().mean() + 0.05 * difference.abs().mean()

    fit_decoder(decoder, decoder.conv_out, loss_at, steps)
    pictures = patches.draw(256, torch.Generator().manual_seed(2))
    with torch.no_grad():
        error = (decoder(patches.encode(pictures)).clamp(-1, 1) - pictures).square().mean().item() / 4
    return -10 * math.log10(error)
