"""What is trained, as one module: wrappers that spread weights over processes see a single call from batch to losses."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from joyhallo.data.batches import Batch
from joyhallo.models.networks import Networks
from joyhallo.training.distributed import whole
from joyhallo.training.mouth import Mouths
from joyhallo.training.recipes import Recipe
from joyhallo.training.stages import Draws, velocity_loss

_ORIGINAL = ".parametrizations.weight.original"


class Trainee(nn.Module):
    """The five networks and what they minimise."""

    def __init__(self, networks: Networks, recipe: Recipe, uses_all: bool = False, mouths: Mouths | None = None) -> None:
        """`uses_all`: parameters that a batch does not use get a gradient of zero, not none, the same on every process.

        `mouths`: needed by objectives with a weight for them.
        """
        super().__init__()
        self.networks = networks
        self.objective = recipe.objective
        self.checkpointing = recipe.schedule.checkpointing
        self.uses_all = uses_all
        self.mouths = mouths
        for name, module in networks.modules().items():
            self.add_module(name, module)

    def forward(self, batch: Batch, draws: Draws) -> Tensor:
        """Losses [B]."""
        losses = velocity_loss(self.networks, batch, self.objective, draws, self.checkpointing, self.mouths)
        if self.uses_all and torch.is_grad_enabled():
            losses = losses + sum(0.0 * p.flatten()[0].float() for p in self.parameters() if p.requires_grad)
        return losses

    def trained(self) -> dict[str, nn.Parameter]:
        """The trained parameters by `component.path`."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}


def freeze(networks: Networks, recipe: Recipe) -> None:
    """Let train what the recipe trains, and nothing else."""
    for component, module in networks.modules().items():
        for path, parameter in module.named_parameters():
            parameter.requires_grad_(recipe.trains(f"{component}.{path}"))


@torch.no_grad()
def finished_weights(networks: Networks, trained: Mapping[str, Tensor], is_kept: bool) -> dict[str, dict[str, Tensor]]:
    """All tensors by component as they are handed out, with adapters merged into the weights they adapt.

    All processes call it together; `is_kept`: this one wants the result.
    """
    finished: dict[str, dict[str, Tensor]] = {}
    for component, module in networks.modules().items():
        gathered = {}
        for name, tensor in module.state_dict().items():
            full = whole(trained.get(f"{component}.{name}", tensor))
            if is_kept:
                gathered[name] = full.detach().cpu()
        finished[component] = _merged(gathered, module)
    return finished


def _merged(tensors: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Without adapters of their own: W + alpha / rank · B A under the layer's name."""
    merged = {}
    for name, tensor in tensors.items():
        if name.endswith(_ORIGINAL):
            layer = name.removesuffix(_ORIGINAL)
            adapter = module.get_submodule(f"{layer}.parametrizations.weight.0")
            down, up = (tensors[f"{layer}.parametrizations.weight.0.{matrix}"] for matrix in ("lora_A", "lora_B"))
            merged[f"{layer}.weight"] = tensor + (adapter.alpha / adapter.rank * (up @ down)).to(tensor.dtype)  # type: ignore[operator]
        elif ".parametrizations.weight." not in name:
            merged[name] = tensor
    return merged
