"""LoRA in a run: what is adapted, and the file it becomes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from joyhallo.errors import UserError
from joyhallo.models.networks import Networks
from joyhallo.training.distributed import Processes
from joyhallo.training.lora import ATTENTION, adapters_of, add_lora
from joyhallo.training.recipes import Recipe
from joyhallo.weights.lora import Adapter, Lora, write_lora

FILE = "lora.safetensors"


@dataclass(frozen=True)
class Adapters:
    """Low-rank adapters instead of the recipe's own trained parameters."""

    rank: int = 16
    alpha: float | None = None  # None: the rank
    targets: tuple[str, ...] = ATTENTION

    def values(self) -> dict[str, Any]:
        """As JSON has them."""
        return {"rank": self.rank, "alpha": self.alpha, "targets": list(self.targets)}

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> "Adapters":
        """From what `values` gave."""
        return cls(values["rank"], values["alpha"], tuple(values["targets"]))


def adapt(networks: Networks, adapters: Adapters, recipe: Recipe, processes: Processes) -> None:
    """Freeze the networks and add adapters to the denoising network.

    Raises:
        UserError: no such target, a rank that is too large, or weights spread over processes.
    """
    if processes.is_sharded:
        raise UserError("--lora trains few parameters, which FSDP does not spread: use --spread ddp")
    modules = {"denoising_network": networks.denoising_network}
    for module in networks.modules().values():
        module.requires_grad_(False)
    add_lora(modules, adapters.rank, adapters.alpha, adapters.targets, recipe.seed)
    if recipe.objective.still:  # the motion modules do not run, so theirs would never learn
        for name, parameter in networks.denoising_network.named_parameters():
            if ".motion." in name:
                parameter.requires_grad_(False)


def write_adapters(folder: Path, networks: Networks, trained: Mapping[str, Tensor]) -> None:
    """Write the adapters as they are handed out: `lora.safetensors` in the run's folder."""
    found = adapters_of(networks.modules())
    first = next(iter(found.values()))

    def matrix(layer: str, name: str, own: Tensor) -> Tensor:
        return trained.get(f"{layer}.parametrizations.weight.0.{name}", own)

    adapters = {
        layer: Adapter(matrix(layer, "lora_A", one.lora_A), matrix(layer, "lora_B", one.lora_B)) for layer, one in found.items()
    }
    write_lora(folder / FILE, Lora(adapters, first.rank, first.alpha))
