"""What a run can do so far, seen and measured on people that it never trains on: the same clips, the same seed, every time.

Axes: F frames, C channels, S pixels of a side, h and w the latent place.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from joyhallo.conditioning.face import Face
from joyhallo.conditioning.portrait import Portrait
from joyhallo.data.batches import face_region, mask_depths
from joyhallo.data.dataset import Dataset
from joyhallo.data.frames import waveform_of
from joyhallo.data.samples import Annotations, Facts
from joyhallo.errors import UserError
from joyhallo.models.conditions import RegionMasks
from joyhallo.models.latents import downscale_factor, encode_pixels, to_pixels
from joyhallo.pipeline import JoyHalloPipeline
from joyhallo.sampling.options import Options
from joyhallo.video import Video

_TILE_PX = 128
_NUM_TILES = 6


@dataclass(frozen=True)
class Showing:
    """What a validation makes."""

    num_samples: int = 2  # held-out clips
    num_clips: int = 1  # of the pipeline's length, of each
    num_steps: int | None = None  # denoising steps; None: what the weights are made for
    seed: int = 42


@dataclass(frozen=True, eq=False)
class Validation:
    """What one validation found."""

    step: int
    videos: tuple[Path, ...]
    sheet: np.ndarray  # [H,W,3] uint8: a row of made frames above one of true frames for every clip, the portrait before them
    measures: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class _Clip:
    """A held-out clip, read once."""

    facts: Facts
    portrait: Portrait
    frames: np.ndarray  # [F,S,S,3] uint8
    speech: np.ndarray  # [F·640] float32


class Validator:
    """Makes videos of a few held-out clips with the weights that a pipeline has at the time."""

    def __init__(self, pipe: JoyHalloPipeline, dataset: Dataset, showing: Showing = Showing()) -> None:
        """Reads the clips.

        Raises:
            UserError: nothing is held out.
        """
        self.pipe, self.showing = pipe, showing
        longest = showing.num_clips * pipe.sampling.clip_length
        self.clips = [read_clip(dataset, i, longest, pipe) for i in choose(dataset.facts, showing.num_samples, longest)]

    def run(self, step: int, folder: Path) -> Validation:
        """Write one labelled mp4 per clip into `folder`, and measure.

        The weights, their gradients and the state of random numbers are left as they are.

        Raises:
            UserError: the weights make no finite numbers, or a file cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        videos, rows, found = [], [], []
        for clip in self.clips:
            speech = self.pipe.speech(clip.speech)
            made = [part.frames for part in self.pipe.stream(clip.portrait, speech, self._options())]
            frames = np.concatenate(made)[: len(clip.frames)]
            path = folder / f"step_{step:08d}_{clip.facts.key}.mp4"
            rest = self.pipe.rest(clip.portrait, speech)
            videos.append(Video(frames, self.pipe.sampling.fps, clip.portrait, clip.speech, rest).write(path))
            rows += [row(clip.portrait.picture, frames), row(None, clip.frames)]
            found.append(measure(self.pipe, clip.portrait, frames, clip.frames))
        measures = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
        return Validation(step, tuple(videos), np.concatenate(rows), measures)

    def _options(self) -> Options:
        return Options(num_steps=self.showing.num_steps, seed=self.showing.seed)


def choose(facts: Sequence[Facts], num_samples: int, num_frames: int) -> list[int]:
    """The same held-out clips every time: one speaker after the other, those that are long enough first.

    Raises:
        UserError: there are none.
    """
    held_out = [i for i, fact in enumerate(facts) if fact.is_held_out]
    if not held_out:
        raise UserError(
            f"none of the {len(facts)} samples is held out, so there is nothing to validate on: "
            "prepare with a larger --held-out-share, or set saving.validate_every_steps=0"
        )

    def rank(i: int) -> tuple[bool, str]:
        return facts[i].num_frames < num_frames, hashlib.sha256(facts[i].key.encode()).hexdigest()

    seen: dict[str, int] = {}
    order = []
    for i in sorted(held_out, key=rank):
        turn = seen[facts[i].speaker] = seen.get(facts[i].speaker, 0) + 1
        order.append((turn, rank(i), i))
    return [i for *_, i in sorted(order)[:num_samples]]


def held_out_only(facts: Sequence[Facts]) -> list[Facts]:
    """Facts for a `Picker` that draws held-out samples alone."""
    return [replace(fact, is_held_out=not fact.is_held_out) for fact in facts]


