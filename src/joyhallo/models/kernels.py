"""Which kernels multiply on the CPU: the linear layers and convolutions of both networks are the ones below.

A CPU has two libraries for a linear layer, MKL (what PyTorch calls) and oneDNN, and which is faster depends on its maker. A
program that wants the faster one calls `choose_linear_kernel` once, before it computes anything; it may record the name and
give it again, for two kernels round differently. Otherwise, with gradients and on a GPU, PyTorch decides.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from joyhallo.errors import UserError

LINEAR_KERNELS = ("mkl", "onednn")
_WORTHWHILE = 1.1  # a smaller gain is within what two measurements differ by
_SHAPES = ((1024, 640, 5120), (256, 1280, 1280))  # rows, inputs, outputs of two layers at Stable Diffusion 1.5's widths
_MEASURED_S = 0.15
_MOST_RUNS = 8
_SLICE_ROWS = 1024


@dataclass(frozen=True)
class LinearKernel:
    """The kernel of linear layers and why it was taken."""

    name: Literal["mkl", "onednn"]
    reason: str


_chosen = LinearKernel("mkl", "PyTorch's own choice")


def linear_kernel() -> LinearKernel:
    """The kernel in force."""
    return _chosen


def choose_linear_kernel(name: str = "auto") -> LinearKernel:
    """Take a kernel for this process: "mkl", "onednn", or with "auto" the one that measures faster here (up to 0.2 s).

    Raises:
        UserError: an unknown name, or a kernel that this build of PyTorch does not have.
    """
    global _chosen  # one machine, one kernel: it is decided once and for all layers
    if name not in ("auto", *LINEAR_KERNELS):
        raise UserError(f"linear kernel {name!r} is not known: use auto, {' or '.join(LINEAR_KERNELS)}.")
    if name == "onednn" and not torch.backends.mkldnn.is_available():
        raise UserError("linear kernel 'onednn' is not in this build of PyTorch: use auto or mkl.")
    if name != "auto":
        _chosen = LinearKernel(name, "as asked")  # type: ignore[arg-type]
    elif torch.backends.mkldnn.is_available():
        _chosen = _faster_kernel()
    return _chosen


def _faster_kernel() -> LinearKernel:
    mkl, onednn = _fastest_s()
    gflop = 2e-9 * sum(rows * inputs * outputs for rows, inputs, outputs in _SHAPES)
    measured = f"oneDNN measured {gflop / onednn:.0f} GFLOP/s against {gflop / mkl:.0f} by MKL here"
    return LinearKernel("onednn" if mkl > _WORTHWHILE * onednn else "mkl", measured)


def _fastest_s() -> tuple[float, float]:
    """Seconds of MKL and of oneDNN: the best of alternating runs, so that what else runs here weighs on both."""
    layers = [(torch.full((r, i), 0.01), torch.full((o, i), 0.01), torch.zeros(o)) for r, i, o in _SHAPES]
    best, kernels = [float("inf"), float("inf")], (F.linear, _onednn_linear)
    end = time.perf_counter() + _MEASURED_S
    with torch.inference_mode():
        for turn in range(2 * _MOST_RUNS):
            before = time.perf_counter()
            for layer in layers:
                kernels[turn % 2](*layer)
            if turn > 1:  # the first calls set up the kernels
                best[turn % 2] = min(best[turn % 2], time.perf_counter() - before)
                if turn % 2 and time.perf_counter() > end:
                    break
    return best[0], best[1]


def _onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _is_plain_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu" and not torch.is_grad_enabled()


@cache
def _has_onednn(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies this type on this CPU: without AVX-512 it refuses bf16, which PyTorch computes by itself."""
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """[…,C] → […,C'] by the kernel in force. As one matrix: PyTorch turns some layouts into slow batched products."""
    rows = x.reshape(-1, x.shape[-1])
    multiply = _onednn_linear if _chosen.name == "onednn" and _is_plain_cpu(x) and _has_onednn(x.dtype) else F.linear
    return multiply(rows, weight, bias).view(*x.shape[:-1], len(weight))


def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Softmax attention of [R,h,L,D] over [R,h,S,D]. Trained in bf16 on a CPU it stays float32: there the backward pass of
    PyTorch's bf16 attention takes six times as long.
    """
    if queries.device.type == "cpu" and torch.is_grad_enabled() and torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            return F.scaled_dot_product_attention(queries.float(), keys.float(), values.float())
    return F.scaled_dot_product_attention(queries, keys, values)


def in_slices(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a layer to [N,L,C], on a CPU to so many rows at a time that what it computes on the way stays in the cache."""
    if not _is_plain_cpu(x):
        return layer(x)
    return torch.cat([layer(rows) for rows in x.flatten(0, -2).split(_SLICE_ROWS)]).view(*x.shape[:-1], -1)


class Linear(nn.Linear):
    """`nn.Linear` by the kernel in force."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class Conv1x1(nn.Conv2d):
    """A linear layer at every place."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class Conv3x3(nn.Conv2d):
    """A 3×3 convolution that keeps the size, or halves it with stride 2.

    oneDNN lays out a convolution's weights anew at every call. Where they outweigh the picture, on the deep levels, that takes
    longer than the convolution; there the neighbourhoods of all places become the rows of one matrix product.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, 3, stride=stride, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        num_places = len(x) * x.shape[-2] * x.shape[-1] // self.stride[0] ** 2
        if not _is_plain_cpu(x) or num_places > 2 * self.out_channels:
            return super().forward(x)
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
        around = padded.unfold(1, 3, self.stride[0]).unfold(2, 3, self.stride[1])  # [N,H,W,C,3,3]
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)
        return linear(around.permute(0, 1, 2, 4, 5, 3).flatten(3), weight, self.bias).permute(0, 3, 1, 2)
