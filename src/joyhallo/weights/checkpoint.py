"""Checkpoints loaded strictly: every tensor is known, present and of the right shape, or nothing is loaded."""

import difflib
import re
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from joyhallo.weights.tensor_files import (
    CheckpointError,
    TensorEntry,
    TensorFile,
    open_tensors,
    save_tensors,
    shape_text,
    write_tensors,
)

__all__ = [
    "CheckpointError",
    "TensorEntry",
    "TensorFile",
    "build_and_load",
    "check_fits",
    "load_strict",
    "open_tensors",
    "put_tensor",
    "save_tensors",
    "today_name",
    "write_tensors",
]

ModuleT = TypeVar("ModuleT", bound=nn.Module)

_SHOWN = 3  # names of a faulty checkpoint that an error lists
_REMEDY = "use the complete weights that belong to this configuration."

# names that older releases of diffusers and transformers wrote, with today's
_OLD_NAMES = (
    (re.compile(r"(\.attentions\.\d+)\.query\."), r"\1.to_q."),
    (re.compile(r"(\.attentions\.\d+)\.key\."), r"\1.to_k."),
    (re.compile(r"(\.attentions\.\d+)\.value\."), r"\1.to_v."),
    (re.compile(r"(\.attentions\.\d+)\.proj_attn\."), r"\1.to_out.0."),
    (re.compile(r"\.weight_g$"), ".parametrizations.weight.original0"),
    (re.compile(r"\.weight_v$"), ".parametrizations.weight.original1"),
)


def today_name(name: str) -> str:
    """The name that a tensor of an older VAE or speech encoder has today; other names are left as they are."""
    for pattern, replacement in _OLD_NAMES:
        name = pattern.sub(replacement, name)
    return name


def load_strict(module: nn.Module, tensors: Mapping[str, Tensor], *, dtype: torch.dtype | None = None) -> None:
    """Fill the module with exactly these tensors; a module built on the meta device becomes real.

    Args:
        module: its parameters and persistent buffers are replaced, one tensor at a time.
        tensors: by name; names of older releases are understood.
        dtype: what floating-point tensors become; None keeps the stored type.

    Raises:
        CheckpointError: a missing, unknown or misshapen tensor, with its name and both shapes. Nothing is loaded then.
    """
    expected = module.state_dict(keep_vars=True)
    names = {name: name if name in expected else today_name(name) for name in tensors}
    shape = tensors.shape if isinstance(tensors, TensorFile) else lambda name: tuple(tensors[name].shape)
    check_fits(
        {name: tuple(value.shape) for name, value in expected.items()},
        {ours: shape(name) for name, ours in names.items()},
    )
    for name, ours in names.items():
        tensor = tensors[name]
        if dtype is not None and tensor.is_floating_point():
            tensor = tensor.to(dtype)
        put_tensor(module, ours, tensor)


def build_and_load(build: Callable[[], ModuleT], tensors: Mapping[str, Tensor], *, dtype: torch.dtype | None = None) -> ModuleT:
    """Build the module without memory for its initial values, then load it strictly (see `load_strict`)."""
    with torch.device("meta"):
        module = build()
    load_strict(module, tensors, dtype=dtype)
    empty = [name for name, value in (*module.named_parameters(), *module.named_buffers()) if value.is_meta]
    assert not empty, f"not in any checkpoint, so it must be computed when needed: {empty}"
    return module


def check_fits(needed: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> None:
    """Compare names and shapes.

    Raises:
        CheckpointError: naming the first few tensors that are unknown, missing or misshapen, in this order.
    """
    unknown = [name for name in found if name not in needed]
    missing = [name for name in needed if name not in found]
    if unknown:
        listed = "; ".join(_with_nearest(name, missing or list(needed)) for name in unknown[:_SHOWN])
        raise CheckpointError(f"{_count(unknown, 'unknown tensor')}: {listed}: {_REMEDY}")
    if missing:
        listed = ", ".join(missing[:_SHOWN])
        raise CheckpointError(f"{_count(missing, 'missing tensor')}: {listed}: {_REMEDY}")
    wrong = [name for name, shape in found.items() if shape != needed[name]]
    if wrong:
        listed = "; ".join(
            f"{name} has shape {shape_text(found[name])}, needed {shape_text(needed[name])}" for name in wrong[:_SHOWN]
        )
        raise CheckpointError(f"{_count(wrong, 'misshapen tensor')}: {listed}: {_REMEDY}")


def _with_nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"{name} (the nearest known one is {near[0]})" if near else name


def put_tensor(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Let a parameter or buffer be this tensor, which is not copied; whether it trains stays."""
    owner_name, _, leaf = name.rpartition(".")
    owner = module.get_submodule(owner_name)
    if leaf in owner._parameters:
        old = owner._parameters[leaf]
        owner._parameters[leaf] = nn.Parameter(
            tensor, requires_grad=tensor.is_floating_point() and (old is None or old.requires_grad)
        )
    else:
        owner._buffers[leaf] = tensor


def _count(items: list, what: str) -> str:
    return f"1 {what}" if len(items) == 1 else f"{len(items)} {what}s"
