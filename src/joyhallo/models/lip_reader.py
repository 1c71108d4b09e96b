"""A small network that reads where the lips are, trained by `training.lip_reader`: in every frame (`mouth.rest`), in portraits
that may smile (`conditioning.closed_lips`), and while others are trained.

Axes: N pictures, P lip points, S pixels of a side.
"""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

WINDOW = 3 / 8  # of a frame's shorter side: what is shown of it, around the lips
_WIDTHS = (24, 48, 64, 96)


class LipReader(ModelMixin, ConfigMixin):
    """Mouths [N,3,S,S] in [-1,1] → how far each lip point lies from the window's middle, [N,2·P], in the points' own units.

    The unit of a coordinate is how far it moves in a clip (standard deviation), plus one pixel: `units`, a buffer, in pixels.
    """

    units: Tensor

    @register_to_config
    def __init__(self, num_points: int, size_px: int = 96) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width in _WIDTHS:
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.GroupNorm(8, width), nn.SiLU()]
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.SiLU()]
            before = width
        self.look = nn.Sequential(*layers)
        side = size_px // 2 ** len(_WIDTHS)
        self.place = nn.Sequential(nn.Linear(before * side * side, 192), nn.SiLU(), nn.Linear(192, 2 * num_points))
        self.register_buffer("units", torch.ones(2 * num_points))

    def forward(self, mouths: Tensor) -> Tensor:
        return self.place(self.look(mouths).flatten(1))
