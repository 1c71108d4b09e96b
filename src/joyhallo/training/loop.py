"""The loop: a stream of batches, a loss per sample, an optimiser, moving averages, checkpoints.

It knows no objective and no network; everything random comes from (seed, step), so a cut run goes on unchanged.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from joyhallo.sampling.noise import seeded_generator
from joyhallo.training.state import TrainingState

logger = logging.getLogger(__name__)
Sample = TypeVar("Sample")


@dataclass(frozen=True)
class Schedule:
    """How long and how fast."""

    num_steps: int
    learning_rate: float
    warmup_steps: int = 100
    decay_from: float = 0.6  # share of the steps after which the rate falls along a cosine to 2 %
    ema_decay: float = 0.999
    max_grad_norm: float = 1.0
    weight_decay: float = 1e-2
    save_every_s: float = 120.0

    def rate(self, step: int) -> float:
        """The learning rate of a step; constant after the warm-up when `decay_from` is 1."""
        warm = min(1.0, (step + 1) / max(self.warmup_steps, 1))
        late = max(0.0, step / self.num_steps - self.decay_from) / max(1 - self.decay_from, 1e-9)
        return self.learning_rate * warm * max(0.02, 0.5 * (1 + math.cos(math.pi * late)))


def step_generator(seed: int, step: int) -> torch.Generator:
    """The randomness of one step."""
    return seeded_generator(seed, step)


def train(
    modules: Mapping[str, nn.Module],
    batch_for: Callable[[torch.Generator], Sample],
    loss_of: Callable[[Sample, torch.Generator], Tensor],
    schedule: Schedule,
    folder: Path,
    seed: int = 42,
) -> TrainingState:
    """Minimise the mean of the per-sample losses; goes on from the last checkpoint in the folder.

    Args:
        modules: what to train; parameters with requires_grad off stay as they are.
        batch_for: draws a batch from a step's generator.
        loss_of: per-sample losses [B] of a batch, with the step's generator.

    Steps whose loss or gradients are not finite are skipped and logged.
    """
    parameters = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=schedule.learning_rate, betas=(0.9, 0.98), weight_decay=schedule.weight_decay)
    state = TrainingState(modules, optimizer, schedule.ema_decay)
    state.resume(folder)
    saved = started = time.monotonic()
    first, losses = state.step, []
    for step in range(state.step, schedule.num_steps):
        generator = step_generator(seed, step)
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        loss = loss_of(batch_for(generator), generator).mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, schedule.max_grad_norm)
        if torch.isfinite(loss) and torch.isfinite(norm):
            optimizer.step()
            state.average()
            losses.append(loss.item())
        else:
            logger.warning("step %d skipped: loss %s, gradient norm %s", step, loss.item(), norm.item())
        optimizer.zero_grad(set_to_none=True)
        state.step = step + 1
        if state.step % 25 == 0:
            pace = (time.monotonic() - started) / (state.step - first)
            left = pace * (schedule.num_steps - state.step) / 60
            logger.info("step %d loss %.4f, %.2f s a step, %.0f min left", state.step, mean(losses[-100:]), pace, left)
        if time.monotonic() - saved > schedule.save_every_s:
            state.save(folder)
            saved = time.monotonic()
    state.save(folder)
    return state


def mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values) if values else math.nan
