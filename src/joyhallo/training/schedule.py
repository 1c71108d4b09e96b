"""How long a run trains, how fast and with what optimiser."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    """How long, how fast, and how the weights move."""

    num_steps: int
    learning_rate: float
    warmup_steps: int = 100
    decay_from: float = 0.6  # share of the steps after which the rate falls along a cosine to 2 %; 1: it never does
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 1e-2
    max_grad_norm: float = 1.0
    ema_decay: float = 0.999  # of the averaged weights that are handed out; 0: no average
    checkpointing: bool = False  # less memory, about a third more time
    max_bad_steps: int = 20  # steps in a row without finite numbers after which the run gives up

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        warm = min(1.0, (step + 1) / max(self.warmup_steps, 1))
        late = max(0.0, step / self.num_steps - self.decay_from) / max(1 - self.decay_from, 1e-9)
        return self.learning_rate * warm * max(0.02, 0.5 * (1 + math.cos(math.pi * late)))
