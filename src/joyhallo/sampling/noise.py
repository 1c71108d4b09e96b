"""Initial noise that depends on the seed and the clip's number alone: not on the device, not on where a run was cut.

Axes: B = 1 sample, C channels, F frames, H and W the latent place.
"""

import hashlib

import torch
from torch import Tensor

SHARED = 2**32 - 1


def seeded_generator(seed: int, stream: int) -> torch.Generator:
    """A generator on the CPU for one of the 2**32 streams of a seed.

    PyTorch's generator on the CPU uses the lower 32 bits of its seed alone, so both numbers are mixed into these: streams of
    one seed never coincide, those of two seeds by chance only.
    """
    start = int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:4], "little")
    return torch.Generator().manual_seed((start + stream) % 2**32)


def _normal(seed: int, stream: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=seeded_generator(seed, stream))


def clip_noise(seed: int, clip_index: int, shape: tuple[int, int, int, int], shared: float = 0.0) -> Tensor:
    """Unit-variance noise [1,C,F,H,W] of one clip, on the CPU in float32.

    Args:
        seed: any whole number.
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
