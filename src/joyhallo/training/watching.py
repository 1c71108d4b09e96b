"""What is seen of a run while it goes on: its losses on disk, curves, and from time to time videos of people it never saw."""

import logging
import time
from dataclasses import dataclass

from joyhallo.training.board import open_board
from joyhallo.training.loop import StepReport, Work
from joyhallo.training.recipes import Saving
from joyhallo.training.run_folder import RunFolder
from joyhallo.training.state import TrainingState
from joyhallo.training.validation import Validator, exchanged, held_out_loss

logger = logging.getLogger(__name__)
_NUM_HELD_OUT = 8  # samples whose loss is followed


@dataclass(frozen=True)
class HeldOut:
    """What a run is judged by; the same clips and the same noise every time."""

    validator: Validator
    work: Work


class Watch:
    """Keeps the record of a run; belongs to its first process."""

    def __init__(self, folder: RunFolder, state: TrainingState, saving: Saving, held_out: HeldOut | None) -> None:
        self.folder, self.state, self.saving, self.held_out = folder, state, saving, held_out
        folder.forget_after(state.step)
        self.board = open_board(folder.board, state.step)

    def note(self, report: StepReport) -> None:
        """Write a step down."""
        self.folder.note(report)
        if self.board is not None:
            numbers = {"loss": report.loss, "gradient norm": report.grad_norm, "learning rate": report.rate}
            numbers |= {"speed/samples per s": report.samples_per_s, "speed/frames per s": report.frames_per_s}
            if report.memory_bytes:
                numbers["speed/memory GiB"] = report.memory_bytes / 2**30
            self.board.scalars(report.step, numbers)

    def judge(self, report: StepReport) -> None:
        """Validate when it is time; after the checkpoint, so that what goes wrong here loses no step."""
        every = self.saving.validate_every_steps
        if every and self.held_out is not None and (report.step % every == 0 or report.step == report.num_steps):
            self.validate(report.step, self.held_out)

    def validate(self, step: int, held_out: HeldOut) -> None:
        """Videos and measures of the weights as they are handed out."""
        began = time.monotonic()
        with exchanged(self.state.parameters, self.state.handed_out()):
            found = held_out.validator.run(step, self.folder.validation)
            work = held_out.work
            loss = held_out_loss(work.load, work.losses, _NUM_HELD_OUT, work.num_at_once)
        measures = {"loss": loss, **found.measures}
        self.folder.note_validation(step, measures)
        if self.board is not None:
            self.board.scalars(step, {f"validation/{name}": value for name, value in measures.items()})
            self.board.picture(step, "validation", found.sheet)
        numbers = ", ".join(f"{name} {value:.4f}" for name, value in measures.items())
        logger.info("step %d on held-out clips: %s (%.0f s)", step, numbers, time.monotonic() - began)

    def close(self) -> None:
        if self.board is not None:
            self.board.close()
