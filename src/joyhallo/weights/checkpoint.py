"""Checkpoints loaded strictly: every tensor is known, present and of the right shape, or nothing is loaded."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
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
    "load_strict",
    "open_tensors",
    "save_tensors",
    "today_name",
    "write_tensors",
]

ModuleT = TypeVar("ModuleT", bound=nn.Module)

_SHOWN = 3  # names of a faulty checkpoint that an error lists

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
    _check_names(expected.keys(), names)
    shape = tensors.shape if isinstance(tensors, TensorFile) else lambda name: tuple(tensors[name].shape)
    wrong = [
        (name, shape(name), tuple(expected[ours].shape)) for name, ours in names.items() if shape(name) != expected[ours].shape
    ]
    if wrong:
        listed = "; ".join(
            f"{name} has shape {shape_text(found)}, needed {shape_text(needed)}" for name, found, needed in wrong[:_SHOWN]
        )
        raise CheckpointError(
            f"{_count(wrong, 'misshapen tensor')}: {listed}: use the weights that belong to this configuration."
        )
    for name, ours in names.items():
        tensor = tensors[name]
        if dtype is not None and tensor.is_floating_point():
            tensor = tensor.to(dtype)
        _assign(module, ours, tensor)


def build_and_load(build: Callable[[], ModuleT], tensors: Mapping[str, Tensor], *, dtype: torch.dtype | None = None) -> ModuleT:
    """Build the module without memory for its initial values, then load it strictly (see `load_strict`)."""
    with torch.device("meta"):
        module = build()
    load_strict(module, tensors, dtype=dtype)
    empty = [name for name, value in (*module.named_parameters(), *module.named_buffers()) if value.is_meta]
    assert not empty, f"not in any checkpoint, so it must be computed when needed: {empty}"
    return module


def _check_names(expected: Iterable[str], names: Mapping[str, str]) -> None:
    known = list(expected)
    present = set(names.values())
    unknown = [name for name, ours in names.items() if ours not in set(known)]
    missing = [name for name in known if name not in present]
    if unknown:
        listed = "; ".join(_with_nearest(name, missing or known) for name in unknown[:_SHOWN])
        raise CheckpointError(
            f"{_count(unknown, 'unknown tensor')}: {listed}: use the weights that belong to this configuration."
        )
    if missing:
        listed = ", ".join(missing[:_SHOWN])
        raise CheckpointError(f"{_count(missing, 'missing tensor')}: {listed}: use complete weights of this configuration.")


def _with_nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"{name} (the nearest known one is {near[0]})" if near else name


def _assign(module: nn.Module, name: str, tensor: Tensor) -> None:
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
