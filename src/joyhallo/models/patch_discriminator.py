"""A small network that tells made pictures from true ones: a tool of training, of the autoencoder's decoder and of mouths.

Axes: B pictures, S pixels of a side, s places that are judged.
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm


class PatchDiscriminator(nn.Module):
    """Judges overlapping patches of pictures [B,3,S,S] (Isola et al. 2017); gives its intermediate features too.

    Its layers have a spectral norm of one (Miyato et al. 2018).
    """

    def __init__(self, widths: Sequence[int], judge_side: int) -> None:
        """`widths`: channels of the layers that halve the side; `judge_side`: of the last convolution, 1 or 3."""
        super().__init__()
        halving = (spectral_norm(nn.Conv2d(before, width, 4, 2, 1)) for before, width in pairwise((3, *widths)))
        self.layers = nn.ModuleList(halving)
        self.layers.append(spectral_norm(nn.Conv2d(widths[-1], widths[-1], 3, padding=1)))
        self.judge = spectral_norm(nn.Conv2d(widths[-1], 1, judge_side, padding=judge_side // 2))

    def features(self, pictures: Tensor) -> list[Tensor]:
        """Activations after every layer, then the verdict [B,1,s,s] last; more is truer."""
        activations = []
        for layer in self.layers:
            pictures = functional.leaky_relu(layer(pictures), 0.2)
            activations.append(pictures)
        return [*activations, self.judge(pictures)]

    def forward(self, pictures: Tensor) -> Tensor:
        """The verdict alone."""
        return self.features(pictures)[-1]


def hinge_loss(true: Tensor, made: Tensor) -> Tensor:
    """How badly verdicts tell true pictures from made ones (Lim & Ye 2017): []."""
    return functional.relu(1 - true).mean() + functional.relu(1 + made).mean()
