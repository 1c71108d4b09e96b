"""Building blocks that both networks share.

Axes: B samples, F frames, N = B·F rows, C channels, H and W the place, L = H·W. Frames are rows everywhere but in the motion
modules, so every normalisation is per frame. Hidden states are kept in `channels_last` memory: there [N,C,H,W] and [N,L,C] are
two views of the same bytes, and going from a convolution to attention and back copies nothing.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from joyhallo.models.kernels import Conv1x1, Conv3x3, Linear, in_slices

RESNET_EPS = 1e-5
TRANSFORMER_EPS = 1e-6


def to_tokens(x: Tensor) -> Tensor:
    """[N,C,H,W] → [N,L,C]."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def to_image(tokens: Tensor, height: int, width: int) -> Tensor:
    """[N,L,C] → [N,C,H,W], in channels_last memory."""
    return tokens.unflatten(1, (height, width)).permute(0, 3, 1, 2)


class TimestepEmbedding(nn.Module):
    """A diffusion timestep as a vector: cosines and sines, then two linear layers (the Stable Diffusion 1.5 form)."""

    def __init__(self, channels: int, time_dim: int) -> None:
        super().__init__()
        self.channels = channels
        self.linear_1 = Linear(channels, time_dim)
        self.linear_2 = Linear(time_dim, time_dim)

    def forward(self, timestep: Tensor) -> Tensor:  # [B] -> [B,time_dim]
        half = self.channels // 2
        steps = torch.arange(half, dtype=torch.float32, device=timestep.device)
        angle = timestep.float()[:, None] * torch.exp(-math.log(10_000) / half * steps)
        waves = torch.cat([angle.cos(), angle.sin()], dim=-1).to(self.linear_1.weight.dtype)
        return self.linear_2(F.silu(self.linear_1(waves)))


class ResnetBlock(nn.Module):
    """Two convolutions around the timestep, and a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, time_dim: int, num_groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(num_groups, in_channels, RESNET_EPS)
        self.conv1 = Conv3x3(in_channels, out_channels)
        self.time = Linear(time_dim, out_channels)
        self.norm2 = nn.GroupNorm(num_groups, out_channels, RESNET_EPS)
        self.conv2 = Conv3x3(out_channels, out_channels)
        self.shortcut = Conv1x1(in_channels, out_channels) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:  # x [N,C,H,W], time [B,time_dim], activated
        hidden = self.conv1(F.silu(self.norm1(x), inplace=True))
        shift = self.time(time).repeat_interleave(len(x) // len(time), dim=0)
        hidden = self.conv2(F.silu(self.norm2(hidden.add_(shift[:, :, None, None])), inplace=True))
        return self.shortcut(x) + hidden


class Downsample(nn.Module):
    """Halves height and width, rounding up."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv3x3(channels, channels, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsample(nn.Module):
    """Brings height and width back to those of the skip connection that comes next."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv3x3(channels, channels)

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        return self.conv(F.interpolate(x, size=size, mode="nearest"))


class FeedForward(nn.Module):
    """A gated feed-forward layer (GEGLU, with the exact GELU)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj_in = Linear(channels, 8 * channels)
        self.proj_out = Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:  # [N,L,C] -> [N,L,C]
        return in_slices(self.apply_to_rows, x)

    def apply_to_rows(self, x: Tensor) -> Tensor:
        hidden, gate = self.proj_in(x).chunk(2, dim=-1)
        return self.proj_out(hidden * F.gelu(gate) if torch.is_grad_enabled() else F.gelu(gate).mul_(hidden))
