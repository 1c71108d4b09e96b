"""The two networks: one U-Net body, two sets of attention sites.

The reference network's sites hand out what they see; the denoising network's sites take it in, listen to the speech and look
along time. Everything that stays fixed over the steps of a clip is computed by `DenoisingNetwork.condition`, once.

Axes: B samples, F frames, P past frames, N = B·F rows, L = H·W places, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from joyhallo.models.attention import AudioAttention, AudioModule, FoldedTokens, KeysValues, PortraitKeys, SpatialTransformer
from joyhallo.models.blocks import RESNET_EPS
from joyhallo.models.body import Body, SitePlan
from joyhallo.models.conditions import ClipInputs, ReferenceFeatures, RegionScale
from joyhallo.models.motion import MotionModule, PastRows
from joyhallo.models.recompute import runner

RowOrder = Literal["aligned", "interleaved"]
AS_TRAINED = RegionScale()


class ReferenceNetwork(ModelMixin, ConfigMixin):
    """Looks at the portrait and the past frames, at timestep 0, and hands out what its attention sites see.

    `row_order="interleaved"` gives row i the face tokens of sample i % B, as the published code does; "aligned" gives every row
    its own sample's.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 4,
        widths: Sequence[int] = (320, 640, 1280, 1280),
        attention_levels: Sequence[bool] = (True, True, True, False),
        layers_per_level: int = 2,
        num_heads: int = 8,
        num_groups: int = 32,
        face_dim: int = 768,
        row_order: RowOrder = "aligned",
    ) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        make_site = lambda plan: SpatialTransformer(plan.channels, num_heads, face_dim, num_groups)  # noqa: E731
        self.body = Body(widths, attention_levels, layers_per_level, num_groups, make_site)

    def forward(self, latents: Tensor, face_tokens: Tensor, checkpointing: bool = False) -> ReferenceFeatures:
        """Latents [B,1+P,C,H,W] of the portrait and the past frames, face tokens [B,T,C].

        With `checkpointing` a training step needs less memory and more time; nothing else changes.
        """
        num_samples, num_rows = latents.shape[:2]
        if self.config["row_order"] == "interleaved":
            face_tokens = face_tokens.repeat(num_rows, 1, 1)
        features: list[Tensor] = []
        num_sites = len(list(self.body.sites()))
        run = runner(checkpointing)

        def attend(site: SpatialTransformer, _depth: int, x: Tensor) -> Tensor:
            is_last = len(features) == num_sites - 1
            seen, x = run(look, site, x, None if is_last else face_tokens)
            features.append(seen.unflatten(0, (num_samples, num_rows)))
            return x

        x = self.conv_in(latents.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        timestep = torch.zeros(1, device=latents.device)
        self.body(x, timestep, attend, run)
        return ReferenceFeatures(tuple(features))


def look(site: SpatialTransformer, x: Tensor, face_tokens: Tensor | None) -> tuple[Tensor, Tensor]:
    """What a site of the reference network sees, [N,L,C], and what goes on, [N,C,H,W].

    Without face tokens nothing goes on: what comes after the last site cannot be seen from outside.
    """
    hidden = site.enter(x)
    seen = site.self_norm(hidden)
    if face_tokens is None:
        return seen, x
    hidden = hidden + site.attend_self(seen, None)
    return seen, site.finish(x, hidden, site.face_attention.fold(face_tokens))


class Site(nn.Module):
    """An attention site of the denoising network: the portrait and the face, then the speech, then time."""

    def __init__(self, spatial: SpatialTransformer, audio: AudioModule, motion: MotionModule) -> None:
        super().__init__()
        self.spatial = spatial
        self.audio = audio
        self.motion = motion


@dataclass(frozen=True)
class SiteConditioning:
    """What one attention site needs in every step of a clip."""

    face: FoldedTokens
    portrait: PortraitKeys | None
    audio: tuple[KeysValues, ...]  # rows [R,h,T,D] of the samples that hear it; empty: no audio module runs
    past: PastRows | None  # None: no motion module runs


@dataclass(frozen=True)
class Conditioning:
    """A clip's conditions, ready for every step: keys and values projected, masks laid out."""

    sites: tuple[SiteConditioning, ...]
    region_masks: tuple[Tensor, ...]  # per depth [N,L,3]
    region_scale: Tensor  # [3]
    location: Tensor | None  # [B,C,H,W]
    portrait_latents: Tensor | None  # [B,C,H,W]


class DenoisingNetwork(ModelMixin, ConfigMixin):
    """Predicts the velocity of a clip's latents.

    `row_order="interleaved"` lets row i of the N = B·F rows see the portrait of sample i % B, as the published checkpoints were
    trained and are run; "aligned" shows every frame its own sample's. `portrait_in_input` puts the portrait's latents beside
    every frame's. `blind_past_frames` zero frames stand for the past where there is no reference.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 4,
        widths: Sequence[int] = (320, 640, 1280, 1280),
        attention_levels: Sequence[bool] = (True, True, True, False),
        layers_per_level: int = 2,
        num_heads: int = 8,
        num_groups: int = 32,
        face_dim: int = 768,
        audio_dim: int = 768,
        audio_attention: AudioAttention = "semi_decoupled",
        motion_heads: int = 8,
        max_motion_length: int = 32,
        row_order: RowOrder = "aligned",
        portrait_in_input: bool = False,
        blind_past_frames: int = 4,
    ) -> None:
        super().__init__()

        def make_site(plan: SitePlan) -> Site:
            width, inner = plan
            return Site(
                SpatialTransformer(width, num_heads, face_dim, num_groups),
                AudioModule(width, inner, num_heads, audio_dim, num_groups, audio_attention),
                MotionModule(width, motion_heads, max_motion_length, num_groups),
            )

        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.body = Body(widths, attention_levels, layers_per_level, num_groups, make_site)
        self.norm_out = nn.GroupNorm(num_groups, widths[0], RESNET_EPS)
        self.conv_out = nn.Conv2d(widths[0], out_channels, 3, padding=1)

    @property
    def plan(self) -> list[tuple[int, Site]]:
        """The attention sites in the order of execution, each with its depth."""
        return list(self.body.sites())

    def condition(self, inputs: ClipInputs, scale: RegionScale = AS_TRAINED, checkpointing: bool = False) -> Conditioning:
        """Everything about a clip that its steps share. With `checkpointing`, training needs less memory and more time.

        Raises:
            ValueError: the clip with its past frames is longer than the table of positions.
        """
        tokens, run = inputs.face_tokens, runner(checkpointing)
        num_samples, num_frames = len(tokens), inputs.num_frames
        masks = [inputs.masks.stacked(depth).to(tokens) for depth in range(len(inputs.masks.lip))]
        return Conditioning(
            tuple(run(self.condition_site, i, inputs) for i in range(len(self.plan))),
            tuple(m.expand(num_samples, num_frames, *m.shape[2:]).flatten(0, 1) for m in masks),
            tokens.new_tensor([scale.lip, scale.expression, scale.pose]),
            inputs.location,
            inputs.portrait_latents,
        )

    def condition_site(self, index: int, inputs: ClipInputs) -> SiteConditioning:
        depth, site = self.plan[index]
        num_samples = len(inputs.face_tokens)
        portrait = None
        if inputs.reference is None:
            num_places = inputs.masks.lip[depth].shape[-2:].numel()
            blind = self.config["blind_past_frames"], num_places, site.spatial.proj_in.out_features
            past = inputs.face_tokens.new_zeros(num_samples, *blind)
        else:
            features = inputs.reference.sites[index]  # [B or 1, 1+P, L, C]
            rows = self.portrait_rows(len(features), inputs)
            if len(rows):
                portrait = PortraitKeys(site.spatial.self_attention.project(features[:, 0]), rows)
            past = features[:, 1:]
        audio = (
            () if inputs.audio_tokens is None else site.audio.project(inputs.audio_tokens[inputs.num_silent :].flatten(0, 1))
        )
        return SiteConditioning(
            site.spatial.face_attention.fold(inputs.face_tokens),
            portrait,
            audio,
            None if inputs.still else self.prepare_past(site.motion, past, inputs),
        )

    def prepare_past(self, motion: MotionModule, past: Tensor, inputs: ClipInputs) -> PastRows:
        longest = self.config["max_motion_length"]
        if past.shape[1] + inputs.num_frames > longest:
            raise ValueError(
                f"a clip of {inputs.num_frames} frames with {past.shape[1]} past; these weights know {longest} positions: "
                f"shorten the clip to {longest - past.shape[1]} frames"
            )
        return motion.prepare(past).expand(len(inputs.face_tokens))

    def portrait_rows(self, num_portraits: int, inputs: ClipInputs) -> Tensor:
        """Which of the portraits each seeing row looks at, [(B - num_blind)·F]."""
        num_samples, num_frames = len(inputs.face_tokens), inputs.num_frames
        rows = torch.arange(num_samples * num_frames, device=inputs.face_tokens.device)
        rows = rows % num_samples if self.config["row_order"] == "interleaved" else rows // num_frames
        return (rows if num_portraits > 1 else torch.zeros_like(rows))[inputs.num_blind * num_frames :]

    def forward(self, latents: Tensor, timestep: Tensor, conditioning: Conditioning, checkpointing: bool = False) -> Tensor:
        """Noisy latents [B,C,F,H,W] at timesteps [1], [B] or, still, [B·F] → velocity [B,C,F,H,W].

        With `checkpointing` a training step needs less memory and more time; nothing else changes.
        """
        num_frames = latents.shape[2]
        if conditioning.portrait_latents is not None:
            portrait = conditioning.portrait_latents[:, :, None].expand(-1, -1, num_frames, -1, -1)
            latents = torch.cat([latents, portrait], dim=1)
        rows = latents.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        x = self.conv_in(rows)
        if conditioning.location is not None:
            x = x + conditioning.location.repeat_interleave(num_frames, dim=0)
        sites, run = iter(conditioning.sites), runner(checkpointing)

        def attend(site: Site, depth: int, x: Tensor) -> Tensor:
            given = next(sites)
            x = run(site.spatial, x, given.face, given.portrait)
            if given.audio:
                x = run(site.audio, x, given.audio, conditioning.region_masks[depth], conditioning.region_scale)
            return x if given.past is None else run(site.motion, x, given.past)

        x = self.body(x, timestep, attend, run)
        velocity = self.conv_out(F.silu(self.norm_out(x)))
        return velocity.unflatten(0, (-1, num_frames)).transpose(1, 2)
