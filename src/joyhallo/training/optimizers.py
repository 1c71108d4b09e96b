"""The optimiser of a run: AdamW, fused where PyTorch has it so, or in 8 bits where bitsandbytes is installed."""

import importlib
import importlib.util
import logging
from collections.abc import Iterable

import torch
from torch import nn

from joyhallo.errors import UserError
from joyhallo.training.distributed import Processes
from joyhallo.training.schedule import Schedule

logger = logging.getLogger(__name__)


def available_optimizer(schedule: Schedule, processes: Processes) -> str:
    """The optimiser that a run really gets; says why where it is not the one the recipe names."""
    if schedule.optimizer != "adamw8bit":
        return schedule.optimizer
    if importlib.util.find_spec("bitsandbytes") is None:
        reason = "bitsandbytes is not installed (pip install bitsandbytes)"
    elif processes.is_sharded:
        reason = "FSDP spreads the optimiser's memory already"
    elif processes.device.type != "cuda":
        reason = f"it needs CUDA, not {processes.device.type}"
    else:
        return "adamw8bit"
    logger.info("AdamW in 32 bits instead of 8: %s", reason)
    return "adamw"


def build_optimizer(parameters: Iterable[nn.Parameter], schedule: Schedule, device: torch.device) -> torch.optim.Optimizer:
    """The optimiser over the trained parameters.

    Raises:
        UserError: nothing is trained.
    """
    trained = list(parameters)
    if not trained:
        raise UserError("the recipe trains no parameter: check `trained` and `frozen`")
    settings = {"lr": schedule.learning_rate, "betas": schedule.betas, "weight_decay": schedule.weight_decay}
    if schedule.optimizer == "adamw8bit":
        return importlib.import_module("bitsandbytes").optim.AdamW8bit(trained, **settings)
    return torch.optim.AdamW(trained, **settings, fused=device.type in ("cpu", "cuda"))
