"""What is known of a clip before sampling starts, as immutable values.

Axes: B samples, F frames, P past frames, L = H·W places, C channels, T tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

REGIONS = ("lip", "expression", "pose")


@dataclass(frozen=True)
class RegionMasks:
    """Soft masks of the three regions, one tensor per depth of the denoising network, values in [0, 1].

    Depth i has the latent size divided by 2**i, rounded up. The published code calls the last two regions `face` and `full`.
    """

    lip: tuple[Tensor, ...]  # each [B or 1, F or 1, H_i, W_i]
    expression: tuple[Tensor, ...]
    pose: tuple[Tensor, ...]

    def stacked(self, depth: int) -> Tensor:
        """[B or 1, F or 1, L, 3] in the order of REGIONS."""
        return torch.stack([getattr(self, region)[depth].flatten(-2) for region in REGIONS], dim=-1)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "RegionMasks":
        return RegionMasks(*(tuple(m.to(device, dtype) for m in getattr(self, region)) for region in REGIONS))


@dataclass(frozen=True)
class RegionScale:
    """How strongly the speech drives each region; 1 is as trained."""

    lip: float = 1.0
    expression: float = 1.0
    pose: float = 1.0


AS_TRAINED = RegionScale()


@dataclass(frozen=True)
class ReferenceFeatures:
    """What the reference network saw, one tensor per attention site in the order of execution."""

    sites: tuple[Tensor, ...]  # each [B, 1 + P, L, C]: the portrait, then the past frames

    def to(self, dtype: torch.dtype) -> "ReferenceFeatures":
        return ReferenceFeatures(tuple(site.to(dtype) for site in self.sites))


@dataclass(frozen=True)
class ClipInputs:
    """What a clip is made from. B may be two halves, the unconditional one first; `reference` may hold one sample for all.

    The first `num_blind` samples do not see the portrait, the first `num_silent` have zero audio tokens. A clip without audio
    tokens is one frame that hears nothing; a `still` clip is F independent pictures, and the motion modules do not run.
    """

    reference: ReferenceFeatures | None
    face_tokens: Tensor  # [B,T,C]
    audio_tokens: Tensor | None  # [B,F,T,C]
    location: Tensor | None  # [B,C,H,W] from the face locator
    masks: RegionMasks
    portrait_latents: Tensor | None = None  # [B,C,H,W], for networks that take the portrait with their input
    num_blind: int = 0
    num_silent: int = 0
    still: bool = False

    @property
    def num_frames(self) -> int:
        return 1 if self.audio_tokens is None else self.audio_tokens.shape[1]
