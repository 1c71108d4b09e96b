"""Attention inside one frame: to the portrait, to the face, to the speech.

Axes: B samples, F frames, N = B·F rows, L = H·W places, T tokens, C channels, h heads, D = C/h.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from joyhallo.models.blocks import TRANSFORMER_EPS, FeedForward, to_image, to_tokens
from joyhallo.models.kernels import Linear, attend, linear

AudioAttention = Literal["semi_decoupled", "decoupled"]


@dataclass(frozen=True)
class KeysValues:
    """Projected keys and values of what is attended to."""

    keys: Tensor  # [R,h,T,D]
    values: Tensor  # [R,h,T,D]


@dataclass(frozen=True)
class PortraitKeys:
    """The portraits that the last R rows of a batch look at; the rows before them see only themselves."""

    portraits: KeysValues  # one row each portrait
    rows: Tensor  # [R] which portrait


@dataclass(frozen=True)
class FoldedTokens:
    """A few constant tokens with the query and output projections multiplied in: attention becomes two thin products."""

    keys: Tensor  # [B,C,h·T]
    values: Tensor  # [B,h·T,C]


class Attention(nn.Module):
    """Multi-head attention; what is attended to comes projected, so that it can be projected once and used many times."""

    def __init__(self, channels: int, num_heads: int, context_dim: int | None = None) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q = Linear(channels, channels, bias=False)
        self.to_k = Linear(context_dim or channels, channels, bias=False)
        self.to_v = Linear(context_dim or channels, channels, bias=False)
        self.to_out = Linear(channels, channels)

    def split_heads(self, x: Tensor) -> Tensor:  # [R,T,C] -> [R,h,T,D]
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def project(self, context: Tensor) -> KeysValues:
        """Keys and values of a context [R,T,C']."""
        return KeysValues(self.split_heads(self.to_k(context)), self.split_heads(self.to_v(context)))

    def forward(self, x: Tensor, context: KeysValues) -> Tensor:  # x [R,L,C] -> [R,L,C]
        return self.to_out(self.gather(self.split_heads(self.to_q(x)), context))

    def gather(self, queries: Tensor, context: KeysValues) -> Tensor:
        """What queries [R,h,L,D] find in a context, [R,L,C]."""
        return attend(queries, context.keys, context.values).transpose(1, 2).flatten(-2)

    def fold(self, context: Tensor) -> FoldedTokens:
        """Fold constant tokens [B,T,C'] with this layer's query and output projections (equal up to rounding)."""
        context_kv = self.project(context)
        w_q = self.to_q.weight.unflatten(0, (self.num_heads, -1)) * (context_kv.keys.shape[-1] ** -0.5)  # [h,D,C]
        w_out = self.to_out.weight.unflatten(1, (self.num_heads, -1))  # [C,h,D]
        keys = torch.einsum("bhtd,hdc->bcht", context_kv.keys, w_q)
        values = torch.einsum("bhtd,chd->bhtc", context_kv.values, w_out)
        return FoldedTokens(keys.flatten(2), values.flatten(1, 2))

    def attend_folded(self, x: Tensor, tokens: FoldedTokens) -> Tensor:  # x [N,L,C] -> [N,L,C]
        rows = x.unflatten(0, (len(tokens.keys), -1)).flatten(1, 2)  # [B,F·L,C]
        scores = torch.matmul(rows, tokens.keys).unflatten(-1, (self.num_heads, -1))
        return torch.baddbmm(self.to_out.bias, scores.softmax(dim=-1).flatten(2), tokens.values).view_as(x)


class SpatialTransformer(nn.Module):
    """Self-attention joined by the portrait, then attention to the face tokens."""

    def __init__(self, channels: int, num_heads: int, face_dim: int, num_groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(num_groups, channels, TRANSFORMER_EPS)
        self.proj_in = Linear(channels, channels)
        self.self_norm = nn.LayerNorm(channels)
        self.self_attention = Attention(channels, num_heads)
        self.face_norm = nn.LayerNorm(channels)
        self.face_attention = Attention(channels, num_heads, face_dim)
        self.ff_norm = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)
        self.proj_out = Linear(channels, channels)

    def enter(self, x: Tensor) -> Tensor:  # [N,C,H,W] -> [N,L,C]
        return self.proj_in(to_tokens(self.norm(x)))

    def features(self, x: Tensor) -> Tensor:
        """What this place of the reference network hands to the denoising network: [N,C,H,W] → [N,L,C]."""
        return self.self_norm(self.enter(x))

    def finish(self, x: Tensor, hidden: Tensor, face: FoldedTokens) -> Tensor:
        hidden = hidden + self.face_attention.attend_folded(self.face_norm(hidden), face)
        hidden = hidden + self.ff(self.ff_norm(hidden))
        return x + to_image(self.proj_out(hidden), *x.shape[-2:])

    def forward(self, x: Tensor, face: FoldedTokens, portrait: PortraitKeys | None = None) -> Tensor:
        """x [N,C,H,W] → [N,C,H,W]."""
        hidden = self.enter(x)
        hidden = hidden + self.attend_self(self.self_norm(hidden), portrait)
        return self.finish(x, hidden, face)

    def attend_self(self, x: Tensor, portrait: PortraitKeys | None) -> Tensor:
        attention = self.self_attention
        own = attention.project(x)
        if portrait is None:
            return attention(x, own)
        queries = attention.split_heads(attention.to_q(x))
        blind = len(x) - len(portrait.rows)
        joined = KeysValues(
            torch.cat([own.keys[blind:], portrait.portraits.keys[portrait.rows]], dim=2),
            torch.cat([own.values[blind:], portrait.portraits.values[portrait.rows]], dim=2),
        )
        out = attention.gather(queries[blind:], joined)
        if blind:
            alone = attention.gather(queries[:blind], KeysValues(own.keys[:blind], own.values[:blind]))
            out = torch.cat([alone, out])
        return attention.to_out(out)


class AudioModule(nn.Module):
    """The paper's audio attention over the regions lip, expression and pose.

    `semi_decoupled` (JoyHallo, eq. 2): one attention to the speech, F_coup, then a masked branch per region through a
    zero-initialised linear map, added up. `decoupled` (Hallo): one attention per region, masked in the same way.
    """

    def __init__(
        self, channels: int, inner: int, num_heads: int, audio_dim: int, num_groups: int, kind: AudioAttention
    ) -> None:
        super().__init__()
        if kind not in ("semi_decoupled", "decoupled"):
            raise ValueError(f"audio attention {kind!r} is unknown; it is 'semi_decoupled' or 'decoupled'")
        self.norm = nn.GroupNorm(num_groups, channels, TRANSFORMER_EPS)
        self.proj_in = Linear(channels, inner)
        self.self_norm = nn.LayerNorm(inner)
        self.self_attention = Attention(inner, num_heads)
        self.audio_norm = nn.LayerNorm(inner)
        num_attentions = 1 if kind == "semi_decoupled" else 3
        self.audio_attentions = nn.ModuleList(Attention(inner, num_heads, audio_dim) for _ in range(num_attentions))
        self.branches = nn.ModuleList(Linear(inner, inner) for _ in range(3))  # lip, expression, pose
        self.ff_norm = nn.LayerNorm(inner)
        self.ff = FeedForward(inner)
        self.proj_out = Linear(inner, channels)
        for branch in self.branches:
            nn.init.zeros_(branch.weight)
            nn.init.zeros_(branch.bias)

    def project(self, audio_tokens: Tensor) -> tuple[KeysValues, ...]:
        """Keys and values of the audio tokens [R,T,C'], one per attention."""
        return tuple(attention.project(audio_tokens) for attention in self.audio_attentions)

    def forward(self, x: Tensor, audio: tuple[KeysValues, ...], masks: Tensor, scale: Tensor) -> Tensor:
        """x [N,C,H,W]; audio keys and values of the last R rows, those before hear nothing; masks [N,L,3]; scale [3]."""
        hidden = self.proj_in(to_tokens(self.norm(x)))
        normed = self.self_norm(hidden)
        hidden = hidden + self.self_attention(normed, self.self_attention.project(normed))
        hidden = hidden + self.attend_speech(self.audio_norm(hidden), audio, masks * scale)
        hidden = hidden + sum(branch.bias * s for branch, s in zip(self.branches, scale, strict=True))
        hidden = hidden + self.ff(self.ff_norm(hidden))
        return x + to_image(self.proj_out(hidden), *x.shape[-2:])

    def attend_speech(self, x: Tensor, audio: tuple[KeysValues, ...], masks: Tensor) -> Tensor:
        """The masked branches without their biases; a mask commutes with a linear map, so it is applied after it."""
        weights = [branch.weight for branch in self.branches]
        silent = len(x) - len(audio[0].keys)
        heard = [attention(x[silent:], kv) for attention, kv in zip(self.audio_attentions, audio, strict=True)]
        regions = zip(heard * (3 // len(heard)), weights, masks[silent:].split(1, dim=-1), strict=True)
        out = sum(linear(h, weight) * mask for h, weight, mask in regions)
        if not silent:
            return out
        # Keys and values of zero tokens are zero (no bias), so without speech an attention gives its output bias everywhere.
        bias = [attention.to_out.bias for attention in self.audio_attentions]
        quiet = torch.stack([w @ b for w, b in zip(weights, bias * (3 // len(bias)), strict=True)])  # [3,C]
        return torch.cat([masks[:silent] @ quiet, out])
