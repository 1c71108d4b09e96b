"""One process or many: who takes part in a run, what they agree on, and how the weights are spread over them.

Several processes are started by `torchrun`, on one machine or on many; it sets the environment that is read here.
"""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from joyhallo.device import choose_device
from joyhallo.errors import UserError

Spread = Literal["ddp", "fsdp"]
_PATIENCE = timedelta(days=14)  # others wait so long for the first process to encode a whole dataset


@dataclass(frozen=True)
class Processes:
    """The processes of a run, as one of them sees it."""

    device: torch.device
    rank: int = 0
    count: int = 1
    spread: Spread = "ddp"
    is_connected: bool = False

    @property
    def is_first(self) -> bool:
        """Whether this one writes files and speaks."""
        return self.rank == 0

    @property
    def is_sharded(self) -> bool:
        """Whether every process holds only a part of the weights."""
        return self.is_connected and self.spread == "fsdp"

    def mean(self, values: Sequence[float]) -> list[float]:
        """The mean of each value over the processes, the same on all of them."""
        if not self.is_connected:
            return list(values)
        precise = torch.float32 if self.device.type == "mps" else torch.float64
        total = torch.tensor(values, dtype=precise, device=self.device)
        dist.all_reduce(total)
        return (total / self.count).tolist()

    def wait(self) -> None:
        """Go on when all have come here."""
        if self.is_connected:
            dist.barrier()

    def leave(self) -> None:
        if self.is_connected and dist.is_initialized():
            dist.destroy_process_group()


def join(device: str = "auto", spread: Spread = "ddp") -> Processes:
    """Take part in what `torchrun` started, or be alone.

    Raises:
        UserError: the device is not here, or there are more processes than GPUs on this machine.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return Processes(choose_device(device), spread=spread)
    place = int(os.environ.get("LOCAL_RANK", "0"))
    chosen = choose_device(device)
    if chosen.type == "cuda":
        if place >= torch.cuda.device_count():
            raise UserError(
                f"process {place} of this machine has no GPU of its own ({torch.cuda.device_count()} are here): "
                "start torchrun with --nproc_per_node set to the number of GPUs, or use --device cpu"
            )
        chosen = torch.device("cuda", place)
        torch.cuda.set_device(chosen)
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo", timeout=_PATIENCE)
    return Processes(chosen, dist.get_rank(), dist.get_world_size(), spread, is_connected=True)


def spread_over(trainee: nn.Module, processes: Processes, dtype: torch.dtype) -> nn.Module:
    """The module to call in training: itself, or wrapped so that gradients are averaged over the processes.

    With FSDP2 weights, gradients, averages and the optimiser's memory are spread over the processes, in float32; the step
    computes with all weights gathered in `dtype`. The networks are one group: they project a clip's conditions outside of
    their `forward`, so that a finer split would not know when to gather. Frozen weights are spread as well.
    """
    if not processes.is_connected:
        return trainee
    if processes.spread == "ddp":
        from torch.nn.parallel import DistributedDataParallel

        # 1×1 convolutions have two layouts that are the same in memory; torch tells them apart and warns in every process.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            # Blind batches do not run the reference network, and the end of it never gets a gradient.
            return DistributedDataParallel(trainee, find_unused_parameters=True, broadcast_buffers=False)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    for parameter in trainee.parameters():
        parameter.data = parameter.data.contiguous()  # not channels_last: shards are rows
    mesh = init_device_mesh(processes.device.type, (processes.count,))
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    fully_shard(trainee, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    return trainee


def synchronise(trainee: nn.Module, processes: Processes, is_last: bool) -> None:
    """Whether the next backward pass averages the gradients: only the last of those that a step accumulates."""
    if not processes.is_connected:
        return
    if processes.spread == "ddp":
        trainee.require_backward_grad_sync = is_last  # type: ignore[assignment]
    else:
        trainee.set_requires_gradient_sync(is_last)  # type: ignore[operator]


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[operator]


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor; all processes must ask for it together."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # type: ignore[operator]
