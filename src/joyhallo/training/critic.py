"""Mouths that look true: a critic learns to tell sampled mouths from decoded ones, and what is sampled learns to pass.

Differences of pixels are least for a mean of all mouths that a sound may have, and such a mean has no teeth and half a lip. The
critic is a tool of training and no part of what is handed out; it learns in every step that it judges in.

Axes: N pictures, S pixels of a side.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from joyhallo.models.patch_discriminator import PatchDiscriminator, hinge_loss

_LEARNING_RATE = 4e-4
_BETAS = (0.0, 0.99)
_WIDTHS = (40, 80, 128)
_LEAST = 1e-12


class Critic:
    """The critic and its own optimiser; the same on all processes of a run."""

    def __init__(self, weight: float, device: torch.device, seed: int = 0) -> None:
        """`weight`: how hard it pulls at the pixels of a mouth, against what else pulls at them."""
        self.weight = weight
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = PatchDiscriminator(_WIDTHS, judge_side=1).to(device)
        self._optimizer = torch.optim.Adam(self.network.parameters(), _LEARNING_RATE, _BETAS)
        for parameter in self.network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        self._optimizer.step()  # nothing moves, and the optimiser has a memory that checkpoints can be read into

    def doubt(self, pictures: Tensor, others: Tensor) -> Tensor:
        """How little sampled mouths [N,3,S,S] look true, [N], so weighted that it pulls `weight` times as hard as `others`.

        `others` []: the sum of what else is minimised, of the same pictures.
        """
        self.network.requires_grad_(False)
        doubt = -self.network(pictures).float().mean((1, 2, 3))
        pulls = [torch.autograd.grad(loss, pictures, retain_graph=True)[0].norm() for loss in (others, doubt.sum())]
        return self.weight * (pulls[0] / pulls[1].clamp(min=_LEAST)).detach() * doubt

    def learn(self, sampled: Tensor, true: Tensor) -> None:
        """One step towards telling sampled mouths from true ones [N,3,S,S]."""
        self.network.requires_grad_(True)
        faked, real = self.network(torch.cat([sampled.detach(), true.detach()])).chunk(2)
        loss = hinge_loss(real, faked)
        self._optimizer.zero_grad(set_to_none=False)
        loss.backward()
        if dist.is_initialized():
            for gradient in [parameter.grad for parameter in self.network.parameters() if parameter.grad is not None]:
                dist.all_reduce(gradient)
                gradient /= dist.get_world_size()
        self._optimizer.step()

    def memory(self) -> dict[str, Tensor]:
        """All that it must remember to go on, to be read and written in place."""
        tensors = dict(self.network.state_dict())
        for name, parameter in self.network.named_parameters():
            tensors |= {f"{name}.{key}": value for key, value in self._optimizer.state[parameter].items()}
        return tensors
