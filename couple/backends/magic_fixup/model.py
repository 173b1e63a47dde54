"""The network of Magic Fixup, used twice: once on the original picture, once on the edit that is being denoised.

It is the UNet of Stable Diffusion 1 with nine input channels and no text. What would be the cross-attention of a block
looks at the same block of the other network instead: at the tokens that enter its self-attention. These features are
handed over as outputs and arguments of the forward, so that calls which share the networks cannot mix them up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor


class Prediction(NamedTuple):
    """What the network returns.

    Attributes:
        sample: predicted noise, shape (B, 4, h, w).
        features: the normalised tokens before the self-attention of every block, shape (B, tokens, channels), by the
            name of the block; empty if the network was given the features of another.
    """

    sample: Tensor
    features: dict[str, Tensor]


class MagicFixupUNet(ModelMixin, ConfigMixin):
    """A UNet of Stable Diffusion 1 whose blocks can look at the features of a second one.

    Args:
        block_out_channels: width of each level; all but the last have attention.
        layers_per_block: residual blocks of a level on the way down; one more on the way up.
        attention_heads: heads of every attention.
        norm_num_groups: groups of the group norms.

    Source: adobe-research/MagicFixup@0607d9fe, `ldm/modules/attention.py` and `configs/collage_mix_train.yaml`.
    """

    @register_to_config
    def __init__(
        self,
        block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280),
        layers_per_block: int = 2,
        attention_heads: int = 8,
        norm_num_groups: int = 32,
    ) -> None:
        """Make the network with random weights."""
        super().__init__()
        attending = len(block_out_channels) - 1
        # Each block reads features of its own width.
        widths: Any = tuple(block_out_channels)
        self.unet = UNet2DConditionModel(
            in_channels=9,
            block_out_channels=widths,
            layers_per_block=layers_per_block,
            down_block_types=("CrossAttnDownBlock2D",) * attending + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * attending,
            cross_attention_dim=widths,
            attention_head_dim=attention_heads,
            norm_num_groups=norm_num_groups,
        )
        processors: dict[str, Any] = {}
        for name in self.unet.attn_processors:
            block, attention, _ = name.rsplit(".", 2)
            processors[name] = SelfAttention(block) if attention == "attn1" else ReferenceAttention(block)
        self.unet.set_attn_processor(processors)

    def forward(
        self, sample: Tensor, timestep: Tensor | float, reference: Mapping[str, Tensor] | None = None
    ) -> Prediction:
        """Predict the noise in the first four channels of `sample`.

        Args:
            sample: shape (B, 9, h, w): the noisy latents, the clean latents (of the coarse edit, or of the original
                picture), and the mask, 1 where the edit has content and 0 in holes. h and w are multiples of
                2 ** (levels - 1).
            timestep: a number, or shape (B,).
            reference: the features of the other network; None to look at nothing.

        Returns:
            The noise, and this network's own features if `reference` is None.
        """
        features: dict[str, Tensor] = {}
        given = {"features": features if reference is None else None, "reference": reference}
        noise = self.unet(sample, timestep, None, cross_attention_kwargs=given, return_dict=False)[0]
        return Prediction(noise, features)


@dataclass(frozen=True, eq=False)
class SelfAttention(AttnProcessor2_0):
    """Self-attention that writes what it is given into `features`, under the name of its block."""

    block: str

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        features: dict[str, Tensor] | None = None,
        reference: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Attend to `hidden_states`, shape (B, tokens, channels); `reference` is not for this attention."""
        if features is not None:
            features[self.block] = hidden_states
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask)


@dataclass(frozen=True, eq=False)
class ReferenceAttention(AttnProcessor2_0):
    """Attention to the features of the same block of the other network; adds nothing where there are none."""

    block: str

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        features: dict[str, Tensor] | None = None,
        reference: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Attend from `hidden_states`, shape (B, tokens, channels); `features` is not for this attention."""
        if reference is None:
            return torch.zeros_like(hidden_states)
        return super().__call__(attn, hidden_states, reference[self.block], attention_mask)
