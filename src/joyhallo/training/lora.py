"""Low-rank adapters in training: the networks stay as they are, thin matrices beside their attention layers learn.

The adapter is a parametrisation of the layer's weight, so code that reads `.weight` instead of calling the layer sees it too.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.utils.parametrize as parametrize
from torch import Tensor, nn

from joyhallo.errors import UserError
from joyhallo.sampling.noise import seeded_generator
from joyhallo.weights.lora import Adapter, Lora, check_lora, linear_layers, read_lora, write_lora

ATTENTION = ("to_q", "to_k", "to_v", "to_out")


class LowRank(nn.Module):
    """W → W + alpha / rank · B A. B begins as zero, so training begins with the weights as they are."""

    def __init__(self, weight: Tensor, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__()
        outputs, inputs = weight.shape
        self.rank, self.alpha = rank, alpha
        down = torch.rand(rank, inputs, generator=generator).mul_(2).sub_(1) / math.sqrt(inputs)  # as nn.Linear begins
        like = {"device": weight.device, "dtype": torch.float32}
        self.lora_A = nn.Parameter(down.to(**like))
        self.lora_B = nn.Parameter(torch.zeros(outputs, rank, **like))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.alpha / self.rank * (self.lora_B @ self.lora_A)).to(weight.dtype)


def add_lora(
    modules: Mapping[str, nn.Module],
    rank: int = 16,
    alpha: float | None = None,
    targets: Sequence[str] = ATTENTION,
    seed: int = 42,
) -> list[nn.Parameter]:
    """Adapt the linear layers of the attention sites of `modules` (component → network); everything else is frozen.

    Args:
        rank: of the adapters. alpha: their scale times the rank; None for the rank itself.
        targets: a layer at an attention site is adapted when one of these stands in its path, as in `to_q`, `audio`,
            `motion.ff` or `spatial.self_attention`.

    Returns:
        The adapters' parameters: all that trains.

    Raises:
        UserError: a rank that is too large, a target that no layer has, or modules that have adapters already.
    """
    alpha = float(rank) if alpha is None else alpha
    layers = {name: layer for name, layer in linear_layers(modules).items() if ".sites." in name}
    for target in targets:
        if not any(_is_at(target, name) for name in layers):
            known = sorted({part for name in layers for part in name.partition(".sites.")[2].split(".") if not part.isdigit()})
            raise UserError(f"the LoRA target {target!r} is in no attention layer: give some of {', '.join(known)}")
    chosen = {name: layer for name, layer in layers.items() if any(_is_at(target, name) for target in targets)}
    largest = min((min(layer.weight.shape) for layer in chosen.values()), default=0)
    if not 1 <= rank <= largest:
        raise UserError(f"the LoRA rank is {rank}: give 1 to {largest}, the smallest side of the adapted layers")
    if not (math.isfinite(alpha) and alpha > 0):
        raise UserError(f"the LoRA alpha is {alpha}: give a positive number (the rank, {rank}, leaves the scale at 1)")
    if any(parametrize.is_parametrized(layer) for layer in chosen.values()):
        raise UserError("these networks have adapters already: merge or save them first")
    for module in modules.values():
        module.requires_grad_(False)
    parameters = []
    for name, layer in sorted(chosen.items()):
        adapter = LowRank(layer.weight, rank, alpha, seeded_generator(seed, zlib.crc32(name.encode())))
        parametrize.register_parametrization(layer, "weight", adapter)
        parameters += [adapter.lora_A, adapter.lora_B]
    return parameters


def _is_at(target: str, name: str) -> bool:
    return f".{target.strip('.')}." in f".{name}."


def adapters_of(modules: Mapping[str, nn.Module]) -> dict[str, LowRank]:
    """The adapters by `component.layer`."""
    return {
        name: layer.parametrizations["weight"][0]  # type: ignore[index]
        for name, layer in linear_layers(modules).items()
        if parametrize.is_parametrized(layer, "weight")
    }


def save_lora(path: Path, modules: Mapping[str, nn.Module]) -> None:
    """Write the adapters of `modules` as they are now, whole or not at all (see `weights.lora` for the format).

    Raises:
        UserError: there are none.
    """
    found = adapters_of(modules)
    if not found:
        raise UserError(f"there are no adapters to write to {path}: call add_lora first")
    first = next(iter(found.values()))
    adapters = {name: Adapter(adapter.lora_A, adapter.lora_B) for name, adapter in found.items()}
    write_lora(path, Lora(adapters, first.rank, first.alpha))


@torch.no_grad()
def load_lora(path: Path, modules: Mapping[str, nn.Module]) -> None:
    """Put a file's adapters into modules that have adapters of the same layers, to train on from there.

    Raises:
        CheckpointError: the file is no LoRA, or one for other weights.
        UserError: it adapts other layers, or with another rank or alpha.
    """
    lora, found = read_lora(path), adapters_of(modules)
    check_lora(modules, lora, str(path))
    if set(lora.adapters) != set(found):
        raise UserError(f"{path} adapts {len(lora.adapters)} layers, the run {len(found)}: give the same --lora targets")
    for name, adapter in found.items():
        if (lora.rank, lora.alpha) != (adapter.rank, adapter.alpha):
            raise UserError(
                f"{path} has rank {lora.rank} and alpha {lora.alpha:g}, the run {adapter.rank} and {adapter.alpha:g}: "
                "give the same"
            )
        adapter.lora_A.copy_(lora.adapters[name].down)
        adapter.lora_B.copy_(lora.adapters[name].up)


def remove_lora(modules: Mapping[str, nn.Module]) -> None:
    """Take the adapters out again; the weights are what they were before `add_lora`."""
    for layer in linear_layers(modules).values():
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
