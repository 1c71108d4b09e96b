"""Classifier-free guidance: an unconditional half beside the conditional one.

Axes: B samples, F frames, C channels. The unconditional half always comes first.
"""

from collections.abc import Collection
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from joyhallo.models.conditions import ClipInputs

Condition = Literal["portrait", "face", "audio", "location"]
PUBLISHED_DROPS: tuple[Condition, ...] = ("portrait", "face", "audio", "location")


def with_unconditional(inputs: ClipInputs, drops: Collection[str], no_face: Tensor) -> ClipInputs:
    """Put an unconditional half before a clip's inputs: the same without the conditions that it drops.

    Args:
        inputs: one clip [B=1,…]; its reference features serve both halves, or hold one sample for each.
        drops: what the unconditional half goes without. Without `portrait` it still sees the past frames.
        no_face: the face tokens that stand for no face, [1,T,C].
    """

    def doubled(given: Tensor | None, condition: Condition | None = None) -> Tensor | None:
        if given is None:
            return None
        return torch.cat([torch.zeros_like(given) if condition in drops else given, given])

    face = inputs.face_tokens
    return replace(
        inputs,
        face_tokens=torch.cat([no_face if "face" in drops else face, face]),
        audio_tokens=doubled(inputs.audio_tokens, "audio"),
        location=doubled(inputs.location, "location"),
        portrait_latents=doubled(inputs.portrait_latents),
        num_blind=1 if "portrait" in drops else 0,
        num_silent=1 if "audio" in drops else 0,
    )


def conditional_half(inputs: ClipInputs) -> ClipInputs:
    """What `with_unconditional` put an unconditional half before."""
    return _sample(inputs, slice(-1, None))


def unconditional_frame(inputs: ClipInputs) -> ClipInputs:
    """The first frame of the half that `with_unconditional` put before a clip's inputs and that hears nothing."""
    half = _sample(inputs, slice(0, 1))
    assert half.audio_tokens is not None, "a clip that hears nothing anyway has one frame"
    return replace(half, audio_tokens=half.audio_tokens[:, :1], num_blind=inputs.num_blind, num_silent=1)


def _sample(inputs: ClipInputs, which: slice) -> ClipInputs:
    """One of the samples, as if it were neither blind nor silent."""
    seen = inputs.reference

    def own(given: Tensor | None) -> Tensor | None:
        return None if given is None else given[which]

    return replace(
        inputs,
        reference=None if seen is None else replace(seen, sites=tuple(site[which] for site in seen.sites)),
        face_tokens=inputs.face_tokens[which],
        audio_tokens=own(inputs.audio_tokens),
        location=own(inputs.location),
        portrait_latents=own(inputs.portrait_latents),
        num_blind=0,
        num_silent=0,
    )


def combine(velocity: Tensor, scale: float) -> Tensor:
    """[2B,…] unconditional and conditional → [B,…] guided: u + scale·(c - u)."""
    unconditional, conditional = velocity.chunk(2)
    return unconditional + scale * (conditional - unconditional)
