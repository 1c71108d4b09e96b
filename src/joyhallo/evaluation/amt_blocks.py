"""The parts of AMT-S: features, the lookup of likeness between two pictures, decoders and updates.

Names of layers inside a part are those of the published file.

Axes: h, w an eighth of the picture, S offsets of a lookup, L levels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

SIDE = 20  # channels that a residual block treats apart
RADIUS, LEVELS = 3, 4


class Lookup:
    """How alike every place of one picture is to the places around where the flow leads in the other, both ways."""

    def __init__(self, first: Tensor, last: Tensor) -> None:
        """Takes the features [1, C, h, w] of both."""
        channels, height, width = first.shape[1:]
        likeness = first[0].flatten(1).T @ last[0].flatten(1) / channels**0.5  # [h·w of the first, h·w of the last]
        self._levels = []
        for way in (likeness, likeness.T):
            maps = way.unflatten(1, (1, height, width))  # [h·w, 1, h, w]
            pyramid = [maps]
            for _ in range(LEVELS - 1):
                pyramid.append(functional.avg_pool2d(pyramid[-1], 2))
            self._levels.append(pyramid)
        rows, columns = torch.meshgrid(*(torch.arange(n, device=first.device) for n in (height, width)), indexing="ij")
        self._places = torch.stack([columns, rows], -1).float()  # [h, w, 2] x, y

    def __call__(self, flows: Tensor) -> Tensor:
        """Likeness [1, 2·L·S, h, w] for the flows [1, 4, h, w] from the middle: first x, y to the first picture, then the last.

        A flow from the middle to one picture, doubled, leads from the other picture there.
        """
        height, width = flows.shape[2:]
        steps = torch.arange(-RADIUS, RADIUS + 1, device=flows.device, dtype=torch.float32)
        around = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), -1)  # x runs along the first axis, y along the second
        found = []
        for pyramid, flow in zip(self._levels, (flows[0, 2:], flows[0, :2]), strict=True):
            ends = self._places + 2 * flow.permute(1, 2, 0)
            for level, maps in enumerate(pyramid):
                places = ends.reshape(-1, 1, 1, 2) / 2**level + around
                size = torch.tensor(maps.shape[:1:-1], device=maps.device)
                grid = 2 * places / (size - 1).clamp(min=1) - 1
                read = functional.grid_sample(maps, grid, align_corners=True)  # beyond the picture nothing is alike
                found.append(read.reshape(height, width, -1))
        return torch.cat(found, -1).permute(2, 0, 1)[None]


def warp(pictures: Tensor, flow: Tensor) -> Tensor:
    """Pictures [B, C, H, W] read at the places where the flow [B, 2, H, W] in pixels leads; the border goes on beyond."""
    height, width = flow.shape[2:]
    rows, columns = torch.meshgrid(*(torch.arange(n, device=flow.device) for n in (height, width)), indexing="ij")
    places = torch.stack([columns, rows]) + flow
    size = torch.tensor([width - 1, height - 1], device=flow.device)
    grid = 2 * places.permute(0, 2, 3, 1) / size - 1
    return functional.grid_sample(pictures, grid, padding_mode="border", align_corners=True)


def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Three by three, with a learnt slope below zero."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.PReLU(outputs))


def decoder(inputs: int, inside: int, outputs: int) -> nn.Sequential:
    """What gives flows and a state of twice the size."""
    return nn.Sequential(convolution(inputs, inside), Residual(inside), nn.ConvTranspose2d(inside, outputs, 4, 2, 1))


class Residual(nn.Module):
    """Five convolutions, the second and fourth of which see the last channels alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv3 = convolution(channels, channels), convolution(channels, channels)
        self.conv2, self.conv4 = convolution(SIDE, SIDE), convolution(SIDE, SIDE)
        self.conv5 = nn.Conv2d(channels, channels, 3, padding=1)
        self.prelu = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for whole, side in ((self.conv1, self.conv2), (self.conv3, self.conv4)):
            out = whole(out)
            out = torch.cat([out[:, :-SIDE], side(out[:, -SIDE:])], 1)
        return self.prelu(x + self.conv5(out))


class Update(nn.Module):
    """Corrects the flows and the state by what the lookup finds, at an eighth of the size; `factor` times finer they come."""

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        hidden = 76
        self.convc1 = nn.Conv2d(2 * LEVELS * (2 * RADIUS + 1) ** 2, 64, 1)
        self.convf1, self.convf2 = nn.Conv2d(4, 40, 7, padding=3), nn.Conv2d(40, 20, 3, padding=1)
        self.conv = nn.Conv2d(84, 68, 3, padding=1)
        self.gru, self.feat_head, self.flow_head = (
            nn.Sequential(nn.Conv2d(i, hidden, 3, padding=1), nn.LeakyReLU(0.1), nn.Conv2d(hidden, o, 3, padding=1))
            for i, o in ((68 + 4 + channels, hidden), (hidden, channels), (hidden, 4))
        )

    def forward(self, state: Tensor, flows: Tensor, lookup: Lookup) -> tuple[Tensor, Tensor]:
        """Changes of the state and of the flows."""
        if self.factor > 1:
            state, flows = (self._scaled(x, 1 / self.factor) for x in (state, flows))
            flows = flows / self.factor
        leaky = nn.LeakyReLU(0.1)
        near = leaky(self.convc1(lookup(flows)))
        motion = leaky(self.convf2(leaky(self.convf1(flows))))
        seen = leaky(self.conv(torch.cat([near, motion], 1)))
        out = self.gru(torch.cat([seen, flows, state], 1))
        more_state, more_flows = self.feat_head(out), self.flow_head(out)
        if self.factor > 1:
            more_state, more_flows = (self._scaled(x, self.factor) for x in (more_state, more_flows))
            more_flows = more_flows * self.factor
        return more_state, more_flows

    def _scaled(self, x: Tensor, factor: float) -> Tensor:
        return functional.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


class Features(nn.Module):
    """What is compared between pictures: [B, 84, H/8, W/8]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 7, 2, padding=3)
        self.layer1 = nn.Sequential(_Bottleneck(32, 32, 1), _Bottleneck(32, 32, 1))
        self.layer2 = nn.Sequential(_Bottleneck(32, 64, 2), _Bottleneck(64, 64, 1))
        self.layer3 = nn.Sequential(_Bottleneck(64, 96, 2), _Bottleneck(96, 96, 1))
        self.conv2 = nn.Conv2d(96, 84, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.instance_norm(self.conv1(x)).relu()
        return self.conv2(self.layer3(self.layer2(self.layer1(x))))


class _Bottleneck(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        inside = outputs // 4
        self.conv1 = nn.Conv2d(inputs, inside, 1)
        self.conv2 = nn.Conv2d(inside, inside, 3, stride, padding=1)
        self.conv3 = nn.Conv2d(inside, outputs, 1)
        self.downsample = None if stride == 1 else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for layer in (self.conv1, self.conv2, self.conv3):
            out = functional.instance_norm(layer(out)).relu()
        if self.downsample is not None:
            x = functional.instance_norm(self.downsample(x))
        return (x + out).relu()
