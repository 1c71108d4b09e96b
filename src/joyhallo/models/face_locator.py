"""Where the face is: a picture-sized mask becomes a feature added after the denoising network's first convolution."""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn


class FaceLocator(ModelMixin, ConfigMixin):
    """Face region [B,3,H,W] in {0,1} → [B,C,H/f,W/f], with f = 2 ** (number of widths - 1)."""

    @register_to_config
    def __init__(self, out_channels: int = 320, widths: Sequence[int] = (16, 32, 64, 128)) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for narrow, wide in pairwise(widths):
            self.blocks.append(nn.Conv2d(narrow, narrow, 3, padding=1))
            self.blocks.append(nn.Conv2d(narrow, wide, 3, padding=1, stride=2))
        self.conv_out = nn.Conv2d(widths[-1], out_channels, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)

    def forward(self, face_region: Tensor) -> Tensor:
        hidden = F.silu(self.conv_in(face_region))
        for block in self.blocks:
            hidden = F.silu(block(hidden))
        return self.conv_out(hidden)
