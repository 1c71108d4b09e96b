"""Pictures as the small networks of `mini` take them."""

import numpy as np
import torch
from torch import Tensor, nn

from joyhallo.models.latents import to_pixels


def to_network(images: np.ndarray) -> Tensor:
    """uint8 [N, H, W, 3] → float32 [N, 3, H, W] in [-1, 1], channels last in memory, which convolutions are quicker on."""
    return to_pixels(np.array(images)).contiguous(memory_format=torch.channels_last)


def prefer_channels_last(network: nn.Module) -> None:
    """Lay the weights of convolutions out as `to_network` lays out pictures."""
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
