"""Training for a number of minutes (the schedule goes by the share of the time that has passed), and averaged weights."""

import copy
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)
_DECAY = 0.995  # of the average, once there are enough steps


class Budget:
    """Iterate over training steps until the minutes are over; time inside `paused` blocks is not counted."""

    def __init__(self, minutes: float, warmup_steps: int, report_every_s: float) -> None:
        """`warmup_steps`: how long the learning rate rises; `report_every_s`: how often `is_report_due` says yes."""
        self._seconds = minutes * 60
        self._warmup_steps = warmup_steps
        self._report_every_s = self._next_report_s = report_every_s
        self._start = time.monotonic()
        self._paused_s = 0.0
        self._step = 0

    @property
    def _passed_s(self) -> float:
        return time.monotonic() - self._start - self._paused_s

    @property
    def fraction(self) -> float:
        """Share of the time that has passed, 0 to 1."""
        return min(1.0, self._passed_s / self._seconds)

    @property
    def factor(self) -> float:
        """Learning-rate factor: linear warm-up, flat half, cosine half down to 3 %."""
        warmup = min(1.0, (self._step + 1) / self._warmup_steps)
        fraction = self.fraction
        decay = 1.0 if fraction < 0.5 else max(0.03, 0.5 * (1 + math.cos(math.pi * (fraction - 0.5) / 0.5)))
        return warmup * decay

    def is_report_due(self) -> bool:
        """Whether it is time for the next report; true once for each."""
        is_due = self._passed_s >= self._next_report_s
        if is_due:
            self._next_report_s = self._passed_s + self._report_every_s
        return is_due

    def __iter__(self) -> Iterator[int]:
        while self.fraction < 1:
            yield self._step
            self._step += 1

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time inside is not counted."""
        start = time.monotonic()
        yield
        self._paused_s += time.monotonic() - start


class Average(Generic[Network]):
    """Exponential moving average of a network; buffers are copied."""

    def __init__(self, network: Network) -> None:
        self.network: Network = copy.deepcopy(network).eval().requires_grad_(False)
        self._num_updates = 0

    @torch.no_grad()
    def update(self, network: Network) -> None:
        """Take the network's present weights in."""
        self._num_updates += 1
        decay = min(_DECAY, self._num_updates / (self._num_updates + 20))
        for mine, new in zip(self.network.parameters(), network.parameters(), strict=True):
            mine.lerp_(new.detach(), 1 - decay)
        for mine, new in zip(self.network.buffers(), network.buffers(), strict=True):
            mine.copy_(new)
