"""The layers of Stable Virtual Camera: residual blocks steered by rays, and transformers that look across frames.

Rows are frames: a batch of B samples of T frames is B * T rows, frames of one sample next to each other. Attribute
names are those of the published checkpoint (Stability-AI/stable-virtual-camera@fe19948).
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from diffusers.models.attention import AttentionModuleMixin, FeedForward
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor, nn


class GroupNorm(nn.GroupNorm):
    """Group normalisation over 32 groups, computed in float32 whatever the type of its input and weights."""

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__(32, channels, eps)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise, shape (rows, channels, ...)."""
        normed = F.group_norm(input.float(), self.num_groups, self.weight.float(), self.bias.float(), self.eps)
        return normed.to(input.dtype)


class ResBlock(nn.Module):
    """A residual block whose input is scaled and shifted, pixel by pixel, by the rays of its frame."""

    def __init__(self, channels: int, out_channels: int, emb_channels: int, dense_channels: int):
        super().__init__()
        self.in_layers = nn.Sequential(GroupNorm(channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, out_channels))
        self.dense_emb_layers = nn.Sequential(nn.Conv2d(dense_channels, 2 * channels, 1))
        # The Identity stands where the checkpoint counts a dropout.
        self.out_layers = nn.Sequential(
            GroupNorm(out_channels), nn.SiLU(), nn.Identity(), nn.Conv2d(out_channels, out_channels, 3, padding=1)
        )
        same = channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor, dense: Tensor) -> Tensor:
        """Transform x (rows, channels, h, w) given emb (rows, emb_channels) and dense (rows, dense_channels, H, W)."""
        norm, activation, conv = self.in_layers
        rays = F.interpolate(dense, size=x.shape[2:], mode="bilinear", align_corners=True)
        scale, shift = self.dense_emb_layers(rays).chunk(2, dim=1)
        h = conv(activation(norm(x)) * (1 + scale) + shift)
        h = h + self.emb_layers(emb)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class SevaAttnProcessor:
    """Plain multi-head attention through diffusers' dispatch, so that `model.set_attention_backend` chooses it."""

    _attention_backend = None
    _parallel_config = None

    def __call__(self, attn: Attention, x: Tensor, context: Tensor) -> Tensor:
        """Let x (batch, tokens, channels) look at context (batch, keys, context channels)."""
        query, key, value = (
            linear(tokens).unflatten(-1, (attn.heads, -1))
            for linear, tokens in ((attn.to_q, x), (attn.to_k, context), (attn.to_v, context))
        )
        attended = dispatch_attention_fn(
            query, key, value, backend=self._attention_backend, parallel_config=self._parallel_config
        )
        return attn.to_out[0](attended.flatten(2).to(x.dtype))


class Attention(nn.Module, AttentionModuleMixin):
    """Attention of `channels` to `context_channels`; to itself where no context is given."""

    _default_processor_cls = SevaAttnProcessor
    _available_processors = [SevaAttnProcessor]
    _supports_qkv_fusion = False

    processor: Any

    def __init__(self, channels: int, context_channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context_channels, channels, bias=False)
        self.to_v = nn.Linear(context_channels, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])
        self.processor = SevaAttnProcessor()

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Map x (batch, tokens, channels) to its own shape."""
        return self.processor(self, x, x if context is None else context)


class SpaceBlock(nn.Module):
    """Attention among the tokens of a frame, or of all frames at once; then to the context, then a feed-forward."""

    def __init__(self, channels: int, heads: int, context_channels: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = Attention(channels, context_channels, heads)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Map x (batch, tokens, channels) to its own shape; context is (batch, keys, context channels)."""
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class TimeBlock(nn.Module):
    """Attention among the frames at one place. Frames have no position: their rays tell them apart."""

    def __init__(self, channels: int, heads: int, context_channels: int):
        super().__init__()
        self.norm_in = nn.LayerNorm(channels)
        self.ff_in = FeedForward(channels)
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = Attention(channels, context_channels, heads)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, context: Tensor, num_frames: int) -> Tensor:
        """Map x (B * T, tokens, channels) to its own shape; context is (B, keys, context channels)."""
        tokens = x.shape[1]
        h = x.unflatten(0, (-1, num_frames)).transpose(1, 2).flatten(0, 1)
        h = h + self.ff_in(self.norm_in(h))
        h = h + self.attn1(self.norm1(h))
        h = h + self.attn2(self.norm2(h), context.repeat_interleave(tokens, dim=0))
        h = self.ff(self.norm3(h))  # no residual here: the sum with the block before is one
        return h.unflatten(0, (-1, tokens)).transpose(1, 2).flatten(0, 1)


class MultiviewTransformer(nn.Module):
    """A `SpaceBlock` and a `TimeBlock`, added.

    Args:
        channels: of the feature maps.
        head_channels: of one attention head.
        context_channels: of the image token.
        joint: whether the space block sees the tokens of all frames of a sample together.
    """

    def __init__(self, channels: int, head_channels: int, context_channels: int, joint: bool):
        super().__init__()
        heads = channels // head_channels
        self.joint = joint
        self.norm = GroupNorm(channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList([SpaceBlock(channels, heads, context_channels)])
        self.time_mix_blocks = nn.ModuleList([TimeBlock(channels, heads, context_channels)])
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, context: Tensor, num_frames: int) -> Tensor:
        """Transform x (B * T, channels, h, w); context is (B * T, keys, context channels)."""
        first = context[::num_frames]
        h = self.proj_in(self.norm(x).flatten(2).mT)
        if self.joint:
            together = h.unflatten(0, (-1, num_frames)).flatten(1, 2)
            h = self.transformer_blocks[0](together, first).reshape(h.shape)
        else:
            h = self.transformer_blocks[0](h, context)
        h = h + self.time_mix_blocks[0](h, first, num_frames)
        return x + self.proj_out(h).mT.reshape(x.shape)
