"""S3FD, the face detector of the published lip-sync pipeline (Zhang et al. 2017): a VGG-16 with six heads.

Axes: B = 1 picture, C channels, K boxes, A anchors of all heads.
"""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from joyhallo.weights.checkpoint import build_and_load, open_tensors

MIN_SCORE = 0.9
SCALE = 0.25  # at which the published pipeline looks at a film
SMALL_SCALE = 0.5  # ours, where that would leave too little: a portrait of 512 pixels
SMALL_PX = 512

MEAN_RGB = (123.0, 117.0, 104.0)
ANCHORS = ((4, 16), (8, 32), (16, 64), (32, 128), (64, 256), (128, 512))  # (step, side) of each head, in pixels
VARIANCES = (0.1, 0.2)  # of the middle and of the size
MAX_CANDIDATES, MAX_KEPT = 5000, 750
CANDIDATE_OVERLAP, FINAL_OVERLAP = 0.3, 0.1

# the names of the published file, and ours
PARTS = {
    "vgg": "trunk",
    "L2Norm3_3": "norms.0",
    "L2Norm4_3": "norms.1",
    "L2Norm5_3": "norms.2",
    "extras": "extras",
    "loc": "places",
    "conf": "scores",
}
_TAPS = (16, 23, 30)  # layers of the trunk whose outputs the first three heads see
_LAYOUT = (64, 64, 0, 128, 128, 0, 256, 256, 256, -1, 512, 512, 512, 0, 512, 512, 512, 0)  # 0 and -1: pooling, -1 rounds up


