"""Curves and pictures of a run for TensorBoard, which need not be there: a run's losses are in its folder in any case."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np

from joyhallo.errors import UserError

logger = logging.getLogger(__name__)
INSTALL = "pip install 'joyhallo[train]'"


class Board:
    """Context manager that writes TensorBoard's event files.

    Raises:
        UserError: TensorBoard is not installed, or the folder cannot be written.
    """

    def __init__(self, folder: Path, after_step: int = 0) -> None:
        """`after_step`: where a run goes on; what an earlier process wrote of later steps is hidden."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError(f"curves need TensorBoard, which is not here: {INSTALL}") from error
        try:
            self.writer = SummaryWriter(folder, purge_step=after_step + 1 if after_step else None, flush_secs=30)
        except OSError as error:
            raise UserError(f"{folder} cannot be written ({error.strerror}): give another folder for the run") from error

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to every curve; what is not finite is left out."""
        for name, value in values.items():
            if math.isfinite(value):
                self.writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """Add a picture [H,W,3] uint8."""
        self.writer.add_image(name, picture, step, dataformats="HWC")

    def text(self, name: str, text: str) -> None:
        """Add a text, such as the recipe of the run."""
        self.writer.add_text(name, text)

    def close(self) -> None:
        self.writer.close()

    def __enter__(self) -> "Board":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def open_board(folder: Path, after_step: int = 0) -> Board | None:
    """A board where TensorBoard is installed; otherwise None, and one line that says how to install it."""
    try:
        return Board(folder, after_step)
    except UserError as error:
        logger.warning("no curves: %s", error)
        return None
