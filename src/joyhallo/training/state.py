"""All that a training run must remember to go on: trained weights, their moving average, the optimiser, the step.

A checkpoint is a folder in the format of `torch.distributed.checkpoint`: every process writes its part, and any number of
processes reads it. It gets its name when it is whole.
"""

import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from joyhallo.errors import UserError
from joyhallo.training.distributed import Processes, local

_PREFIX = "step_"
_TORCH_LOG = "c10d-NullHandler-dcp_logger"


class TrainingState:
    """The state of a run. `parameters`: those that are trained, by `component.path`; `tools`: tensors of what trains them."""

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        ema_decay: float,
        tools: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.parameters = dict(parameters)
        self.tools = dict(tools or {})
        self.optimizer = optimizer
        self.ema_decay = ema_decay
        self.step = 0
        self.averages = {name: p.detach().clone() for name, p in self.parameters.items()} if ema_decay else {}

    @torch.no_grad()
    def average(self) -> None:
        """Move the averages towards the weights; slower the older the run."""
        decay = min(self.ema_decay, (self.step + 1) / (self.step + 10))
        for name, average in self.averages.items():
            local(average).lerp_(local(self.parameters[name].detach()), 1 - decay)

    def handed_out(self) -> Mapping[str, Tensor]:
        """The trained weights as they are used later: averaged where there is an average."""
        return self.averages or self.parameters

    def content(self) -> dict[str, Any]:
        """Everything as a flat table."""
        content: dict[str, Any] = {"step": torch.tensor(self.step)} | {f"tools.{name}": t for name, t in self.tools.items()}
        for name, parameter in self.parameters.items():
            content[f"weights.{name}"] = parameter.detach()
            for key, value in self.optimizer.state.get(parameter, {}).items():
                content[f"optimizer.{name}.{key}"] = value
        return content | {f"averages.{name}": average for name, average in self.averages.items()}

    def save(self, folder: Path, keep: int, processes: Processes) -> Path:
        """Write a checkpoint below `folder`, whole or not at all, and remove all but the last `keep`.

        Raises:
            UserError: it cannot be written.
        """
        final = folder / f"{_PREFIX}{self.step:08d}"
        partial = folder / f".{final.name}.partial"
        if processes.is_first:
            for left in folder.glob(f".{_PREFIX}*.partial"):
                shutil.rmtree(left)
            partial.mkdir(parents=True)
        processes.wait()
        with _quiet():
            try:
                dcp.save(self.content(), storage_writer=dcp.FileSystemWriter(partial), no_dist=not processes.is_connected)
            except dcp.api.CheckpointException as error:
                raise UserError(f"the checkpoint {final} cannot be written ({_reason(error)}): check the disk") from error
        processes.wait()
        if processes.is_first:
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            for old in checkpoints(folder)[:-keep]:
                shutil.rmtree(old)
        processes.wait()
        return final

    def resume(self, folder: Path, processes: Processes) -> bool:
        """Load the last checkpoint below `folder`, if there is one.

        Raises:
            UserError: it is of other networks, or cannot be read.
        """
        found = checkpoints(folder)
        if not found:
            return False
        try:
            stored = dcp.FileSystemReader(found[-1]).read_metadata().state_dict_metadata
        except (OSError, EOFError, ValueError) as error:
            again = "remove it to go on from the one before"
            raise UserError(f"the checkpoint {found[-1]} cannot be read ({error}): {again}") from error
        self._check(stored, found[-1])
        self._make_room(stored)
        content = self.content()
        with _quiet():
            try:
                dcp.load(content, storage_reader=dcp.FileSystemReader(found[-1]), no_dist=not processes.is_connected)
            except dcp.api.CheckpointException as error:
                again = "remove it to go on from the one before"
                raise UserError(f"the checkpoint {found[-1]} cannot be read ({_reason(error)}): {again}") from error
        self.step = int(content["step"])
        for name, parameter in self.parameters.items():
            for key in self.optimizer.state.get(parameter, {}):
                self.optimizer.state[parameter][key] = content[f"optimizer.{name}.{key}"]
        return True

    def _check(self, stored: Mapping[str, Any], path: Path) -> None:
        mine = {k: tuple(v.shape) for k, v in self.content().items() if k.startswith(("weights.", "averages."))}
        theirs = {k: tuple(v.size) for k, v in stored.items() if k.startswith(("weights.", "averages."))}
        if mine != theirs:
            odd = sorted(name for name in mine | theirs if mine.get(name) != theirs.get(name))[0]
            raise UserError(f"the checkpoint {path} is of other networks (at {odd}): resume with what the run was started with")

    def _make_room(self, stored: Mapping[str, Any]) -> None:
        """Give the optimiser a memory of the stored kind, to be filled; a parameter that never moved has none."""
        self.optimizer.state.clear()
        for name, entry in stored.items():
            kind, _, path = name.partition(".")
            if kind != "optimizer":
                continue
            owner, _, key = path.rpartition(".")
            parameter = self.parameters[owner]
            self.optimizer.state[parameter][key] = _blank(parameter.detach(), entry)


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints of a run, the oldest first."""
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if path.is_dir())


def _blank(parameter: Tensor, entry: Any) -> Any:  # noqa: ANN401 (optimisers remember tensors and plain numbers)
    if not isinstance(entry, TensorStorageMetadata):
        return 0
    if entry.size == parameter.shape:
        return torch.zeros_like(parameter, dtype=entry.properties.dtype)
    return torch.zeros(entry.size, dtype=entry.properties.dtype, device=parameter.device)


def _reason(error: BaseException) -> str:
    return str(error).strip().splitlines()[-1]


@contextmanager
def _quiet() -> Iterator[None]:
    """torch warns at every checkpoint of a single process that it is one, and logs two lines for every tensor to nowhere."""
    log = logging.getLogger(_TORCH_LOG)
    was_off, log.disabled = log.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            yield
    finally:
        log.disabled = was_off