class S3fd(nn.Module):
    """The network; `width` divides the channels between its ends, so that a small one can be made for tests."""

    def __init__(self, width: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        previous = 3
        for channels in _LAYOUT:
            if channels <= 0:
                layers.append(nn.MaxPool2d(2, 2, ceil_mode=channels < 0))
            else:
                layers += [nn.Conv2d(previous, channels // width, 3, padding=1), nn.ReLU()]
                previous = channels // width
        wide = 1024 // width
        layers += [nn.Conv2d(previous, wide, 3, padding=6, dilation=6), nn.ReLU(), nn.Conv2d(wide, wide, 1), nn.ReLU()]
        self.trunk = nn.ModuleList(layers)
        c = [n // width for n in (256, 512, 512, 1024, 512, 256)]  # what the heads see
        self.norms = nn.ModuleList([_Norm(c[0], 10.0), _Norm(c[1], 8.0), _Norm(c[2], 5.0)])
        narrow = 128 // width
        self.extras = nn.ModuleList(
            [
                nn.Conv2d(wide, c[5], 1),
                nn.Conv2d(c[5], c[4], 3, 2, padding=1),
                nn.Conv2d(c[4], narrow, 1),
                nn.Conv2d(narrow, c[5], 3, 2, padding=1),
            ]
        )
        self.places = nn.ModuleList([nn.Conv2d(n, 4, 3, padding=1) for n in c])
        self.scores = nn.ModuleList([nn.Conv2d(n, 4 if row == 0 else 2, 3, padding=1) for row, n in enumerate(c)])

    def forward(self, pixels: Tensor) -> Tensor:
        """Boxes and scores of all anchors, [A, 5]: x0, y0, x1, y1 as shares of the picture; of a picture [1, 3, H, W]."""
        height, width = pixels.shape[2:]
        seen = []
        for index, layer in enumerate(self.trunk):
            if index in _TAPS:
                seen.append(self.norms[len(seen)](pixels))
            pixels = layer(pixels)
        seen.append(pixels)
        for first, second in ((0, 1), (2, 3)):
            pixels = functional.relu(self.extras[second](functional.relu(self.extras[first](pixels))))
            seen.append(pixels)
        rows = []
        for index, features in enumerate(seen):
            scores = self.scores[index](features)[0]
            if index == 0:  # of the smallest faces, the likeliest of three backgrounds counts
                scores = torch.cat([scores[:3].max(0, keepdim=True).values, scores[3:]])
            face = scores.softmax(0)[1]
            step, side = ANCHORS[index]
            places = self.places[index](features)[0]
            rows.append(torch.cat([_decode(places, step, side, height, width), face[None]]).flatten(1).T)
        return torch.cat(rows)


class FaceDetector:
    """Finds faces in pictures of any size."""

    def __init__(self, network: S3fd, scale: float = SCALE) -> None:
        """Takes the network, in evaluation mode, and the size at which it sees a picture: a share of the picture's own."""
        self.network, self.scale = network, scale

    @torch.inference_mode()
    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """Boxes [K, 5] float64 x0, y0, x1, y1 in pixels and the score, the surest first, of a picture [H, W, 3] uint8 RGB."""
        device = next(self.network.parameters()).device
        shrunk = cv2.resize(picture, (0, 0), fx=self.scale, fy=self.scale, interpolation=cv2.INTER_LINEAR)
        pixels = torch.from_numpy(shrunk.astype(np.float32) - np.array(MEAN_RGB, np.float32)).permute(2, 0, 1)
        rows = self.network(pixels[None].to(device)).cpu().numpy().astype(np.float64)
        rows = rows[rows[:, 4] > MIN_SCORE]
        rows = rows[np.argsort(-rows[:, 4], kind="stable")][:MAX_CANDIDATES]
        rows = suppress(rows, CANDIDATE_OVERLAP)[:MAX_KEPT]
        rows[:, :4] *= np.tile([picture.shape[1], picture.shape[0]], 2)
        return suppress(rows, FINAL_OVERLAP)


def scale_for(size: tuple[int, int]) -> float:
    """The published scale; twice that where a picture of `size` (height, width) is small, which is a deviation of ours."""
    return SMALL_SCALE if min(size) <= SMALL_PX else SCALE


def load_s3fd(path: Path) -> S3fd:
    """The network with the weights of `sfd_face.pth`.

    Raises
    ------
    CheckpointError : the file is broken, or holds something else.
    """
    return build_and_load(S3fd, renamed(open_tensors(path)), dtype=torch.float32).eval()


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published tensors under our names."""
    split = {name: name.partition(".") for name in tensors}
    return {f"{PARTS.get(part, part)}.{rest}": tensors[name] for name, (part, _, rest) in split.items()}


def suppress(rows: np.ndarray, max_overlap: float) -> np.ndarray:
    """Of boxes [K, 5], the surest first, those that overlap no kept one by more (intersection over union)."""
    kept: list[int] = []
    areas = (rows[:, 2] - rows[:, 0]) * (rows[:, 3] - rows[:, 1])
    left = np.arange(len(rows))
    while len(left):
        best, rest = left[0], left[1:]
        kept.append(best)
        low, high = np.maximum(rows[best, :2], rows[rest, :2]), np.minimum(rows[best, 2:4], rows[rest, 2:4])
        shared = np.prod(np.clip(high - low, 0, None), axis=1)
        left = rest[shared / (areas[best] + areas[rest] - shared) <= max_overlap]
    return rows[kept]


def _decode(places: Tensor, step: int, side: int, height: int, width: int) -> Tensor:
    """Corners [4, h, w] as shares of a picture of that size, from what a head says [4, h, w] about its anchors."""
    rows, columns = (torch.arange(n, device=places.device) + 0.5 for n in places.shape[1:])
    size = torch.tensor([width, height], device=places.device)[:, None, None]
    middles = torch.stack(torch.broadcast_tensors(columns[None], rows[:, None])) * step / size
    sides = side / size
    middles = middles + places[:2] * VARIANCES[0] * sides
    halves = sides * torch.exp(places[2:] * VARIANCES[1]) / 2
    return torch.cat([middles - halves, middles + halves])


class _Norm(nn.Module):
    """Every pixel's features brought to a learnt length."""

    def __init__(self, channels: int, length: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), length))

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10) * self.weight[None, :, None, None]
