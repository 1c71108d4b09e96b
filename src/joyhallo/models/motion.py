"""Attention over time.

Inside, time is the last axis before the channels, so that every place's frames lie side by side and attention copies nothing.

Axes: B samples, F frames, P past frames, S = P + F, L = H·W places, C channels, h heads.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from joyhallo.models.attention import Attention
from joyhallo.models.blocks import TRANSFORMER_EPS, FeedForward, to_image, to_tokens
from joyhallo.models.kernels import Linear, attend
from joyhallo.models.tables import table


@dataclass(frozen=True)
class PastRows:
    """What the past frames bring to a motion module; fixed over the steps of a clip."""

    hidden: Tensor  # [B,L,P,C] after the input projection
    queries: Tensor  # [B,L,P,C] of the first attention
    keys: Tensor  # [B,L,P,C]
    values: Tensor  # [B,L,P,C]

    def expand(self, num_samples: int) -> "PastRows":
        """The same past for every sample, when there is one for all."""
        return PastRows(*(x.expand(num_samples, -1, -1, -1) for x in (self.hidden, self.queries, self.keys, self.values)))


def sinusoidal_positions(max_length: int, channels: int) -> Tensor:
    """[max_length,C], the table of AnimateDiff's motion modules."""
    angle = torch.arange(max_length)[:, None] * torch.exp(torch.arange(0, channels, 2) * (-math.log(10_000) / channels))
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


class TemporalAttention(nn.Module):
    """Self-attention over time at every place, with the position added after the normalisation (for queries, keys, values)."""

    def __init__(self, channels: int, num_heads: int, max_length: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.attention = Attention(channels, num_heads)
        self.register_buffer("positions", table(lambda: sinusoidal_positions(max_length, channels)))

    def place(self, hidden: Tensor, start: int) -> Tensor:
        """Normalise [B,L,F,C] and add the positions start, start + 1, …"""
        return self.norm(hidden) + self.positions[start : start + hidden.shape[2]]

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Projected queries [B,L,F,C] against keys and values [B,L,S,C] → [B,L,F,C]."""
        by_head = (self.attention.split_heads(x.flatten(0, 1)) for x in (queries, keys, values))
        out = attend(*by_head)  # [B·L,h,F,C/h]
        return self.attention.to_out(out.transpose(1, 2).reshape(queries.shape))


class MotionModule(nn.Module):
    """Two attentions over the past frames and the clip's frames, then a feed-forward layer (AnimateDiff v2, as Hallo uses it).

    The past frames take the first positions. They take part in both attentions; nothing of them is kept.
    """

    def __init__(self, channels: int, num_heads: int, max_length: int, num_groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(num_groups, channels, TRANSFORMER_EPS)
        self.proj_in = Linear(channels, channels)
        self.attentions = nn.ModuleList(TemporalAttention(channels, num_heads, max_length) for _ in range(2))
        self.ff_norm = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)
        self.proj_out = Linear(channels, channels)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def prepare(self, past: Tensor) -> PastRows:
        """Past frames [B,P,L,C] (the reference network's features at this place) → what stays fixed over a clip's steps."""
        num_samples, num_past = past.shape[:2]
        normed = self.norm(past.flatten(0, 1).transpose(1, 2)).transpose(1, 2)
        hidden = self.proj_in(normed).unflatten(0, (num_samples, num_past)).transpose(1, 2).contiguous()
        first = self.attentions[0]
        placed = first.place(hidden, start=0)
        return PastRows(hidden, first.attention.to_q(placed), first.attention.to_k(placed), first.attention.to_v(placed))

    def forward(self, x: Tensor, past: PastRows) -> Tensor:  # x [B·F,C,H,W]
        num_samples, _, num_past, _ = past.hidden.shape
        rows = self.proj_in(to_tokens(self.norm(x)))  # [B·F,L,C]
        hidden = rows.unflatten(0, (num_samples, -1)).transpose(1, 2).contiguous()  # [B,L,F,C]
        hidden = torch.cat([past.hidden, hidden], dim=2) + self.attend_first(hidden, past)
        hidden = hidden[:, :, num_past:] + self.attend_second(hidden, num_past)
        hidden = self.proj_out(hidden + self.ff(self.ff_norm(hidden)))
        return x + to_image(hidden.transpose(1, 2).flatten(0, 1), *x.shape[-2:])

    def attend_first(self, hidden: Tensor, past: PastRows) -> Tensor:
        """[B,L,F,C] → [B,L,P+F,C]; the past frames' projections are already there."""
        layer = self.attentions[0]
        placed = layer.place(hidden, start=past.hidden.shape[2])
        queries = torch.cat([past.queries, layer.attention.to_q(placed)], dim=2)
        keys = torch.cat([past.keys, layer.attention.to_k(placed)], dim=2)
        values = torch.cat([past.values, layer.attention.to_v(placed)], dim=2)
        return layer(queries, keys, values)

    def attend_second(self, hidden: Tensor, num_past: int) -> Tensor:
        """[B,L,P+F,C] → [B,L,F,C]; the past frames are only looked at."""
        layer = self.attentions[1]
        placed = layer.place(hidden, start=0)
        queries = layer.attention.to_q(placed[:, :, num_past:])
        return layer(queries, layer.attention.to_k(placed), layer.attention.to_v(placed))
