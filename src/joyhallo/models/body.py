"""The U-Net between its first and its last convolution, with attention sites left open.

The topology is Stable Diffusion 1.5's: on every level residual blocks, an attention site after each where the level has
attention, then a change of size; one residual block more per level on the way up, each fed with a skip connection.

Axes: N rows, C channels, H and W the place.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from joyhallo.models.blocks import Downsample, ResnetBlock, TimestepEmbedding, Upsample
from joyhallo.models.recompute import Run


class SitePlan(NamedTuple):
    """Where an attention site stands."""

    channels: int
    audio_channels: int  # inner width of its audio module: the width of the block's input level


class Level(nn.Module):
    """Residual blocks of one depth, an attention site after each where the level has attention, then the change of size."""

    def __init__(self, resnets: list[ResnetBlock], sites: list[nn.Module], resample: nn.Module | None) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        self.sites = nn.ModuleList(sites)
        self.resample = resample

    def pairs(self) -> Iterator[tuple[nn.Module, nn.Module | None]]:
        sites = self.sites or [None] * len(self.resnets)
        return zip(self.resnets, sites, strict=False)


class Body(nn.Module):
    """The U-Net between its first and its last convolution. What happens at an attention site is the caller's."""

    def __init__(
        self,
        widths: Sequence[int],
        attention_levels: Sequence[bool],
        layers_per_level: int,
        num_groups: int,
        make_site: Callable[[SitePlan], nn.Module],
    ) -> None:
        super().__init__()
        if len(widths) != len(attention_levels):
            raise ValueError(f"{len(widths)} widths {list(widths)} but {len(attention_levels)} attention levels")
        time_dim = 4 * widths[0]
        deepest = len(widths) - 1
        resnet = lambda i, o: ResnetBlock(i, o, time_dim, num_groups)  # noqa: E731
        self.time_embedding = TimestepEmbedding(widths[0], time_dim)
        self.down = nn.ModuleList()
        skips = [widths[0]]
        for depth, width in enumerate(widths):
            incoming = widths[max(depth - 1, 0)]
            inputs = [incoming] + [width] * (layers_per_level - 1)
            sites = [make_site(SitePlan(width, i)) for i in inputs] if attention_levels[depth] else []
            shrink = Downsample(width) if depth < deepest else None
            self.down.append(Level([resnet(i, width) for i in inputs], sites, shrink))
            skips += [width] * (layers_per_level + (shrink is not None))
        width = widths[-1]
        self.mid = Level([resnet(width, width), resnet(width, width)], [make_site(SitePlan(width, width))], None)
        self.up = nn.ModuleList()
        for depth in reversed(range(len(widths))):
            inputs = [width] + [widths[depth]] * layers_per_level
            width = widths[depth]
            plan = SitePlan(width, widths[max(depth - 1, 0)])
            sites = [make_site(plan) for _ in inputs] if attention_levels[depth] else []
            resnets = [resnet(i + skips.pop(), width) for i in inputs]
            self.up.append(Level(resnets, sites, Upsample(width) if depth else None))

    def sites(self) -> Iterator[tuple[int, nn.Module]]:
        """The attention sites in the order of execution, each with its depth."""
        deepest = len(self.down) - 1
        for depth, level in (*enumerate(self.down), (deepest, self.mid), *zip(range(deepest, -1, -1), self.up, strict=True)):
            for site in level.sites:
                yield depth, site

    def forward(self, x: Tensor, timestep: Tensor, attend: Callable[[nn.Module, int, Tensor], Tensor], run: Run) -> Tensor:
        """x [N,C,H,W] after the first convolution, timestep [B], attend(site, depth, x) → x; returns [N,C,H,W].

        `run` calls every part but the sites, which are the caller's (see `recompute.runner`).
        """
        time = F.silu(self.time_embedding(timestep))
        skips = [x]
        for depth, level in enumerate(self.down):
            for resnet, site in level.pairs():
                x = run(resnet, x, time)
                x = attend(site, depth, x) if site is not None else x
                skips.append(x)
            if level.resample is not None:
                x = run(level.resample, x)
                skips.append(x)
        deepest = len(self.down) - 1
        x = run(self.mid.resnets[0], x, time)
        x = attend(self.mid.sites[0], deepest, x)
        x = run(self.mid.resnets[1], x, time)
        for depth, level in zip(reversed(range(len(self.up))), self.up, strict=True):
            for resnet, site in level.pairs():
                x = run(join, resnet, x, skips.pop(), time)
                x = attend(site, depth, x) if site is not None else x
            if level.resample is not None:
                x = run(level.resample, x, skips[-1].shape[-2:])
        return x


def join(resnet: ResnetBlock, x: Tensor, skip: Tensor, time: Tensor) -> Tensor:
    """A residual block of the way up, fed with the skip connection."""
    return resnet(torch.cat([x, skip], dim=1), time)
