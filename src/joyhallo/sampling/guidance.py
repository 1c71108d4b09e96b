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


def with_unconditional(inputs: ClipInputs, drops: Collection[Condition], no_face: Tensor) -> ClipInputs:
    """Put an unconditional half before a clip's inputs: the same without the conditions that it drops.

    Args:
        inputs: one clip [B=1,…]; its reference features serve both halves, or hold one sample for each.
        drops: what the unconditional half goes without. Without `portrait` it still sees the past frames.
        no_face: the face tokens that stand for no face, [1,T,C].
    """
    audio, face, location = inputs.audio_tokens, inputs.face_tokens, inputs.location
    return replace(
        inputs,
        face_tokens=torch.cat([no_face if "face" in drops else face, face]),
        audio_tokens=torch.cat([torch.zeros_like(audio) if "audio" in drops else audio, audio]),
        location=None
        if location is None
        else torch.cat([torch.zeros_like(location) if "location" in drops else location, location]),
        portrait_latents=None if inputs.portrait_latents is None else inputs.portrait_latents.expand(2, -1, -1, -1),
        num_blind=1 if "portrait" in drops else 0,
        num_silent=1 if "audio" in drops else 0,
    )


def combine(velocity: Tensor, scale: float) -> Tensor:
    """[2B,…] unconditional and conditional → [B,…] guided: u + scale·(c - u)."""
    unconditional, conditional = velocity.chunk(2)
    return unconditional + scale * (conditional - unconditional)
