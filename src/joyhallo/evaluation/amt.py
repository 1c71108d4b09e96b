"""AMT-S (Li et al. 2023), the interpolation network that VBench's Smooth is defined with.

Its weights are published for non-commercial use only (CC BY-NC 4.0): nothing here fetches them unasked. The network is written
anew from its description; pictures are interpolated at the middle, which is all that the metric asks for.

Axes: H, W the picture.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from joyhallo.device import choose_device
from joyhallo.evaluation.amt_blocks import Features, Lookup, Update, convolution, decoder, warp
from joyhallo.weights import hub
from joyhallo.weights.checkpoint import load_strict, open_tensors
from joyhallo.weights.metric_files import AMT_FILE

CHANNELS = (20, 32, 44, 56)  # of the pyramid, from a half to a sixteenth
NUM_FLOWS = 3
DIVISOR = 16
FULL_PIXELS = 1024 * 512  # larger pictures are matched smaller

# names of the published file, and ours
_RENAMED: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"^feat_encoder\.", "features."),
    (r"^encoder\.pyramid(\d)\.", lambda found: f"pyramid.{int(found[1]) - 1}."),
    (r"^decoder(\d)\.convblock\.", lambda found: f"decoders.{4 - int(found[1])}."),
    (r"^update(\d)\.", lambda found: f"updates.{4 - int(found[1])}."),
    (r"^comb_block\.", "combine."),
)


class Amt(nn.Module):
    """The network: motion is guessed at a sixteenth of the size and made finer four times."""

    def __init__(self) -> None:
        super().__init__()
        self.features = Features()
        inputs = (3, *CHANNELS[:-1])
        self.pyramid = nn.ModuleList(
            [nn.Sequential(convolution(i, o, stride=2), convolution(o, o)) for i, o in zip(inputs, CHANNELS, strict=True)]
        )
        quarter, eighth, sixteenth = CHANNELS[1], CHANNELS[2], CHANNELS[3]
        self.decoders = nn.ModuleList(
            [
                decoder(2 * sixteenth + 1, 2 * sixteenth, eighth + 4),
                decoder(3 * eighth + 4, 3 * eighth, quarter + 4),
                decoder(3 * quarter + 4, 3 * quarter, CHANNELS[0] + 4),
                decoder(3 * CHANNELS[0] + 4, 3 * CHANNELS[0], 8 * NUM_FLOWS),
            ]
        )
        self.updates = nn.ModuleList([Update(eighth, 1), Update(quarter, 2), Update(CHANNELS[0], 4)])
        wide = 6 * NUM_FLOWS
        self.combine = nn.Sequential(
            nn.Conv2d(3 * NUM_FLOWS, wide, 3, padding=1), nn.PReLU(wide), nn.Conv2d(wide, 3, 3, padding=1)
        )

    def forward(self, first: Tensor, last: Tensor, scale: float = 1.0) -> Tensor:
        """The picture in the middle, [1, 3, H, W] in 0 … 1 like the two; `scale` · H and · W are multiples of 16."""
        size = first.shape[2:]
        mean = torch.cat([first, last], 2).mean((1, 2, 3), keepdim=True)
        pair = torch.cat([first, last]) - mean
        small = pair
        if scale != 1:
            small = _resized(pair, (round(size[0] * scale), round(size[1] * scale)))
        out = self._motion(small)
        flows, masks, rest = out.flows, out.masks, out.rest
        if scale != 1:
            flows, masks, rest = _resized(flows, size) / scale, _resized(masks, size), _resized(rest, size)
        count = [NUM_FLOWS, -1, -1, -1]
        moved = [warp(pair[i : i + 1].expand(*count), flows[i * NUM_FLOWS :][:NUM_FLOWS]) for i in (0, 1)]
        guesses = masks * moved[0] + (1 - masks) * moved[1] + mean + rest  # [3 hypotheses, 3, H, W]
        return (guesses.mean(0, keepdim=True) + self.combine(guesses.flatten(0, 1)[None])).clamp(0, 1)

    def _motion(self, pair: Tensor) -> "_Motion":
        """What the two pictures [2, 3, H, W] say about the one between."""
        lookup = Lookup(*self.features(pair).split(1))
        levels: list[Tensor] = []
        x = pair
        for level in self.pyramid:
            x = level(x)
            levels.append(x)
        deepest = levels[3]
        middle = torch.full_like(deepest[:1, :1], 0.5)
        out = self.decoders[0](torch.cat([deepest[:1], deepest[1:], middle], 1))
        flows, state = out[:, :4], out[:, 4:]  # flow to the first picture, flow to the last
        for step in range(3):
            more_state, more_flows = self.updates[step](state, flows, lookup)
            flows, state = flows + more_flows, state + more_state
            seen = levels[2 - step]
            near = [warp(seen[:1], flows[:, :2]), warp(seen[1:], flows[:, 2:])]
            out = self.decoders[step + 1](torch.cat([state, *near, flows], 1))
            doubled = 2 * functional.interpolate(flows, scale_factor=2, mode="bilinear", align_corners=False)
            if step < 2:
                flows, state = out[:, :4] + doubled, out[:, 4:]
        n = NUM_FLOWS
        repeated = torch.cat([doubled[:, :2].repeat(1, n, 1, 1), doubled[:, 2:].repeat(1, n, 1, 1)], 1)
        finest = (out[:, : 4 * n] + repeated)[0].unflatten(0, (2 * n, 2))
        masks, rest = out[0, 4 * n : 5 * n, None].sigmoid(), out[0, 5 * n :].unflatten(0, (n, 3))
        return _Motion(finest, masks, rest)


class _Motion:
    """Three hypotheses: flows [6, 2, H, W], of which three lead to the first picture; masks [3, 1, H, W]; rest [3, 3, H, W]."""

    def __init__(self, flows: Tensor, masks: Tensor, rest: Tensor) -> None:
        self.flows, self.masks, self.rest = flows, masks, rest


class AmtInterpolation:
    """An `Interpolate` of `evaluation.smoothness`."""

    def __init__(self, network: Amt) -> None:
        self._network = network

    @torch.inference_mode()
    def __call__(self, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        """The middle [H, W, 3] uint8 RGB of two pictures alike. The fraction of a grey level is cut off, as published."""
        device = next(self._network.parameters()).device
        pair = torch.from_numpy(np.stack([first, last])).to(device).permute(0, 3, 1, 2).float() / 255
        scale = scale_for(*first.shape[:2])
        (top, bottom), (left, right) = (_border(side, round(DIVISOR / scale)) for side in first.shape[:2])
        padded = functional.pad(pair, (left, right, top, bottom), mode="replicate")
        middle = self._network(padded[:1], padded[1:], scale)[
            0, :, top : padded.shape[2] - bottom, left : padded.shape[3] - right
        ]
        return (middle * 255).clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()


def scale_for(height: int, width: int) -> float:
    """At which size motion is looked for: 1 up to half a million pixels, less above.

    The published rule also counts the memory of the graphics card; this one gives the same number on every machine.
    """
    share = min(1.0, FULL_PIXELS / (height * width))
    return 1.0 if share == 1 else DIVISOR / float(np.floor(DIVISOR / share**0.5))


def load_amt(device: torch.device | str = "auto") -> AmtInterpolation | None:
    """AMT-S from the set "metrics-smooth"; None where the file is not on this machine.

    Raises
    ------
    CheckpointError : the file is broken, or holds something else.
    """
    path = hub.find(AMT_FILE)
    return None if path is None else AmtInterpolation(read_amt(path).to(choose_device(str(device))))


def read_amt(path: Path) -> Amt:
    """The network with the weights of `amt-s.pth`. Raises CheckpointError."""
    network = Amt()
    load_strict(network, renamed(open_tensors(path)), dtype=torch.float32)
    return network.eval()


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published tensors under our names."""
    ours = {}
    for name in tensors:
        new = name
        for pattern, replacement in _RENAMED:
            new = re.sub(pattern, replacement, new)
        ours[new] = tensors[name]
    return ours


def _border(side: int, divisor: int) -> tuple[int, int]:
    """Pixels to add before and after, so that a side becomes a multiple of `divisor`."""
    missing = -side % divisor
    return missing // 2, missing - missing // 2


def _resized(x: Tensor, size: tuple[int, ...]) -> Tensor:
    return functional.interpolate(x, tuple(size), mode="bilinear", align_corners=False)
