"""From a dataset to the batches of a training run.

Reading (`load`) and what needs the training's device (`finish`) are apart, so that the first can run ahead in a thread.

Axes: B samples, R rows of a sample (the portrait, P past frames, F frames), C channels, h and w the latent place,
S pixels of a side, K frames of a speech window.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from joyhallo.conditioning.speech import WINDOW_RADIUS
from joyhallo.data.picking import Drawing, Pick, Picker
from joyhallo.data.samples import Annotations
from joyhallo.models.conditions import RegionMasks
from joyhallo.models.latents import LatentSpace

__all__ = ["Batch", "Batches", "Drawing", "Fit", "LatentRows", "Loaded", "SpeechRows"]


@dataclass(frozen=True)
class Batch:
    """Clips with their conditions; every sample has its own portrait."""

    latents: Tensor  # [B,C,F,h,w] in the form the denoising network predicts
    reference_latents: Tensor  # [B,1+P,C,h,w] the portrait, then the past frames
    face_embedding: Tensor  # [B,E]
    audio_window: Tensor | None  # [B,F,K,blocks,channels]
    face_region: Tensor  # [B,3,S,S] in {0,1}
    masks: RegionMasks
    start_latents: Tensor | None = None  # [B,P,C,h,w] what stands for the past at a video's start; None: the portrait


class LatentRows(Protocol):
    """Where latents come from."""

    def read(self, pick: Pick) -> Tensor:
        """What is kept of a pick's portrait, past frames and frames, [R,…] on the CPU."""
        ...

    def latents(self, rows: Tensor, picks: Sequence[Pick]) -> Tensor:
        """Latents [B,R,C,h,w] of what was read, [B,R,…], float32."""
        ...

    def grey(self, picks: Sequence[Pick], num_past: int) -> Tensor:
        """Latents [B,P,C,h,w] of grey pictures, float32."""
        ...


class SpeechRows(Protocol):
    """Where speech features come from."""

    def rows(self, sample: int, annotations: Annotations) -> np.ndarray:
        """Features [F,blocks,channels] of all frames of a sample."""
        ...


@dataclass(frozen=True)
class Fit:
    """What the networks need batches to be."""

    space: LatentSpace
    latent_size: tuple[int, int]
    num_depths: int


@dataclass(frozen=True)
class Loaded:
    """A batch as it was read, on the CPU."""

    picks: tuple[Pick, ...]
    rows: Tensor  # [B,R,…]
    face_embedding: Tensor
    audio_window: Tensor | None
    face_region: Tensor
    masks: RegionMasks


class Batches:
    """Sample numbers → batches; holds no state that a batch depends on."""

    def __init__(self, picker: Picker, dataset: "Clips", latents: LatentRows, speech: SpeechRows | None, fit: Fit) -> None:
        """`speech` None: the networks hear nothing."""
        self.picker, self.dataset, self.source, self.speech, self.fit = picker, dataset, latents, speech, fit
        self.drawing = picker.drawing

    def load(self, numbers: Sequence[int]) -> Loaded:
        """Read the samples of these numbers, in this order."""
        picks = tuple(self.picker.pick(number) for number in numbers)
        rows, embeddings, windows, regions, masks = [], [], [], [], []
        for pick in picks:
            annotations = self.dataset.annotations(pick.sample)
            rows.append(self.source.read(pick))
            embeddings.append(torch.from_numpy(annotations.face_embedding.astype(np.float32)))
            regions.append(face_region(annotations.face_box, self.picker.facts[pick.sample].size_px))
            masks.append(mask_depths(annotations.masks, self.fit.latent_size, self.fit.num_depths))
            if self.speech is not None:
                windows.append(speech_window(self.speech.rows(pick.sample, annotations), pick.frames))
        by_region = (tuple(torch.stack(depth) for depth in zip(*region, strict=True)) for region in zip(*masks, strict=True))
        return Loaded(
            picks,
            torch.stack(rows),
            torch.stack(embeddings),
            torch.stack(windows) if windows else None,
            torch.stack(regions),
            RegionMasks(*by_region),
        )

    @torch.no_grad()
    def finish(self, loaded: Loaded, device: torch.device) -> Batch:
        """Encode what is not encoded yet, draw latents where they are drawn, and move everything to the device."""
        latents = self.source.latents(loaded.rows, loaded.picks).to(device, torch.float32)  # [B,R,C,h,w]
        num_past, space = self.drawing.num_past, self.fit.space
        portrait = latents[:, :1]
        frames = latents[:, 1 + num_past :].transpose(1, 2)  # [B,C,F,h,w]
        start = None
        if self.drawing.start == "grey" and num_past:
            start = space.of_reference(self.source.grey(loaded.picks, num_past).to(device, torch.float32))
        window = loaded.audio_window
        return Batch(
            latents=space.to_sampled(frames, portrait.transpose(1, 2)),
            reference_latents=space.of_reference(latents[:, : 1 + num_past]),
            face_embedding=loaded.face_embedding.to(device),
            audio_window=None if window is None else window.to(device),
            face_region=loaded.face_region.to(device),
            masks=loaded.masks.to(device, torch.float32),
            start_latents=start,
        )


class Clips(Protocol):
    """What of a dataset the batches read."""

    def annotations(self, index: int, /) -> Annotations: ...


def speech_window(features: np.ndarray, frames: Sequence[int]) -> Tensor:
    """Features [L,blocks,channels] of a clip → windows [F,K,blocks,channels] around frames, clamped to the clip."""
    offsets = np.arange(-WINDOW_RADIUS, WINDOW_RADIUS + 1)
    places = np.clip(np.asarray(frames)[:, None] + offsets, 0, len(features) - 1)
    return torch.from_numpy(np.ascontiguousarray(features[places], np.float32))


def face_region(box: np.ndarray, size_px: int) -> Tensor:
    """The face rectangle x0, y0, x1, y1 as the face locator takes it: [3,S,S], 1 inside."""
    x0, y0, x1, y1 = (max(0, int(side)) for side in box)
    region = torch.zeros(3, size_px, size_px)
    region[:, y0:y1, x0:x1] = 1
    return region


def mask_depths(masks: np.ndarray, size: tuple[int, int], num_depths: int) -> tuple[tuple[Tensor, ...], ...]:
    """Masks [3,64,64] uint8 → for every region one tensor [1,h,w] in [0,1] a depth, resized as the pipeline does it."""
    sizes = [(-(-size[0] // 2**i), -(-size[1] // 2**i)) for i in range(num_depths)]
    return tuple(tuple(_resized(mask, one) for one in sizes) for mask in masks)


def _resized(mask: np.ndarray, size: tuple[int, int]) -> Tensor:
    picture = Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(picture, np.float32) / 255.0)[None]
