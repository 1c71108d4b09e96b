"""A small network that tells sampled mouths from decoded ones: a tool of training (`training.critic`).

Axes: N pictures, S pixels of a side, s places that are judged.
"""

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

_WIDTHS = (40, 80, 128)


class MouthCritic(nn.Module):
    """Mouths [N,3,S,S] in [-1,1] → how true each place looks, [N,s,s] with s = S/8; more is truer.

    A patch discriminator (Isola et al. 2017) whose layers have a spectral norm of one (Miyato et al. 2018).
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width in _WIDTHS:
            layers += [spectral_norm(nn.Conv2d(before, width, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]
            before = width
        self.look = nn.Sequential(*layers, spectral_norm(nn.Conv2d(before, before, 3, padding=1)), nn.LeakyReLU(0.2))
        self.judge = spectral_norm(nn.Conv2d(before, 1, 1))

    def forward(self, mouths: Tensor) -> Tensor:
        return self.judge(self.look(mouths))[:, 0]
