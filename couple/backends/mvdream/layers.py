"""The layers of MVDream's network, named as the latent-diffusion code names them.

The names are those of the published checkpoints, which therefore load without a conversion. Attention, its
projections and the gated feed-forward are diffusers' own; what is particular to MVDream is one reshape: in the
self-attention, the tokens of all views of a sample are one sequence.
"""

from __future__ import annotations

from typing import Any

from diffusers.models.attention import FeedForward
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn


class MVDreamAttnProcessor:
    """Attention on the backend that `model.set_attention_backend(name)` chose; native torch by default."""

    _attention_backend = None

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Attend from `hidden_states`, shape (B, N, C), to `encoder_hidden_states`, (B, M, D), or to itself.

        `attn` is the layer, with its projections and number of heads.
        """
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        projected = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        query, key, value = (tokens.unflatten(-1, (attn.heads, -1)) for tokens in projected)
        attended = dispatch_attention_fn(query, key, value, attn_mask=attention_mask, backend=self._attention_backend)
        return attn.to_out[1](attn.to_out[0](attended.flatten(2)))


class ResBlock(nn.Module):
    """Residual block: two convolutions, with the embedding of time and camera added in between."""

    def __init__(self, channels: int, out_channels: int, emb_channels: int) -> None:
        """Make the layers."""
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(32, channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, out_channels))
        # The third is the place of a dropout that checkpoints count.
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, out_channels),
            nn.SiLU(),
            nn.Identity(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        self.skip_connection = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Map x, shape (B, C, h, w), with emb, shape (B, E)."""
        h = self.in_layers(x) + self.emb_layers(emb)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class TransformerBlock(nn.Module):
    """Self-attention over the tokens of all views, cross-attention to the text of each view, feed-forward."""

    def __init__(self, channels: int, heads: int, context_dim: int) -> None:
        """Make the layers."""
        super().__init__()
        size = {"heads": heads, "dim_head": channels // heads, "processor": MVDreamAttnProcessor()}
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, **size)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = Attention(channels, cross_attention_dim=context_dim, **size)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels, activation_fn="geglu")

    def forward(self, x: Tensor, context: Tensor, num_views: int) -> Tensor:
        """Map tokens x, shape (B * V, N, C), with context, shape (B * V, L, D)."""
        joint = self.norm1(x).unflatten(0, (-1, num_views)).flatten(1, 2)
        x = x + self.attn1(joint).unflatten(1, (num_views, -1)).flatten(0, 1)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """Transformer blocks on the pixels of a feature map, around a residual."""

    def __init__(self, channels: int, heads: int, context_dim: int, depth: int) -> None:
        """Make the layers."""
        super().__init__()
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList(TransformerBlock(channels, heads, context_dim) for _ in range(depth))
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, context: Tensor, num_views: int) -> Tensor:
        """Map x, shape (B * V, C, h, w), with context, shape (B * V, L, D)."""
        tokens = self.proj_in(self.norm(x).flatten(2).mT)
        for block in self.transformer_blocks:
            tokens = block(tokens, context, num_views)
        return x + self.proj_out(tokens).mT.unflatten(2, x.shape[2:])


class Block(nn.Sequential):
    """Layers in a row, each given what it listens to."""

    def forward(self, x: Tensor, emb: Tensor, context: Tensor, num_views: int) -> Tensor:
        """Run all layers."""
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, emb)
            elif isinstance(layer, SpatialTransformer):
                x = layer(x, context, num_views)
            else:
                x = layer(x)
        return x
