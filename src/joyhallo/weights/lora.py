"""Low-rank adapters as files: what `joyhallo train --lora` writes and a pipeline adds to its weights.

An adapted linear layer has the weight W + strength · alpha / rank · B A. A file holds the two thin matrices of every one,
`component.layer.lora_A.weight` [rank, inputs] and `component.layer.lora_B.weight` [outputs, rank]; its metadata say `rank` and
`alpha`.
"""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from joyhallo.errors import UserError
from joyhallo.weights.tensor_files import CheckpointError, open_tensors, save_tensors, shape_text

FORMAT = "joyhallo-lora"
SUFFIXES = ("lora_A", "lora_B")
_MOST_STRENGTH = 10.0
_SHOWN = 3


@dataclass(frozen=True, eq=False)
class Adapter:
    """The adapter of one linear layer."""

    down: Tensor  # A [rank, inputs]
    up: Tensor  # B [outputs, rank]


@dataclass(frozen=True, eq=False)
class Lora:
    """Adapters by `component.layer`."""

    adapters: Mapping[str, Adapter]
    rank: int
    alpha: float

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


def write_lora(path: Path, lora: Lora) -> None:
    """Write adapters, whole or not at all."""
    tensors = {}
    for layer, adapter in sorted(lora.adapters.items()):
        for suffix, matrix in zip(SUFFIXES, (adapter.down, adapter.up), strict=True):
            tensors[f"{layer}.{suffix}.weight"] = matrix.detach()
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"format": FORMAT, "rank": str(lora.rank), "alpha": repr(float(lora.alpha))}
    save_tensors(path, tensors, metadata=metadata)


def read_lora(path: Path) -> Lora:
    """The adapters of a file.

    Raises:
        CheckpointError: no such file, no LoRA, or one that lacks a matrix or its numbers.
    """
    if path.is_dir() or (path.is_file() and path.suffix != ".safetensors"):
        raise CheckpointError(f"{path} is no LoRA file: give the .safetensors that `joyhallo train --lora` wrote")
    tensors = open_tensors(path)
    found: dict[str, dict[str, Tensor]] = {}
    for name in tensors:
        layer, _, suffix = name.removesuffix(".weight").rpartition(".")
        if suffix not in SUFFIXES or not name.endswith(".weight") or len(tensors.shape(name)) != 2:
            raise CheckpointError(
                f"{path} is no LoRA file (it holds {name} {shape_text(tensors.shape(name))}): "
                "give what `joyhallo train --lora` wrote; whole weights are given as --model"
            )
        found.setdefault(layer, {})[suffix] = tensors[name]
    if not found:
        raise CheckpointError(f"{path} holds no adapters: give what `joyhallo train --lora` wrote")
    for layer, pair in found.items():
        for suffix in SUFFIXES:
            if suffix not in pair:
                raise CheckpointError(f"{path} lacks {layer}.{suffix}.weight: the file is damaged, write or fetch it again")
    rank, alpha = _numbers(path)
    for layer, pair in found.items():
        if len(pair["lora_A"]) != rank or pair["lora_B"].shape[1] != rank:
            shapes = " and ".join(shape_text(pair[suffix].shape) for suffix in SUFFIXES)
            raise CheckpointError(f"{path}: {layer} has matrices {shapes}, but the file's rank is {rank}: write it again")
    return Lora({layer: Adapter(pair["lora_A"], pair["lora_B"]) for layer, pair in found.items()}, rank, alpha)


def _numbers(path: Path) -> tuple[int, float]:
    """Rank and alpha, from the file's metadata."""
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata() or {}
    try:
        rank, alpha = int(metadata["rank"]), float(metadata["alpha"])
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path} does not say its rank and alpha (metadata of safetensors): write it again") from error
    if rank < 1 or not math.isfinite(alpha):
        raise CheckpointError(f"{path} says rank {rank} and alpha {alpha}: write it again")
    return rank, alpha


def linear_layers(modules: Mapping[str, nn.Module]) -> dict[str, nn.Linear]:
    """Every linear layer by `component.layer`."""
    return {
        f"{component}.{name}": layer
        for component, module in modules.items()
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear)
    }


def check_lora(modules: Mapping[str, nn.Module], lora: Lora, name: str) -> None:
    """Compare adapters with the layers that they are for; `name` is what the error calls them.

    Raises:
        CheckpointError: a layer that is not there or has another shape: the adapters are for other weights.
    """
    layers = linear_layers(modules)
    unknown = [layer for layer in lora.adapters if layer not in layers]
    if unknown:
        near = difflib.get_close_matches(unknown[0], layers, n=1, cutoff=0.5)
        hint = f" (the nearest they have is {near[0]})" if near else ""
        raise CheckpointError(
            f"{name} is for other weights: it adapts {len(unknown)} layers that these do not have, "
            f"like {unknown[0]}{hint}: use the weights it was trained on"
        )
    wrong = []
    for layer, adapter in lora.adapters.items():
        adapted = (adapter.up.shape[0], adapter.down.shape[1])
        if adapted != tuple(layers[layer].weight.shape):
            wrong.append(f"{layer} is {shape_text(layers[layer].weight.shape)}, adapted {shape_text(adapted)}")
    if wrong:
        raise CheckpointError(f"{name} is for other weights: {'; '.join(wrong[:_SHOWN])}: use the weights it was trained on")


@torch.no_grad()
def merge_lora(modules: Mapping[str, nn.Module], path: Path, strength: float = 1.0) -> int:
    """Add a file's adapters to the weights of `modules` (component → network) for good; all of them or none.

    Args:
        strength: 1 is as trained, 0 changes nothing.

    Returns:
        The number of adapted layers.

    Raises:
        CheckpointError: the file is no LoRA, or one for other weights.
        UserError: a strength that no run can use.
    """
    if not (math.isfinite(strength) and abs(strength) <= _MOST_STRENGTH):
        raise UserError(f"the LoRA strength is {strength}: give -{_MOST_STRENGTH:g} to {_MOST_STRENGTH:g} (1 is as trained)")
    lora = read_lora(path)
    check_lora(modules, lora, str(path))
    layers = linear_layers(modules)
    for name, adapter in lora.adapters.items():
        weight = layers[name].weight
        down, up = (matrix.to(weight.device, torch.float32) for matrix in (adapter.down, adapter.up))
        merged = (weight.float() + strength * lora.scale * (up @ down)).to(weight.dtype)
        layers[name].weight = nn.Parameter(
            merged, requires_grad=weight.requires_grad
        )  # a file may be mapped behind the old one
    return len(lora.adapters)