@torch.no_grad()
def held_out_loss(
    load: Callable[[list[int]], Any], losses: Callable[[Any], Tensor], num_samples: int, num_at_once: int
) -> float:
    """The mean loss of the first `num_samples` numbers of a run over held-out samples: the same draws every time."""
    found = []
    for first in range(0, num_samples, num_at_once):
        found.append(losses(load(list(range(first, min(first + num_at_once, num_samples))))).float().cpu())
    return torch.cat(found).mean().item()


@contextmanager
def exchanged(parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """While it lasts parameters have other values, such as their averages; afterwards their own to the last bit.

    Not for weights that are spread over processes (FSDP).
    """
    own = {name: parameter.data for name, parameter in parameters.items()}
    try:
        for name, parameter in parameters.items():
            parameter.data = tensors[name].detach().to(parameter.device, parameter.dtype)
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.data = own[name]


def read_clip(dataset: Dataset, i: int, longest: int, pipe: JoyHalloPipeline) -> _Clip:
    """The beginning of a sample, as the networks would be given a person and a recording."""
    facts, annotations = dataset.facts[i], dataset.annotations(i)
    num_frames = min(longest, facts.num_frames)
    frames = dataset.frames(i, range(num_frames))
    picture = dataset.portrait(i)
    samples = annotations.speech[: num_frames * len(annotations.speech) // facts.num_frames]
    portrait = portrait_of(frames[0] if picture is None else picture, annotations, pipe)
    return _Clip(facts, portrait, frames, waveform_of(samples))


def portrait_of(picture: np.ndarray, annotations: Annotations, pipe: JoyHalloPipeline) -> Portrait:
    """A sample's person with the conditions that training gives: nothing is detected anew."""
    side, factor = picture.shape[0], downscale_factor(pipe.vae)
    depths = len(pipe.denoising_network.config["widths"])
    masks = mask_depths(annotations.masks, (side // factor, side // factor), depths)
    return Portrait(
        pixels=to_pixels(picture[None])[0],
        face_embedding=torch.from_numpy(annotations.face_embedding.astype(np.float32)),
        face_region=face_region(annotations.face_box, side),
        masks=RegionMasks(*(tuple(mask[None] for mask in region) for region in masks)),
        picture=picture,
        crop=None,
        landmarks=annotations.points[0],
    )


@torch.no_grad()
def measure(pipe: JoyHalloPipeline, portrait: Portrait, made: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """What costs little to know of made frames [F,S,S,3] and the true ones.

    `latent_error`: mean squared difference of what is sampled. `lip_error`: the same, weighted with the lip mask.
    `lip_motion`: how much changes there from frame to frame, as a share of what changes in the true frames (1 is right).
    `identity`: cosine of the face embeddings of the middle frame and the portrait, where the pipeline has an encoder itself.
    """
    latents = [_latents(pipe, frames) for frames in (made, true)]  # [F,C,h,w]
    mask = portrait.masks.lip[0][0].to(latents[0])  # [1,h,w]
    squared = (latents[0] - latents[1]).square()
    moved = [(part[1:] - part[:-1]).abs().mul(mask).sum() for part in latents]
    found = {
        "latent_error": squared.mean().item(),
        "lip_error": (squared.mean((0, 1)) * mask[0]).sum().div(mask.sum().clamp(min=1e-6)).item(),
        "lip_motion": (moved[0] / moved[1].clamp(min=1e-6)).item(),
    }
    if pipe.identity_encoder is not None and pipe.identity is not None and np.isfinite(portrait.landmarks).all():
        box = np.concatenate([portrait.landmarks[:, :2].min(0), portrait.landmarks[:, :2].max(0)])
        middle = pipe.identity.embed(made[len(made) // 2], Face(1.0, box, portrait.landmarks))
        found["identity"] = torch.cosine_similarity(middle, portrait.face_embedding, dim=0).item()
    return found


def _latents(pipe: JoyHalloPipeline, frames: np.ndarray) -> Tensor:
    encoded = torch.cat([encode_pixels(pipe.vae, part) for part in to_pixels(frames).split(4)])
    return encoded.float() * pipe.sampling.latent_scale


def row(first: np.ndarray | None, frames: np.ndarray) -> np.ndarray:
    """A row of a sheet, [tile,(1 + tiles)·tile,3] uint8: a picture or black, then frames from all over a clip."""
    places = np.linspace(0, len(frames) - 1, _NUM_TILES).round().astype(int)
    black = np.zeros((_TILE_PX, _TILE_PX, 3), np.uint8)
    tiles = [black if first is None else _small(first), *(_small(frames[place]) for place in places)]
    return np.concatenate(tiles, axis=1)


def _small(frame: np.ndarray) -> np.ndarray:
    return cv2.resize(frame, (_TILE_PX, _TILE_PX), interpolation=cv2.INTER_AREA)
