"""Pictures of faces out of datasets, for the small encoders: known ones to train on, held-out ones to measure with."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from joyhallo.conditioning import anatomy
from joyhallo.data.dataset import Dataset, open_datasets
from joyhallo.errors import UserError

MAX_PICTURES = 4000  # of frames, and of portraits, that are held in memory: 0.8 GB at 256 px
_EVERY_FRAME = 9
_MAX_HELD_OUT = 48


@dataclass(frozen=True, eq=False)
class Pictures:
    """Square pictures with one face each."""

    images: np.ndarray  # [N, S, S, 3] uint8
    mouths: np.ndarray  # [N, 2] row and column of the middle of the mouth
    widths: np.ndarray  # [N] from one corner of the mouth to the other, pixels

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, eq=False)
class FaceData:
    """Portraits and frames; where a dataset has no portraits, frames stand for them, and the other way round."""

    portraits: Pictures
    frames: Pictures
    held_out_portraits: Pictures
    held_out_frames: Pictures

    @property
    def size_px(self) -> int:
        """S of all of them."""
        return int(self.portraits.images.shape[1])


def read_face_data(folders: Sequence[Path]) -> FaceData:
    """Read datasets. Raises UserError when nothing is held out, or everything: there is nothing to measure with then."""
    dataset = open_datasets(folders)
    known, held_out = (
        [i for i, facts in enumerate(dataset.facts) if facts.is_held_out == is_held] for is_held in (False, True)
    )
    for chosen, what in ((known, "known"), (held_out, "held out")):
        if not chosen:
            raise UserError(
                f"no clip of {', '.join(map(str, folders))} is {what}: training needs known people and held-out ones to "
                "measure with; give datasets with more people or videos"
            )
    return FaceData(
        *_or_each_other(_portraits(dataset, known, MAX_PICTURES), _frames(dataset, known, MAX_PICTURES)),
        *_or_each_other(_portraits(dataset, held_out, _MAX_HELD_OUT), _frames(dataset, held_out, _MAX_HELD_OUT)),
    )


def _or_each_other(portraits: Pictures | None, frames: Pictures | None) -> tuple[Pictures, Pictures]:
    first, second = portraits or frames, frames or portraits
    assert first is not None  # every clip has frames
    assert second is not None
    return first, second


def _portraits(dataset: Dataset, chosen: Sequence[int], at_most: int) -> Pictures | None:
    """The stills that clips were made from; their points are those of the median frame, which is near."""
    images, points = [], []
    for i in _evenly(chosen, at_most):
        portrait = dataset.portrait(i)
        if portrait is not None:
            images.append(portrait)
            points.append(np.median(dataset.annotations(i).points, 0))
    return _pictures(images, points)


def _frames(dataset: Dataset, chosen: Sequence[int], at_most: int) -> Pictures | None:
    per_clip = [range(min(4, dataset.facts[i].num_frames - 1), dataset.facts[i].num_frames, _EVERY_FRAME) for i in chosen]
    every = [(i, frame) for i, frames in zip(chosen, per_clip, strict=True) for frame in frames]
    wanted: dict[int, list[int]] = {}
    for i, frame in _evenly(every, at_most):
        wanted.setdefault(i, []).append(frame)
    images, points = [], []
    for i, frames in wanted.items():
        images += list(dataset.frames(i, frames))
        points += list(dataset.annotations(i).points[frames])
    return _pictures(images, points)


def _pictures(images: list[np.ndarray], points: list[np.ndarray]) -> Pictures | None:
    kept = [number for number, place in enumerate(points) if np.isfinite(place).all()]
    if not kept:
        return None
    corners = np.stack([points[number][[anatomy.RIGHT_MOUTH_CORNER, anatomy.LEFT_MOUTH_CORNER], :2] for number in kept])
    widths = np.linalg.norm(corners[:, 1] - corners[:, 0], axis=-1)
    return Pictures(np.stack([images[number] for number in kept]), corners.mean(1)[:, ::-1], widths)


def _evenly(values: Sequence, at_most: int) -> Iterator:
    """All of them, or as many as allowed at even distances."""
    count = min(len(values), at_most)
    for number in range(count):
        yield values[number * len(values) // count]
