"""How different pictures look: brightness before colour, edges beside areas, coarse beside fine."""

import torch
from torch import Tensor
from torch.nn import functional

_LUMA = (0.30, 0.59, 0.11)


def visible_difference(pictures: Tensor, wanted: Tensor) -> Tensor:
    """Of pictures [N,3,H,W] in [-1,1], one number each: [N].

    Mean absolute differences of brightness, colour (1.5) and neighbours, and of everything at a half and a quarter of the size
    (0.5 each).
    """
    difference = pictures - wanted
    weights = torch.tensor(_LUMA, dtype=wanted.dtype, device=wanted.device).view(1, 3, 1, 1)
    luma = (difference * weights).sum(1, keepdim=True)
    loss = _mean(luma) + 1.5 * _mean(difference - luma) + _mean(difference.diff(dim=2)) + _mean(difference.diff(dim=3))
    for _ in range(2):
        difference = functional.avg_pool2d(difference, 2)
        loss = loss + 0.5 * _mean(difference)
    return loss


def _mean(difference: Tensor) -> Tensor:
    return difference.abs().mean(dim=(1, 2, 3))
