"""What is known of a clip before sampling starts, as immutable values.

Axes: B batch, F frames, P past frames, N = B·F rows, L = H·W places, C channels, T tokens.
"""

from dataclasses import dataclass

from torch import Tensor

REGIONS = ("lip", "expression", "pose")


@dataclass(frozen=True)
class RegionMasks:
    """Soft masks of the three regions, one tensor per depth of the denoising network, values in [0, 1].

    The depth i has the latent size divided by 2**i, rounded up. The published code calls the last two regions `face` and `full`.
    """

    lip: tuple[Tensor, ...]  # each [B or 1, F or 1, H_i, W_i]
    expression: tuple[Tensor, ...]
    pose: tuple[Tensor, ...]


@dataclass(frozen=True)
class RegionScale:
    """How strongly the speech drives each region; 1 is as trained."""

    lip: float = 1.0
    expression: float = 1.0
    pose: float = 1.0
