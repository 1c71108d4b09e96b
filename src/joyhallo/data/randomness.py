"""Random numbers of a training run by what they are for: no state, so a run that was cut goes on as if nothing had happened.

Every stream is keyed by the run's seed, a purpose and a number (of a sample, counted over the whole run, or of an epoch).
Neither the step at which a process started nor the number of processes changes what a stream gives.
"""

from typing import Literal, get_args

import numpy as np

Purpose = Literal["order", "pick", "latents", "coins", "noise", "start"]
_LARGEST = 2**56


def stream(seed: int, purpose: Purpose, number: int) -> np.random.Generator:
    """The stream of one purpose and number.

    Raises:
        ValueError: a number that is negative or beyond 2**56.
    """
    if not 0 <= number < _LARGEST:
        raise ValueError(f"stream number {number} is outside 0 … 2**56")
    key = (seed % 2**64, get_args(Purpose).index(purpose) << 56 | number)
    return np.random.Generator(np.random.Philox(key=np.array(key, np.uint64)))
