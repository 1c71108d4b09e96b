"""The denoising network computed the way the published code computes it, on our parameters.

A second implementation: it decides what `DenoisingNetwork` must return and how long the published way takes on a machine.
Nothing is shared with ours but the parameters: hidden states are contiguous [B,C,F,H,W] and become rows around every layer,
reference and audio are projected in every step and for every row, rows without a portrait are computed with it first, the
regions are three masked 1×1 convolutions, and past frames run through whole motion modules to be thrown away.

Axes: B samples, F frames, P past frames, N = B·F rows, L = H·W places, T tokens, C channels.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from joyhallo.models.attention import Attention, AudioModule, SpatialTransformer
from joyhallo.models.blocks import FeedForward, ResnetBlock, TimestepEmbedding
from joyhallo.models.conditions import ClipInputs, RegionScale
from joyhallo.models.motion import MotionModule
from joyhallo.models.unet import AS_TRAINED, DenoisingNetwork, Site


def published_velocity(
    network: DenoisingNetwork, latents: Tensor, timestep: Tensor, inputs: ClipInputs, scale: RegionScale = AS_TRAINED
) -> Tensor:
    """Noisy latents [B,C,F,H,W] at timesteps [1] or [B] → velocity [B,C,F,H,W]; the unconditional samples come first."""
    run = _Run(network, inputs, scale)
    time = embed_time(network.body.time_embedding, timestep.expand(len(latents)))
    x = per_frame(lambda rows: convolve(rows, network.conv_in), latents)
    if inputs.location is not None:
        x = x + inputs.location[:, :, None].expand_as(x)
    skips, body = [x], network.body
    deepest = len(body.down) - 1
    for depth, level in enumerate(body.down):
        for resnet, site in level.pairs():
            x = residual(resnet, x, time)
            x = x if site is None else run.attend(site, depth, x)
            skips.append(x)
        if level.resample is not None:
            x = per_frame(lambda rows, conv=level.resample.conv: convolve(rows, conv), x)
            skips.append(x)
    x = residual(body.mid.resnets[0], x, time)
    x = run.attend(body.mid.sites[0], deepest, x)
    x = residual(body.mid.resnets[1], x, time)
    for depth, level in zip(range(deepest, -1, -1), body.up, strict=True):
        for resnet, site in level.pairs():
            x = residual(resnet, torch.cat([x, skips.pop()], dim=1), time)
            x = x if site is None else run.attend(site, depth, x)
        if level.resample is not None:
            x = F.interpolate(x, size=(x.shape[2], *skips[-1].shape[-2:]), mode="nearest")
            x = per_frame(lambda rows, conv=level.resample.conv: convolve(rows, conv), x)
    x = F.silu(per_frame(network.norm_out, x))
    return per_frame(lambda rows: convolve(rows, network.conv_out), x)


def per_frame(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a picture layer to every frame: [B,C,F,H,W] → rows and back, in contiguous memory each time."""
    rows = layer(x.transpose(1, 2).flatten(0, 1).contiguous())
    return rows.unflatten(0, (len(x), -1)).transpose(1, 2).contiguous()


def convolve(rows: Tensor, conv: nn.Conv2d) -> Tensor:
    return F.conv2d(rows, conv.weight, conv.bias, conv.stride, conv.padding)


def linear(x: Tensor, layer: nn.Linear) -> Tensor:
    return F.linear(x, layer.weight, layer.bias)


def pointwise(rows: Tensor, layer: nn.Linear) -> Tensor:
    """A linear layer as the 1×1 convolution that it is in the published network."""
    return F.conv2d(rows, layer.weight[:, :, None, None], layer.bias)


def embed_time(layer: TimestepEmbedding, timestep: Tensor) -> Tensor:
    half = layer.channels // 2
    frequency = torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float32) / half).to(timestep.device)
    angle = timestep[:, None].float() * frequency
    waves = torch.cat([torch.cos(angle), torch.sin(angle)], dim=1).to(layer.linear_1.weight.dtype)
    return linear(F.silu(linear(waves, layer.linear_1)), layer.linear_2)


def residual(block: ResnetBlock, x: Tensor, time: Tensor) -> Tensor:
    hidden = F.silu(per_frame(block.norm1, x))
    hidden = per_frame(lambda rows: convolve(rows, block.conv1), hidden)
    hidden = hidden + linear(F.silu(time), block.time)[:, :, None, None, None]
    hidden = F.silu(per_frame(block.norm2, hidden))
    hidden = per_frame(lambda rows: convolve(rows, block.conv2), hidden)
    if isinstance(block.shortcut, nn.Conv2d):
        x = per_frame(lambda rows: F.conv2d(rows, block.shortcut.weight, block.shortcut.bias), x)
    return x + hidden


def multi_head(layer: Attention, x: Tensor, context: Tensor) -> Tensor:
    """Attention of x [R,L,C] to an unprojected context [R,T,C']."""

    def heads(y: Tensor) -> Tensor:
        return y.view(len(y), -1, layer.num_heads, y.shape[-1] // layer.num_heads).transpose(1, 2)

    q, k, v = heads(linear(x, layer.to_q)), heads(linear(context, layer.to_k)), heads(linear(context, layer.to_v))
    return linear(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape), layer.to_out)


def feed_forward(layer: FeedForward, x: Tensor) -> Tensor:
    hidden, gate = linear(x, layer.proj_in).chunk(2, dim=-1)
    return linear(hidden * F.gelu(gate), layer.proj_out)


