"""The mouth as it will be seen: an error of its latents counts by what the decoder makes of it.

Axes: B samples, F frames, C channels, h and w the latent place, m cells of the window's side.
"""

import torch
from torch import Tensor, nn

from joyhallo.conditioning.anatomy import LOWER_READ, UPPER_READ
from joyhallo.models.latents import LatentSpace, decode_unclamped
from joyhallo.models.lip_reader import WINDOW, LipReader
from joyhallo.training.critic import Critic
from joyhallo.training.visible import visible_difference

_SHUT, _OPEN = 0.015, 0.04  # of the window's side: lips that are so near count as shut, and so far apart as open
_EVERY = 2  # frames from one that is decoded to the next: all of them made a step a quarter to a half longer


class Mouths:
    """Decodes the surroundings of the lips and compares. Its autoencoder is a tool, not a part of what is trained."""

    def __init__(
        self,
        vae: nn.Module,
        space: LatentSpace,
        reader: LipReader | None = None,
        reading_weight: float = 0.0,
        closed_weight: float = 0.0,
        critic: Critic | None = None,
    ) -> None:
        """`reader`: tells where lips are (`training.lip_reader`), needed by the weights of places and of shut lips."""
        assert reader is not None or not (reading_weight or closed_weight), "places count where something reads them"
        self.vae, self.space, self.reader, self.critic = vae, space, reader, critic
        self.reading_weight, self.closed_weight = reading_weight, closed_weight

    def difference(self, sampled: Tensor, wanted: Tensor, portrait: Tensor, lip_mask: Tensor) -> Tensor:
        """How different the mouths of sampled latents look, and how far their lips are from their places, per sample: [B].

        Mouths that are to be shut count more by the closed weight. Where gradients are wanted, a critic judges and learns.

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
        difference = visible_difference(pictures, wanted_pictures)
        if self.reader is not None and (self.reading_weight or self.closed_weight):
            with torch.no_grad():
                wanted_places = self.reader(wanted_pictures)
            misplaced = (self.reader(pictures) - wanted_places).abs().mean(1)
            difference = difference + self.reading_weight * misplaced
            if self.closed_weight:
                is_shut = shut_share(wanted_places, self.reader.units, pictures.shape[-1])
                difference = difference * (1 + self.closed_weight * is_shut)
        if self.critic is not None and torch.is_grad_enabled():
            self.critic.learn(pictures, wanted_pictures)
            difference = difference + self.critic.doubt(pictures, difference.sum())
        return difference.unflatten(0, (len(sampled), -1)).mean(1)

    def _decoded(self, latents: Tensor) -> Tensor:
        """[B,C,F,m,m] → [B·F,3,·,·]."""
        return decode_unclamped(self.vae, latents.transpose(1, 2).flatten(0, 1))


def shut_share(places: Tensor, units: Tensor, side_px: int) -> Tensor:
    """How shut the lips are that a reader sees at places [N,2·P], 0 to 1: [N]."""
    heights = (places * units).unflatten(1, (-1, 2))[..., 1] / side_px
    opening = (heights[:, LOWER_READ] - heights[:, UPPER_READ]).mean(1)
    return ((_OPEN - opening) / (_OPEN - _SHUT)).clamp(0, 1)


def window(latents: Tensor, lip_mask: Tensor) -> Tensor:
    """What of latents [B,C,F,h,w] lies around the middle of the lips: [B,C,F,m,m]."""
    size = (latents.shape[-2], latents.shape[-1])
    side = window_side(size)
    parts = []
    for sample, mask in zip(latents, lip_mask[:, 0], strict=True):
        top, left = window_place(mask, size)
        parts.append(sample[..., top : top + side, left : left + side])
    return torch.stack(parts)


def window_side(size: tuple[int, int]) -> int:
    """Cells of the window's side, of latents of (height, width) cells."""
    return max(1, round(WINDOW * min(size)))


def window_place(lip_mask: Tensor, size: tuple[int, int]) -> tuple[int, int]:
    """The first row and column of the window around the lips of a mask [h,w]."""
    top, left = (_first(lip_mask.sum(1 - axis), window_side(size)) for axis in (0, 1))
    return top, left


def _first(weights: Tensor, side: int) -> int:
    """Where `side` cells begin that have the middle of the weights [n] in theirs, and lie inside."""
    places = torch.arange(len(weights), device=weights.device)
    middle = ((weights * places).sum() / weights.sum()).item() if weights.sum() > 0 else (len(weights) - 1) / 2
    return min(max(round(middle - (side - 1) / 2), 0), len(weights) - side)
