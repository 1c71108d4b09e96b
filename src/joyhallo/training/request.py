"""What a run is asked to do, and what of it stands firm: the recipe, the start, the numbers it computes in."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from joyhallo.data.index import INDEX_NAME
from joyhallo.device import DTYPES
from joyhallo.errors import UserError
from joyhallo.training.adapters import Adapters
from joyhallo.training.distributed import Processes, Spread
from joyhallo.training.optimizers import available_optimizer
from joyhallo.training.recipes import Recipe
from joyhallo.training.run_folder import RunFolder


@dataclass(frozen=True)
class TrainRequest:
    """What to train, on what, and where."""

    recipe: Recipe | None  # None: that of the run that goes on
    data: tuple[Path, ...]
    output: Path
    init: str | None = None  # None: what the recipe starts from
    encoders: Path | None = None  # None: those that come with what it starts from
    is_resumed: bool = False
    device: str = "auto"
    dtype: str = "auto"
    spread: Spread = "ddp"
    adapters: Adapters | None = None

    @property
    def settled_recipe(self) -> Recipe:
        assert self.recipe is not None, "settle() gives one"
        return self.recipe


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    step: int
    num_steps: int
    folder: Path
    is_first: bool = True  # this is the process that speaks for all

    @property
    def is_finished(self) -> bool:
        return self.step >= self.num_steps


def settle(request: TrainRequest, folder: RunFolder, processes: Processes) -> TrainRequest:
    """The request with nothing left open; of a run that goes on, what is not given again is as it was begun.

    Raises:
        UserError: the run that goes on was begun otherwise, or a new one has no room.
    """
    if request.is_resumed:
        theirs, began = folder.read()
        request = replace(
            request,
            recipe=request.recipe or theirs,
            init=request.init or began["init"],
            encoders=request.encoders or (Path(began["encoders"]) if began["encoders"] else None),
            adapters=request.adapters or (Adapters.read(began["adapters"]) if began["adapters"] else None),
        )
    recipe = request.recipe
    assert recipe is not None, "a new run has a recipe"
    optimizer = available_optimizer(recipe.schedule, processes)
    if request.is_resumed and folder.read()[0].schedule.optimizer == "adamw":  # no 8 bits were to be had when it was begun
        optimizer = "adamw"
    schedule = replace(recipe.schedule, optimizer=optimizer)
    request = replace(request, recipe=replace(recipe, schedule=schedule), init=request.init or recipe.init)
    if request.is_resumed:
        folder.require_same(request.settled_recipe, origin(request))
    else:
        folder.require_new()
    processes.wait()
    return request


def origin(request: TrainRequest) -> dict[str, Any]:
    """What a run must find again to go on: its data, by their content, and its start."""
    data = []
    for path in request.data:
        index = path / INDEX_NAME
        data.append(hashlib.sha256(index.read_bytes()).hexdigest()[:16] if index.is_file() else str(path))
    adapters, encoders = request.adapters, request.encoders
    return {
        "data": data,
        "init": request.init,
        "encoders": encoders and str(encoders),
        "adapters": adapters and adapters.values(),
    }


def training_dtype(name: str, device: torch.device) -> torch.dtype:
    """What products are computed in; the weights stay in float32.

    Raises:
        UserError: a type that training cannot use.
    """
    is_able = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    if name == "auto":
        return torch.bfloat16 if is_able else torch.float32
    if name not in ("fp32", "bf16"):
        raise UserError(f"--dtype {name}: training computes in bf16 or fp32 (fp16 overflows); leave it at auto")
    if name == "bf16" and device.type == "cuda" and not is_able:
        raise UserError("--dtype bf16 needs a GPU of compute capability 8.0 (Ampere) or newer: use fp32")
    return DTYPES[name]
