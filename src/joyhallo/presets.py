"""Named configurations: the arguments of every network of a system."""

from dataclasses import dataclass, field, replace
from typing import Any

Config = dict[str, Any]


@dataclass(frozen=True)
class Preset:
    """The configurations of one system's networks, as keyword arguments of their classes."""

    reference_network: Config = field(default_factory=dict)
    denoising_network: Config = field(default_factory=dict)
    face_projector: Config = field(default_factory=dict)
    audio_projector: Config = field(default_factory=dict)
    face_locator: Config = field(default_factory=dict)


def joyhallo() -> Preset:
    """JoyHallo-v1 (arXiv 2409.13268): Stable Diffusion 1.5 widths, semi-decoupled audio attention."""
    quirk = {"row_order": "interleaved"}
    return Preset(reference_network=quirk, denoising_network=quirk)


def hallo() -> Preset:
    """Hallo: the same with decoupled audio attention."""
    published = joyhallo()
    return replace(published, denoising_network=published.denoising_network | {"audio_attention": "decoupled"})
