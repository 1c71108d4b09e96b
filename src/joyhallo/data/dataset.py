"""Prepared clips on disk (see `joyhallo.data.cache`), and random draws from them: what the denoiser is trained on.

Axes: S frames of all clips, N clips, R clips drawn, F frames, P past frames, K frames of a speech window, C channels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from joyhallo.conditioning.speech import WINDOW_RADIUS
from joyhallo.data.pixels import to_network
from joyhallo.models.conditions import REGIONS, RegionMasks
from joyhallo.models.speech_encoder import SAMPLES_PER_FRAME

PORTRAIT_SHARE = 0.6  # of the draws; the others are filmed videos


@dataclass(frozen=True)
class Clips:
    """Frames drawn from R clips, with their conditions."""

    latents: Tensor  # [R,C,F,h,w]
    portrait: Tensor  # [R,C,h,w] the picture that the frames are to be made from
    past: Tensor  # [R,P,C,h,w]
    face_embedding: Tensor  # [R,E]
    audio_window: Tensor  # [R,F,K,blocks,channels]
    face_region: Tensor  # [R,3,H,W]
    masks: RegionMasks


class Shard:
    """One folder of prepared clips; the arrays stay on disk until they are touched."""

    def __init__(self, folder: Path, encode_speech: Callable[[Tensor], Tensor], embed: Callable[[Tensor], Tensor]) -> None:
        def read(name: str) -> np.ndarray:
            return np.load(folder / f"{name}.npy", mmap_mode="r")

        self.start, self.num_frames = read("start"), read("num_frames")
        self.latents, self.still, self.face_box = read("latents"), read("still"), read("face_box")
        self.is_portrait, self.is_held_out = read("is_portrait"), read("is_held_out")
        self.masks = {region: [read(f"{region}_{depth}") for depth in range(2)] for region in REGIONS}
        speech = read("speech").reshape(len(self.latents), SAMPLES_PER_FRAME)
        rows = [slice(s, s + n) for s, n in zip(self.start, self.num_frames, strict=True)]
        parts = [encode_speech(torch.from_numpy(speech[row].reshape(-1).astype(np.float32))) for row in rows]
        self.features = torch.cat(parts).half()  # [S,blocks,channels]
        self.identity = torch.cat([embed(part) for part in to_network(read("aligned")).split(64)])

    def __len__(self) -> int:
        return len(self.start)


class ClipDataset:
    """All shards below a folder, without or only with the held-out people and recordings."""

    def __init__(
        self, folder: Path, encode_speech: Callable[[Tensor], Tensor], embed: Callable[[Tensor], Tensor], held_out: bool = False
    ) -> None:
        self.shards = [Shard(path, encode_speech, embed) for path in sorted(folder.glob("shard_*"))]
        if not self.shards:
            raise ValueError(f"no shard_* folder below {folder}: prepare clips first")
        self.portraits: list[tuple[int, int]] = []  # numbers of the shard and of the clip in it
        self.videos: list[tuple[int, int]] = []
        for number, shard in enumerate(self.shards):
            for clip in np.flatnonzero(shard.is_held_out == held_out):
                (self.portraits if shard.is_portrait[clip] else self.videos).append((number, int(clip)))

    def draw(self, generator: torch.Generator, num_clips: int, num_frames: int, num_past: int) -> Clips:
        """Draw clips and, in each, consecutive frames after `num_past` others; with no past, frames from all of the clip."""
        random = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        drawn = [self._clip(random, num_frames, num_past) for _ in range(num_clips)]
        masks = []
        for region in REGIONS:
            depths = zip(*(getattr(clip.masks, region) for clip in drawn), strict=True)
            masks.append(tuple(torch.cat(depth) for depth in depths))
        names = ("latents", "portrait", "past", "face_embedding", "audio_window", "face_region")
        stacked = {name: torch.stack([getattr(clip, name) for clip in drawn]) for name in names}
        return Clips(**stacked, masks=RegionMasks(*masks))

    def _clip(self, random: np.random.Generator, num_frames: int, num_past: int) -> Clips:
        pool = self.portraits if self.portraits and (not self.videos or random.random() < PORTRAIT_SHARE) else self.videos
        shard_index, clip = pool[random.integers(len(pool))]
        shard = self.shards[shard_index]
        first, length = int(shard.start[clip]), int(shard.num_frames[clip])
        if num_past:
            begin = int(random.integers(num_past, length - num_frames + 1))
            frames = np.arange(begin, begin + num_frames)
        else:
            begin, frames = 0, random.choice(length, num_frames, replace=False)
        still = shard.still[clip]
        if not shard.is_portrait[clip] and random.random() < 0.5:  # any frame of a video may be the portrait
            still = shard.latents[first + random.integers(length)]
        offsets = np.arange(-WINDOW_RADIUS, WINDOW_RADIUS + 1)
        window = np.clip(frames[:, None] + offsets, 0, length - 1) + first
        region = torch.zeros(3, 256, 256)
        x0, y0, x1, y1 = (int(v) for v in shard.face_box[clip])
        region[:, max(0, y0) : y1, max(0, x0) : x1] = 1
        masks = (tuple(_tensor(depth[clip])[None, None] for depth in shard.masks[region]) for region in REGIONS)
        return Clips(
            latents=_tensor(shard.latents[first + frames]).transpose(0, 1),
            portrait=_tensor(still),
            past=_tensor(shard.latents[first + begin - num_past : first + begin]),
            face_embedding=shard.identity[clip],
            audio_window=shard.features[torch.from_numpy(window)].float(),
            face_region=region,
            masks=RegionMasks(*masks),
        )


def _tensor(array: np.ndarray) -> Tensor:
    """A float32 copy of part of an array on disk."""
    return torch.from_numpy(np.array(array, np.float32))
