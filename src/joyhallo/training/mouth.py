"""The mouth as it will be seen: an error of its latents counts by what the decoder makes of it.

Axes: B samples, F frames, C channels, h and w the latent place, m cells of the window's side.
"""

import torch
from torch import Tensor, nn

from joyhallo.models.latents import LatentSpace, decode_unclamped
from joyhallo.training.visible import visible_difference

_WINDOW = 3 / 8  # of the latents' side: what is decoded around the lips
_EVERY = 2  # frames from one that is decoded to the next: all of them made a step a quarter to a half longer


class Mouths:
    """Decodes the surroundings of the lips and compares. Its autoencoder is a tool, not a part of what is trained."""

    def __init__(self, vae: nn.Module, space: LatentSpace) -> None:
        self.vae, self.space = vae, space

    def difference(self, sampled: Tensor, wanted: Tensor, portrait: Tensor, lip_mask: Tensor) -> Tensor:
        """How different the mouths of sampled latents look, per sample: [B].

        Parameters
        ----------
        sampled, wanted : [B,C,F,h,w] in the form that the denoising network predicts.
        portrait : [B,C,h,w] latents as the autoencoder gives them.
        lip_mask : [B,1,h,w] where the lips are.
        """
        latents = [self.space.from_sampled(one[:, :, ::_EVERY], portrait[:, :, None]) for one in (sampled, wanted)]
        mine, theirs = window(torch.cat(latents, dim=1), lip_mask).chunk(2, dim=1)
        pictures = self._decoded(mine)
        with torch.no_grad():
            wanted_pictures = self._decoded(theirs)
        return visible_difference(pictures, wanted_pictures).unflatten(0, (len(sampled), -1)).mean(1)

    def _decoded(self, latents: Tensor) -> Tensor:
        """[B,C,F,m,m] → [B·F,3,·,·]."""
        return decode_unclamped(self.vae, latents.transpose(1, 2).flatten(0, 1))


def window(latents: Tensor, lip_mask: Tensor) -> Tensor:
    """What of latents [B,C,F,h,w] lies around the middle of the lips: [B,C,F,m,m]."""
    side = max(1, round(_WINDOW * min(latents.shape[-2:])))
    parts = []
    for sample, mask in zip(latents, lip_mask[:, 0], strict=True):
        top, left = (_first(mask.sum(1 - axis), side) for axis in (0, 1))
        parts.append(sample[..., top : top + side, left : left + side])
    return torch.stack(parts)


def _first(weights: Tensor, side: int) -> int:
    """Where `side` cells begin that have the middle of the weights [n] in theirs, and lie inside."""
    places = torch.arange(len(weights), device=weights.device)
    middle = ((weights * places).sum() / weights.sum()).item() if weights.sum() > 0 else (len(weights) - 1) / 2
    return min(max(round(middle - (side - 1) / 2), 0), len(weights) - side)
