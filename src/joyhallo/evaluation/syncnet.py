"""SyncNet v2, the published expert that puts five video frames and 0.2 s of sound into one space (Chung and Zisserman 2016).

Axes: B windows, T video frames, M windows of coefficients, E = 1024 numbers of an embedding.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from joyhallo.evaluation.mfcc import NUM_COEFFICIENTS
from joyhallo.weights.checkpoint import build_and_load, open_tensors

FACE_PX = 224
NUM_FRAMES = 5  # that one embedding of lips looks at
NUM_STEPS = 20  # of coefficients that one embedding of sound looks at
STEPS_PER_FRAME = 4
NUM_EMBEDDING = 1024

# the names of the published file, and ours
PARTS = {
    "netcnnaud": "audio_trunk",
    "netfcaud": "audio_head",
    "netcnnlip": "lip_trunk",
    "netfclip": "lip_head",
}
_COUNTER = "num_batches_tracked"


class SyncNet(nn.Module):
    """Both branches; `width` divides all channels, so that a small one can be made for tests."""

    def __init__(self, width: int = 1) -> None:
        super().__init__()
        w = [n // width for n in (64, 192, 384, 256, 512)]
        self.audio_trunk = nn.Sequential(
            *_convolution(nn.Conv2d(1, w[0], 3, padding=1)),
            nn.MaxPool2d(1, 1),
            *_convolution(nn.Conv2d(w[0], w[1], 3, padding=1)),
            nn.MaxPool2d(3, (1, 2)),
            *_convolution(nn.Conv2d(w[1], w[2], 3, padding=1)),
            *_convolution(nn.Conv2d(w[2], w[3], 3, padding=1)),
            *_convolution(nn.Conv2d(w[3], w[3], 3, padding=1)),
            nn.MaxPool2d(3, 2),
            *_convolution(nn.Conv2d(w[3], w[4], (5, 4))),
        )
        v = [96 // width, 256 // width, 512 // width]
        self.lip_trunk = nn.Sequential(
            *_convolution(nn.Conv3d(3, v[0], (NUM_FRAMES, 7, 7), (1, 2, 2))),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_convolution(nn.Conv3d(v[0], v[1], (1, 5, 5), (1, 2, 2), (0, 1, 1))),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            *_convolution(nn.Conv3d(v[1], v[1], (1, 3, 3), padding=(0, 1, 1))),
            *_convolution(nn.Conv3d(v[1], v[1], (1, 3, 3), padding=(0, 1, 1))),
            *_convolution(nn.Conv3d(v[1], v[1], (1, 3, 3), padding=(0, 1, 1))),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_convolution(nn.Conv3d(v[1], v[2], (1, 6, 6))),
        )
        self.audio_head, self.lip_head = _head(w[4], width), _head(v[2], width)

    def embed_sound(self, coefficients: Tensor) -> Tensor:
        """[B, E] of coefficients [B, 13, 20]; not of unit length."""
        return self.audio_head(self.audio_trunk(coefficients[:, None]).flatten(1))

    def embed_lips(self, frames: Tensor) -> Tensor:
        """[T - 4, E] of faces [T, 3, 224, 224], BGR in 0 … 255: one embedding for every five frames in a row.

        Only the first layer looks across frames, so a run of frames costs no more than its windows one by one, and gives the
        same.
        """
        volume = frames.transpose(0, 1)[None]  # [1, 3, T, 224, 224]
        features = self.lip_trunk(volume)  # [1, C, T - 4, 1, 1]
        return self.lip_head(features[0, :, :, 0, 0].T)


def our_name(published: str) -> str:
    """The name of a published tensor in our network; names it does not know are left as they are."""
    part, dot, rest = published.partition(".")
    return PARTS.get(part, part) + dot + rest


def published_shapes() -> dict[str, tuple[int, ...]]:
    """The names and shapes in the published file, without the counters that some releases of PyTorch add."""
    with torch.device("meta"):
        ours = SyncNet().state_dict()
    theirs = {ours_part: part for part, ours_part in PARTS.items()}
    named = ((name.partition("."), tuple(value.shape)) for name, value in ours.items() if not name.endswith(_COUNTER))
    return {f"{theirs[part]}.{rest}": shape for (part, _, rest), shape in named}


def load_syncnet(path: Path) -> SyncNet:
    """The network with the weights of `syncnet_v2.model`, ready to measure.

    Raises
    ------
    CheckpointError : the file is broken, or holds something else.
    """
    return build_and_load(SyncNet, renamed(open_tensors(path)), dtype=torch.float32).eval()


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published tensors under our names; the counters of batches, which do nothing here, are put in where they are absent."""
    ours = {our_name(name): tensors[name] for name in tensors}
    means = [name for name in ours if name.endswith(".running_mean")]
    for name in means:
        ours.setdefault(name.removesuffix("running_mean") + _COUNTER, torch.zeros((), dtype=torch.long))
    return ours


@torch.inference_mode()
def lip_embeddings(network: SyncNet, faces: Iterable[np.ndarray], batch: int = 16) -> np.ndarray:
    """Embeddings [N - 4, E] float32 of N faces, each [224, 224, 3] uint8 RGB; at most `batch` + 4 of them are kept."""
    device = next(network.parameters()).device
    found = []
    for run in _runs(faces, batch):
        pixels = torch.from_numpy(np.stack(run)[..., ::-1].copy()).to(device)  # to BGR, as it was trained
        found.append(network.embed_lips(pixels.permute(0, 3, 1, 2).float()).cpu().numpy())
    if not found:
        raise ValueError(f"{NUM_FRAMES} faces are needed for an embedding of lips")
    return np.concatenate(found)


@torch.inference_mode()
def sound_embeddings(network: SyncNet, coefficients: np.ndarray, num_windows: int, batch: int = 256) -> np.ndarray:
    """Embeddings [num_windows, E] float32 of coefficients [M, 13]: window i begins with video frame i."""
    device = next(network.parameters()).device
    if coefficients.shape[1:] != (NUM_COEFFICIENTS,) or len(coefficients) < (num_windows - 1) * STEPS_PER_FRAME + NUM_STEPS:
        raise ValueError(f"{num_windows} windows need more coefficients than {list(coefficients.shape)}")
    steps = np.lib.stride_tricks.sliding_window_view(coefficients, NUM_STEPS, axis=0)  # [M - 19, 13, 20]
    windows = steps[::STEPS_PER_FRAME][:num_windows].astype(np.float32)
    parts = [torch.from_numpy(windows[start : start + batch].copy()).to(device) for start in range(0, num_windows, batch)]
    return np.concatenate([network.embed_sound(part).cpu().numpy() for part in parts])


def _runs(faces: Iterable[np.ndarray], batch: int) -> Iterator[list[np.ndarray]]:
    """Runs of at most `batch` + 4 faces that overlap by four."""
    waiting: list[np.ndarray] = []
    for face in faces:
        waiting.append(face)
        if len(waiting) == batch + NUM_FRAMES - 1:
            yield waiting
            waiting = waiting[batch:]
    if len(waiting) >= NUM_FRAMES:
        yield waiting


def _convolution(layer: nn.Conv2d | nn.Conv3d) -> tuple[nn.Module, nn.Module, nn.Module]:
    norm = nn.BatchNorm3d if isinstance(layer, nn.Conv3d) else nn.BatchNorm2d
    return layer, norm(layer.out_channels), nn.ReLU()


def _head(num_features: int, width: int) -> nn.Sequential:
    hidden = 512 // width
    return nn.Sequential(
        nn.Linear(num_features, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, NUM_EMBEDDING // width)
    )
