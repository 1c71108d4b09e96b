"""Muon: momentum whose update is made orthogonal, for weight matrices and convolutions (Jordan et al. 2024)."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn


def orthogonalise(matrix: Tensor, num_steps: int = 5) -> Tensor:
    """A matrix [rows, columns] with about the same singular directions and all singular values near one (Newton-Schulz)."""
    is_tall = matrix.shape[0] > matrix.shape[1]
    result = matrix.T if is_tall else matrix
    result = result / (result.norm() + 1e-7)
    for _ in range(num_steps):
        square = result @ result.T
        result = 3.4445 * result + (-4.7750 * square + 2.0315 * square @ square) @ result
    return result.T if is_tall else result


class Muon(torch.optim.Optimizer):
    """Parameters of two or more axes; the first is the output, the others are the input taken together."""

    def __init__(self, params: Iterable[Tensor], lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # noqa: ARG002 (the name belongs to the base class)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                average = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                update = orthogonalise(parameter.grad.lerp(average, group["momentum"]).flatten(1))
                scale = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.reshape(parameter.shape), alpha=-group["lr"] * scale)


class Optimizers:
    """Muon for the large matrices and AdamW for the rest, as one thing with one learning-rate factor."""

    def __init__(self, network: nn.Module, muon_lr: float, adam_lr: float, adam_only: Sequence[str] = ()) -> None:
        """`adam_only`: parameters whose name contains one of these stay with AdamW. Frozen parameters are left out."""
        matrices, others = [], []
        for name, parameter in network.named_parameters():
            if not parameter.requires_grad:
                continue
            is_matrix = parameter.ndim >= 2 and min(parameter.shape[0], parameter[0].numel()) >= 8
            (matrices if is_matrix and not any(part in name for part in adam_only) else others).append(parameter)
        self._optimizers: list[tuple[torch.optim.Optimizer, float]] = []
        if matrices:
            self._optimizers.append((Muon(matrices, muon_lr), muon_lr))
        if others:
            adam = torch.optim.AdamW(others, adam_lr, betas=(0.9, 0.99), weight_decay=1e-3)
            self._optimizers.append((adam, adam_lr))
        self.parameters = matrices + others

    def step(self, loss: Tensor, factor: float, max_norm: float = 1.0) -> None:
        """Differentiate the loss, clip the gradient and take one step with the learning rates times `factor`."""
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, max_norm)
        for optimizer, rate in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.step()