def flatten_places(rows: Tensor) -> Tensor:  # [N,C,H,W] -> [N,L,C]
    return rows.permute(0, 2, 3, 1).reshape(len(rows), -1, rows.shape[1])


def unflatten_places(tokens: Tensor, like: Tensor) -> Tensor:  # [N,L,C] -> [N,C,H,W]
    return tokens.reshape(len(tokens), *like.shape[-2:], -1).permute(0, 3, 1, 2).contiguous()


class _Run:
    """One forward's inputs at the attention sites."""

    def __init__(self, network: DenoisingNetwork, inputs: ClipInputs, scale: RegionScale) -> None:
        self.network, self.inputs, self.scale = network, inputs, scale
        self.num_samples, self.num_frames = len(inputs.face_tokens), inputs.num_frames
        self.visited = 0

    def attend(self, site: Site, depth: int, x: Tensor) -> Tensor:  # [B,C,F,H,W]
        reference = None if self.inputs.reference is None else self.inputs.reference.sites[self.visited]
        self.visited += 1
        if reference is None:
            blind = self.network.config["blind_past_frames"]
            past = x.new_zeros(self.num_samples, blind, x.shape[-2] * x.shape[-1], x.shape[1])
            bank = None
        else:
            past = reference[:, 1:].expand(self.num_samples, -1, -1, -1)
            bank = self.bank_rows(reference[:, 0])
        x = per_frame(lambda rows: self.spatial(site.spatial, rows, bank), x)
        x = per_frame(lambda rows: self.audio(site.audio, rows, depth), x)
        return motion(site.motion, x, past)

    def bank_rows(self, portraits: Tensor) -> Tensor:
        """The portrait features [1 or B,L,C] that every row sees, [N,L,C]."""
        if len(portraits) == 1 or self.network.config["row_order"] == "aligned":
            return portraits.expand(self.num_samples, -1, -1).repeat_interleave(self.num_frames, dim=0)
        return portraits.repeat(self.num_frames, 1, 1)

    def spatial(self, block: SpatialTransformer, rows: Tensor, bank: Tensor | None) -> Tensor:
        hidden = flatten_places(pointwise(block.norm(rows), block.proj_in))
        normed = block.self_norm(hidden)
        seen = normed if bank is None else torch.cat([normed, bank], dim=1)
        joined = multi_head(block.self_attention, normed, seen) + hidden
        blind = self.inputs.num_blind * self.num_frames
        if blind and bank is not None:
            joined = joined.clone()
            joined[:blind] = multi_head(block.self_attention, normed[:blind], normed[:blind]) + hidden[:blind]
        face = self.inputs.face_tokens.repeat_interleave(self.num_frames, dim=0)
        hidden = multi_head(block.face_attention, block.face_norm(joined), face) + joined
        hidden = feed_forward(block.ff, block.ff_norm(hidden)) + hidden
        return pointwise(unflatten_places(hidden, rows), block.proj_out) + rows

    def audio(self, block: AudioModule, rows: Tensor, depth: int) -> Tensor:
        hidden = flatten_places(pointwise(block.norm(rows), block.proj_in))
        normed = block.self_norm(hidden)
        hidden = multi_head(block.self_attention, normed, normed) + hidden
        tokens = self.inputs.audio_tokens.flatten(0, 1)
        normed = block.audio_norm(hidden)
        heard = [multi_head(attention, normed, tokens) for attention in block.audio_attentions]
        masks = self.inputs.masks
        regions = (masks.lip, self.scale.lip), (masks.expression, self.scale.expression), (masks.pose, self.scale.pose)
        for index, (branch, (pyramid, strength)) in enumerate(zip(block.branches, regions, strict=True)):
            mask = pyramid[depth].expand(self.num_samples, self.num_frames, -1, -1).reshape(len(rows), -1, 1).to(rows)
            masked = unflatten_places(heard[index % len(heard)] * mask, rows)
            hidden = hidden + strength * flatten_places(pointwise(masked, branch))
        hidden = feed_forward(block.ff, block.ff_norm(hidden)) + hidden
        return pointwise(unflatten_places(hidden, rows), block.proj_out) + rows


def motion(block: MotionModule, x: Tensor, past: Tensor) -> Tensor:
    """x [B,C,F,H,W] with past frames [B,P,L,C] before it: the whole module, then the past frames are dropped."""
    num_samples, num_past = past.shape[:2]
    before = past.unflatten(2, x.shape[-2:]).permute(0, 4, 1, 2, 3)
    x = torch.cat([before, x], dim=2)
    length, places = x.shape[2], x.shape[-2] * x.shape[-1]
    rows = x.transpose(1, 2).flatten(0, 1).contiguous()
    hidden = linear(flatten_places(block.norm(rows)), block.proj_in)  # [B·S,L,C]
    for layer in block.attentions:
        by_place = layer.norm(hidden).unflatten(0, (num_samples, length)).transpose(1, 2).reshape(-1, length, hidden.shape[-1])
        placed = by_place + layer.positions[:length]
        out = multi_head(layer.attention, placed, placed)
        hidden = out.unflatten(0, (num_samples, places)).transpose(1, 2).reshape(hidden.shape) + hidden
    hidden = feed_forward(block.ff, block.ff_norm(hidden)) + hidden
    rows = unflatten_places(linear(hidden, block.proj_out), rows) + rows
    return rows.unflatten(0, (num_samples, length)).transpose(1, 2)[:, :, num_past:].contiguous()
