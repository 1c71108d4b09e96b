"""All that a training run must remember to go on: weights, their moving average, the optimiser, the step."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

CHECKPOINT = "checkpoint.pt"


class TrainingState:
    """The state of a run, saved whole or not at all."""

    def __init__(self, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, ema_decay: float) -> None:
        self.modules = modules
        self.optimizer = optimizer
        self.ema_decay = ema_decay
        self.step = 0
        self.averages = {name: self.copy(module) for name, module in modules.items()}

    @staticmethod
    def copy(module: nn.Module) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}

    @torch.no_grad()
    def average(self) -> None:
        """Move the averages towards the weights; slower the older the run."""
        decay = min(self.ema_decay, (self.step + 1) / (self.step + 10))
        for name, module in self.modules.items():
            for key, tensor in module.state_dict().items():
                average = self.averages[name][key]
                if tensor.is_floating_point():
                    average.lerp_(tensor, 1 - decay)
                else:
                    average.copy_(tensor)  # a counter has no average

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        content = {
            "step": self.step,
            "weights": {name: module.state_dict() for name, module in self.modules.items()},
            "averages": self.averages,
            "optimizer": self.optimizer.state_dict(),
        }
        partial = folder / f".{CHECKPOINT}.partial"
        torch.save(content, partial)
        partial.replace(folder / CHECKPOINT)

    def resume(self, folder: Path) -> bool:
        """Load the folder's checkpoint, if there is one."""
        path = folder / CHECKPOINT
        if not path.exists():
            return False
        content = torch.load(path, weights_only=True)
        for name, module in self.modules.items():
            module.load_state_dict(content["weights"][name], strict=True)
        self.averages = content["averages"]
        self.optimizer.load_state_dict(content["optimizer"])
        self.step = content["step"]
        return True

    def load_averages(self) -> None:
        """Put the averaged weights into the modules."""
        for name, module in self.modules.items():
            module.load_state_dict(self.averages[name], strict=True)
