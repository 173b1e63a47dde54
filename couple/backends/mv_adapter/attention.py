"""Attention of MV-Adapter: beside a self-attention, one along the rows of all views and one to a reference picture.

The three read the same hidden states and are added up; the base model's own attention is stock and untouched. What a
call wants travels with its forward, in `cross_attention_kwargs`, since one UNet serves several calls in turn. Without
these arguments the UNet is its base model, bit for bit.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn
from torch.nn import functional as F


class Views(NamedTuple):
    """How the rows of a batch are views, passed as `cross_attention_kwargs={"views": Views(...)}`.

    Attributes:
        count: V; the batch is groups of V rows, each a set of views that see each other.
        height: rows of the latents the UNet is given.
        width: columns of these latents.
        scale: weight of the attention across views.
        reference: hidden states of the reference picture by place, shape (B, tokens, C), zeros for rows without one.
            None where the UNet has no attention to a reference.
        reference_scale: weight of that attention.
    """

    count: int
    height: int
    width: int
    scale: float = 1.0
    reference: dict[str, Tensor] | None = None
    reference_scale: float = 1.0


class Recorder:
    """Keeps what self-attentions are given, passed as `cross_attention_kwargs={"record": Recorder()}`.

    Attributes:
        features: by place, e.g. "mid_block.attentions.0.transformer_blocks.0.attn1"; shape (B, tokens, C).
    """

    # Not a dict: copies of the arguments are taken on the way to a shared network, and a copy would be written to.
    def __init__(self) -> None:
        """Start with nothing kept."""
        self.features: dict[str, Tensor] = {}


class MultiViewAttention(nn.Module):
    """Processor of a self-attention, with the adapter's weights in it.

    Args:
        place: path of the attention in the UNet.
        attention: the layer, whose widths the added projections share.
        reference: whether there is an attention to a reference picture.
    """

    def __init__(self, place: str, attention: Attention, reference: bool) -> None:
        """Make the projections, under the names of the published weights."""
        super().__init__()
        self.place = place
        wide, inner = attention.query_dim, attention.inner_dim
        self.to_q_mv = nn.Linear(wide, inner, bias=False)
        self.to_k_mv = nn.Linear(wide, inner, bias=False)
        self.to_v_mv = nn.Linear(wide, inner, bias=False)
        self.to_out_mv = nn.ModuleList([nn.Linear(inner, wide)])
        if reference:
            self.to_q_ref = nn.Linear(wide, inner, bias=False)
            self.to_k_ref = nn.Linear(wide, inner, bias=False)
            self.to_v_ref = nn.Linear(wide, inner, bias=False)
            self.to_out_ref = nn.ModuleList([nn.Linear(inner, wide)])
        self._base = AttnProcessor2_0()

    # diffusers reads the names of this signature, which nn.Module.__call__ would hide.
    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        views: Views | None = None,
        record: Recorder | None = None,
    ) -> Tensor:
        """Attend; `hidden_states` and the result have shape (B, tokens, C)."""
        if record is not None:
            record.features[self.place] = hidden_states
        base = self._base(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        if views is None:
            return base
        out = base + views.scale * self._across(hidden_states, attn.heads, views)
        if views.reference is None:
            return out
        return out + views.reference_scale * self._to_reference(hidden_states, attn.heads, views.reference[self.place])

    def _across(self, x: Tensor, heads: int, views: Views) -> Tensor:
        batch, tokens, _ = x.shape
        # Every level of the UNet has the proportions of the latents.
        height = math.isqrt(tokens * views.height // views.width)
        sets = (batch // views.count, views.count, height, tokens // height, heads, -1)

        def rows(projected: Tensor) -> Tensor:
            # A sequence is one picture row in all views: (sets, height, heads, views * width, head size).
            return projected.view(sets).permute(0, 2, 4, 1, 3, 5).flatten(3, 4)

        q, k, v = rows(self.to_q_mv(x)), rows(self.to_k_mv(x)), rows(self.to_v_mv(x))
        out = F.scaled_dot_product_attention(q, k, v)
        out = out.unflatten(3, (views.count, -1)).permute(0, 3, 1, 4, 2, 5)
        return self.to_out_mv[0](out.reshape(batch, tokens, -1))

    def _to_reference(self, x: Tensor, heads: int, reference: Tensor) -> Tensor:
        def split(projected: Tensor) -> Tensor:
            return projected.unflatten(-1, (heads, -1)).transpose(1, 2)

        q, k, v = split(self.to_q_ref(x)), split(self.to_k_ref(reference)), split(self.to_v_ref(reference))
        out = F.scaled_dot_product_attention(q, k, v)
        return self.to_out_ref[0](out.transpose(1, 2).flatten(2))


class TextAttention(AttnProcessor2_0):
    """The stock processor of the attention to text; it knows the arguments that are not for it."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        views: Views | None = None,
        record: Recorder | None = None,
    ) -> Tensor:
        """Attend; `hidden_states` and the result have shape (B, tokens, C)."""
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
