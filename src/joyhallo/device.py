"""Which device runs the networks and in which numbers: decided once, and said why."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from joyhallo.cores import num_cores
from joyhallo.errors import UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Choice:
    """An element type and why it was taken."""

    value: torch.dtype
    reason: str


def choose_device(name: str = "auto") -> torch.device:
    """The device of that name; "auto" takes CUDA, then Apple's GPU, then the CPU.

    Raises:
        UserError: a name that is no device, or a device this machine or this build of PyTorch does not have.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device {name!r} is not known: use auto, cpu, cuda, cuda:1 or mps.") from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"device {name!r} is not supported: use auto, cpu, cuda, cuda:1 or mps.")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise UserError(
                f"device {name!r} is not here ({count} CUDA devices are seen): use cpu, or install a CUDA build of torch."
            )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("device 'mps' is not here: it needs a Mac with Apple silicon; use cpu.")
    return device


def choose_dtype(name: str, device: torch.device) -> Choice:
    """The element type of the networks on that device.

    Args:
        name: "auto", "fp32", "bf16" or "fp16". "auto" goes by the GPU's capability or the CPU's instructions.
        device: from `choose_device`.

    Raises:
        UserError: an unknown name, or a type this device cannot compute in.
    """
    if name == "auto":
        return {"cuda": _choose_on_cuda, "mps": _choose_on_mps, "cpu": _choose_on_cpu}[device.type](device)
    if name not in DTYPES:
        raise UserError(f"dtype {name!r} is not known: use auto, fp32, bf16 or fp16.")
    if name == "fp16" and device.type == "cpu":
        raise UserError("dtype 'fp16' on the CPU overflows and is slow: use bf16 or fp32, or leave it at auto.")
    if name == "bf16" and device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        raise UserError("dtype 'bf16' needs a GPU of compute capability 8.0 (Ampere) or newer: use fp16 or fp32.")
    return Choice(DTYPES[name], "as asked")


def dtype_name(dtype: torch.dtype) -> str:
    """The short name of an element type: fp32, bf16 or fp16."""
    return next(name for name, value in DTYPES.items() if value == dtype)


@contextmanager
def all_cores() -> Iterator[None]:
    """Within it PyTorch computes with as many threads as there are cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_cores())
    try:
        yield
    finally:
        torch.set_num_threads(before)


def usual_linear_kernel() -> str:
    """The kernel of linear layers on this CPU: MKL, but oneDNN on AMD's, where MKL reaches half its rate.

    By the maker and not by measurement: two runs must agree, or their frames would differ in the last bit.
    """
    return "onednn" if "AuthenticAMD" in _cpu_description() else "mkl"


def _cpu_description() -> str:
    """What Linux says of the CPU; empty elsewhere."""
    info = Path("/proc/cpuinfo")
    return info.read_text(encoding="utf-8", errors="replace") if info.is_file() else ""


def _choose_on_cuda(device: torch.device) -> Choice:
    major, minor = torch.cuda.get_device_capability(device)
    where = f"{torch.cuda.get_device_name(device)} (compute capability {major}.{minor})"
    if major >= 8:
        return Choice(torch.bfloat16, f"{where} computes in it at full speed, with the range of fp32")
    if major >= 7:
        return Choice(torch.float16, f"{where} has no bf16")
    return Choice(torch.float32, f"{where} gains nothing from smaller types")


def _choose_on_mps(_device: torch.device) -> Choice:
    return Choice(torch.float32, "on Apple's GPU fp16 is faster but can overflow: ask for it with --dtype fp16")


def _choose_on_cpu(_device: torch.device) -> Choice:
    """By what the CPU is and not by measurement, for the same reason as the kernel of linear layers."""
    description = _cpu_description()
    if "amx_bf16" in description:
        return Choice(torch.bfloat16, "this CPU has AMX, whose bf16 is several times faster than fp32")
    if "avx512_bf16" not in description:
        return Choice(torch.float32, "this CPU has no bf16 instructions")
    if "AuthenticAMD" in description:
        return Choice(torch.bfloat16, "this CPU multiplies bf16 at twice the rate of fp32")
    return Choice(torch.float32, "without AMX, bf16 is no faster than fp32 on Intel's CPUs")
