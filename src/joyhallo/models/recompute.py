"""Memory for time: what a part of a network computes on the way is dropped, and computed again in the backward pass.

Nothing is remembered on a module: whoever calls a network says whether it should.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

Run = Callable[..., Any]


def runner(checkpointing: bool) -> Run:
    """How to call a part of a network: `run(part, *inputs)` gives what `part(*inputs)` gives, and the same gradients.

    With `checkpointing` only the inputs are kept for the backward pass. Not the reentrant way: that one gives no gradient to
    a part whose inputs need none, such as the first trained module behind frozen ones.
    """
    return _recompute if checkpointing and torch.is_grad_enabled() else _call


def _call(part: Run, *inputs: Any) -> Any:  # noqa: ANN401 (whatever the part takes and gives)
    return part(*inputs)


def _recompute(part: Run, *inputs: Any) -> Any:  # noqa: ANN401
    return checkpoint(part, *inputs, use_reentrant=False, preserve_rng_state=False)  # nothing in the networks is random
