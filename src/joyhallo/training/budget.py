"""Training for a number of minutes: the schedule goes by the share of the time that has passed."""

import copy
import math
import time
from collections.abc import Iterator

import torch
from torch import nn


class Budget:
    """Iterate over training steps until the minutes are over; time inside `pause` blocks is not counted."""

    def __init__(self, minutes: float, warmup_steps: int = 100) -> None:
        self._seconds = minutes * 60
        self._warmup_steps = warmup_steps
        self._start = time.monotonic()
        self._paused_s = 0.0
        self._pause_start: float | None = None
        self.step = 0

    @property
    def fraction(self) -> float:
        """Share of the time that has passed, 0 to 1."""
        return min(1.0, (time.monotonic() - self._start - self._paused_s) / self._seconds)

    @property
    def factor(self) -> float:
        """Learning-rate factor: linear warm-up, flat half, cosine half down to 3 %."""
        warmup = min(1.0, (self.step + 1) / self._warmup_steps)
        fraction = self.fraction
        decay = 1.0 if fraction < 0.5 else max(0.03, 0.5 * (1 + math.cos(math.pi * (fraction - 0.5) / 0.5)))
        return warmup * decay

    def __iter__(self) -> Iterator[int]:
        while self.fraction < 1:
            yield self.step
            self.step += 1

    def __enter__(self) -> "Budget":
        self._pause_start = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        if self._pause_start is not None:
            self._paused_s += time.monotonic() - self._pause_start
        self._pause_start = None


class Average:
    """Exponential moving average of a network; buffers are copied."""

    def __init__(self, network: nn.Module, decay: float = 0.995) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._decay = decay
        self._num_updates = 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take the network's present weights in."""
        self._num_updates += 1
        decay = min(self._decay, self._num_updates / (self._num_updates + 20))
        for mine, new in zip(self.network.parameters(), network.parameters(), strict=True):
            mine.lerp_(new.detach(), 1 - decay)
        for mine, new in zip(self.network.buffers(), network.buffers(), strict=True):
            mine.copy_(new)
