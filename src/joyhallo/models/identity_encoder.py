"""The small face recogniser of `mini`: an aligned face to a vector that stays the same for one person."""

from itertools import pairwise

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional


class _Stage(nn.Module):
    """Half the height and width, then one residual pair of convolutions."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        groups = 8
        self.down = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
        self.norm1 = nn.GroupNorm(groups, out_channels)
        self.conv1 = nn.Conv2d(out_channels, out_channels, 3, padding=1, groups=2)
        self.norm2 = nn.GroupNorm(groups, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = self.down(hidden)
        inner = self.conv1(functional.silu(self.norm1(hidden)))
        return hidden + self.conv2(functional.silu(self.norm2(inner)))


class IdentityNetwork(ModelMixin, ConfigMixin):
    """Aligned faces [B, 3, 112, 112] in [-1, 1] → embeddings [B, E] of length √E (variance one per entry).

    The places of the face keep their own weights at the end (no averaging over the picture): after alignment the same place
    always shows the same part.
    """

    @register_to_config
    def __init__(
        self, embedding_size: int = 128, widths: tuple[int, ...] = (24, 48, 96, 128), size: int = 112, narrow_channels: int = 32
    ) -> None:
        super().__init__()
        channels = (3, *widths)
        self.stages = nn.ModuleList(_Stage(before, after) for before, after in pairwise(channels))
        self.narrow = nn.Conv2d(widths[-1], narrow_channels, 1)
        side = size // 2 ** len(widths)
        self.project = nn.Linear(narrow_channels * side * side, embedding_size)

    def forward(self, faces: Tensor) -> Tensor:
        hidden = faces
        for stage in self.stages:
            hidden = stage(hidden)
        embedding = self.project(functional.silu(self.narrow(hidden)).flatten(1))
        return functional.normalize(embedding, dim=-1) * self.config.embedding_size**0.5
