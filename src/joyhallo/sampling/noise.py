"""Initial noise that depends on the seed and the clip's number alone: not on the device, not on where a run was cut.

Axes: B = 1 sample, C channels, F frames, H and W the latent place.
"""

import torch
from torch import Tensor

SHARED = 2**32 - 1


def _normal(seed: int, stream: int, shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed((seed % 2**31) * 2**32 + stream)
    return torch.randn(shape, generator=generator)


def clip_noise(seed: int, clip_index: int, shape: tuple[int, int, int, int], shared: float = 0.0) -> Tensor:
    """Unit-variance noise [1,C,F,H,W] of one clip, on the CPU in float32.

    Args:
        seed: any non-negative number.
        clip_index: which clip of the video, from 0.
        shape: (C, F, H, W).
        shared: the part of the variance, in [0, 1], that all frames of all clips have in common. Weights trained with it give
            steadier video; the published weights have none.
    """
    channels, num_frames, height, width = shape
    own = _normal(seed, clip_index, (1, channels, num_frames, height, width))
    if not shared:
        return own
    common = _normal(seed, SHARED, (1, channels, 1, height, width))
    return shared**0.5 * common + (1 - shared) ** 0.5 * own
