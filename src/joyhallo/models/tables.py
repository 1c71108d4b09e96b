"""Numbers that a network holds and does not learn."""

from collections.abc import Callable

import torch
from torch import Tensor


def table(compute: Callable[[], Tensor]) -> Tensor:
    """What `compute` gives, where new tensors are made.

    It is computed on the CPU: arithmetic on the meta device, where networks are built to be loaded, imports PyTorch's compiler.
    """
    place = torch.get_default_device()
    with torch.device("cpu"):
        values = compute()
    return values.to(place)
