"""The loop: batches by number, a loss per sample, an optimiser, moving averages, and what to do when numbers break.

It knows no objective and no network. Everything random comes from (seed, number of the sample), so a cut run goes on unchanged.
"""

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from joyhallo.errors import UserError
from joyhallo.training.distributed import Processes, synchronise, whole
from joyhallo.training.schedule import Schedule
from joyhallo.training.state import TrainingState

logger = logging.getLogger(__name__)
_AHEAD = 2  # portions that are read while one is computed


@dataclass(frozen=True)
class StepReport:
    """What one step did; `step` counts the steps done."""

    step: int
    num_steps: int
    loss: float
    grad_norm: float
    rate: float
    is_skipped: bool
    samples_per_s: float
    frames_per_s: float
    memory_bytes: int  # the most so far: of the GPU, or of the process on a CPU; 0 where it is not known
    left_s: float


@dataclass(frozen=True)
class Work:
    """What a loop is given to do.

    `load(numbers)` reads samples, in a thread; `losses(loaded)` gives their losses [B] on the training's device.
    """

    load: Callable[[list[int]], Any]
    losses: Callable[[Any], Tensor]
    num_samples: int  # of a step, over all processes
    num_at_once: int  # that a process computes together
    num_frames: int = 1  # of a sample

    def num_portions(self, processes: Processes) -> int:
        """How many portions of a step a process computes one after the other.

        Raises:
            UserError: a step's samples cannot be shared out evenly.
        """
        portions, rest = divmod(self.num_samples, self.num_at_once * processes.count)
        if rest or not portions:
            raise UserError(
                f"a step of {self.num_samples} samples cannot be shared by {processes.count} processes with {self.num_at_once} "
                "at once: set drawing.num_samples to a multiple of their product"
            )
        return portions


class Loop:
    """Steps of a run, from where its state is."""

    def __init__(
        self,
        work: Work,
        trainee: nn.Module,
        state: TrainingState,
        schedule: Schedule,
        processes: Processes,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """`trainee`: what `work.losses` calls; `dtype`: what products are computed in, float32 or bfloat16."""
        self.work, self.trainee, self.state, self.schedule = work, trainee, state, schedule
        self.processes, self.dtype = processes, dtype
        self.num_portions = work.num_portions(processes)
        self.wants_stop = False  # set from outside, by a signal; all processes then stop after the same step
        self.is_stopped = False
        self._bad_steps = 0
        self._started = 0.0

    def __iter__(self) -> Iterator[StepReport]:
        """Do the remaining steps, one for each report.

        Raises:
            UserError: the numbers were not finite for too many steps in a row.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="reading") as pool:
            ahead = self._reading(pool)
            self._started, first = time.monotonic(), self.state.step
            while self.state.step < self.schedule.num_steps and not self.is_stopped:
                report = self._step(ahead, first)
                yield report
            for future in ahead.waiting:
                future.cancel()

    def _reading(self, pool: ThreadPoolExecutor) -> "_Ahead":
        places = ((s, p) for s in range(self.state.step, self.schedule.num_steps) for p in range(self.num_portions))
        return _Ahead(pool, self.work.load, (self.numbers(*place) for place in places))

    def numbers(self, step: int, portion: int) -> list[int]:
        """The samples of one portion of this process, counted over the whole run.

        A portion holds neighbours, and portions go round the processes: one process with eight portions computes what eight
        processes with one do.
        """
        place = portion * self.processes.count + self.processes.rank
        first = step * self.work.num_samples + place * self.work.num_at_once
        return list(range(first, first + self.work.num_at_once))

    def _step(self, ahead: "_Ahead", first: int) -> StepReport:
        state, step = self.state, self.state.step
        rate = self.schedule.rate(step)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        total = torch.zeros((), dtype=torch.float64)
        for portion in range(self.num_portions):
            synchronise(self.trainee, self.processes, is_last=portion == self.num_portions - 1)
            with self._precision():
                loss = self.work.losses(ahead.take()).mean() / self.num_portions
            loss.backward()
            total += loss.detach().double().cpu()
        gradients = [p.grad for p in state.parameters.values() if p.grad is not None]
        norm = whole(get_total_norm(gradients)) if gradients else torch.zeros(())
        loss_value, wants_stop = self.processes.mean([total.item(), float(self.wants_stop)])
        is_good = math.isfinite(loss_value) and math.isfinite(norm.item())  # the same on all processes
        if is_good:
            clip_grads_with_norm_(state.parameters.values(), self.schedule.max_grad_norm, norm)
            state.optimizer.step()
            state.average()
        state.optimizer.zero_grad(set_to_none=True)
        state.step = step + 1
        self.is_stopped = wants_stop > 0
        self._judge(is_good, step, loss_value, norm.item())
        return self._report(first, loss_value, norm.item(), rate, not is_good)

    def _precision(self) -> AbstractContextManager[Any]:
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.processes.device.type, dtype=self.dtype)

    def _judge(self, is_good: bool, step: int, loss: float, norm: float) -> None:
        self._bad_steps = 0 if is_good else self._bad_steps + 1
        if is_good:
            return
        logger.warning("step %d skipped: loss %s, gradient norm %s", step + 1, loss, norm)
        if self._bad_steps >= self.schedule.max_bad_steps:
            raise UserError(
                f"{self._bad_steps} steps in a row, up to step {step + 1}, gave no finite loss or gradient: go on from the "
                "last checkpoint with --resume and --dtype fp32, or start anew with a lower schedule.learning_rate"
            )

    def _report(self, first: int, loss: float, norm: float, rate: float, is_skipped: bool) -> StepReport:
        done, num_steps = self.state.step, self.schedule.num_steps
        pace_s = (time.monotonic() - self._started) / (done - first)
        per_s = self.work.num_samples / max(pace_s, 1e-9)
        return StepReport(
            done, num_steps, loss, norm, rate, is_skipped,
            samples_per_s=per_s,
            frames_per_s=per_s * self.work.num_frames,
            memory_bytes=peak_memory(self.processes.device),
            left_s=pace_s * (num_steps - done),
        )  # fmt: skip


def peak_memory(device: torch.device) -> int:
    """Bytes: what PyTorch had of the GPU at most, or what the process had of the machine; 0 where it is not known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform != "linux" or device.type != "cpu":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class _Ahead:
    """Portions read ahead of their use, in order."""

    def __init__(self, pool: ThreadPoolExecutor, load: Callable[[list[int]], Any], numbers: Iterator[list[int]]) -> None:
        self._pool, self._load, self._numbers = pool, load, numbers
        self.waiting: list[Future[Any]] = []
        self._fill()

    def _fill(self) -> None:
        while len(self.waiting) < _AHEAD and (numbers := next(self._numbers, None)) is not None:
            self.waiting.append(self._pool.submit(self._load, numbers))

    def take(self) -> Any:  # noqa: ANN401 (whatever was loaded)
        loaded = self.waiting.pop(0).result()
        self._fill()
        return loaded
