"""Films for tests: frames in memory, made faces whose lips obey, and ways to spoil them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from joyhallo.conditioning import anatomy
from joyhallo.evaluation.film import Film
from joyhallo.media.video import VideoWriter

FPS = 25.0
_PLACES = {
    33: (-0.5, 0, 0), 133: (-0.2, 0, 0), 362: (0.2, 0, 0), 263: (0.5, 0, 0), 1: (0, 0.4, -0.25), 168: (0, 0, -0.1),
    6: (0, 0.08, -0.12), 197: (0, 0.15, -0.15), 195: (0, 0.22, -0.18), 5: (0, 0.3, -0.22), 4: (0, 0.36, -0.25),
    151: (0, -0.5, 0), 9: (0, -0.2, -0.05), 8: (0, -0.1, -0.07),
}  # fmt: skip
SIZE = (240, 200)


@dataclass(frozen=True, eq=False)
class MadeFilm(Film):
    """A film whose frames and points are given."""

    pictures: tuple[np.ndarray, ...] = ()
    mesh: np.ndarray | None = None

    def frames(self) -> Iterator[np.ndarray]:
        return iter(self.pictures)

    @property
    def points(self) -> np.ndarray:
        return self.mesh


def made_film(points: np.ndarray, pictures: list[np.ndarray] | None = None, speech: np.ndarray | None = None) -> MadeFilm:
    pictures = pictures or [np.zeros((*SIZE, 3), np.uint8)] * len(points)
    size = pictures[0].shape[:2]
    return MadeFilm(Path("made.mp4"), FPS, len(points), size, speech, None, tuple(pictures), points.astype(np.float32))


def film_of(frames: list[np.ndarray]) -> MadeFilm:
    """A film of given frames, without sound and face."""
    return MadeFilm(Path("made.mp4"), FPS, len(frames), frames[0].shape[:2], None, pictures=tuple(frames))


@dataclass(frozen=True)
class Pose:
    """Where the head is, in every frame."""

    turn_deg: np.ndarray  # [N] to the side
    shift_px: np.ndarray  # [N, 2]


def still(num_frames: int) -> Pose:
    return Pose(np.zeros(num_frames), np.zeros((num_frames, 2)))


def made_points(
    opening: np.ndarray, width: np.ndarray, lids: np.ndarray, pose: Pose, eye_distance_px: float = 80.0
) -> np.ndarray:
    """Meshes [N, 478, 3] in pixels of a face whose lips open and widen as told, in eye distances; `lids` [N] of an open eye.

    Points without a meaning here lie on a smooth mask; rigid points have depth, so that turning can be measured.
    """
    random = np.random.default_rng(5)
    face = random.uniform(-0.7, 0.7, (478, 3)) * [1, 1.2, 0.1]
    face[:, 2] = 0.5 * (face[:, 0] ** 2 + 0.4 * face[:, 1] ** 2)
    outline = np.linspace(0, 2 * np.pi, len(anatomy.SILHOUETTE), endpoint=False)
    face[list(anatomy.SILHOUETTE)] = np.stack(
        [0.8 * np.sin(outline), 0.3 - 1.0 * np.cos(outline), np.full(len(outline), 0.4)], 1
    )
    for index, place in _PLACES.items():
        face[index] = place
    faces = np.repeat(face[None], len(opening), 0)
    depth = np.full(len(opening), -0.1)
    across = np.linspace(-0.5, 0.5, 11)
    upper_lips, lower_lips = (
        (anatomy.INNER_UPPER_LIP, anatomy.OUTER_UPPER_LIP),
        (anatomy.INNER_LOWER_LIP, anatomy.OUTER_LOWER_LIP),
    )
    for (line, outer), sign in ((upper_lips, -1), (lower_lips, 1)):
        for place, inner, rim in zip(across, line, outer, strict=True):
            height = sign * opening / 2 * (abs(place) < 0.4)
            faces[:, inner] = np.stack([place * width * 0.9, 0.85 + height, depth], 1)
            faces[:, rim] = np.stack([place * width, 0.85 + height + sign * 0.06, depth], 1)
    for pairs, middle in ((((160, 144), (159, 145), (158, 153)), -0.35), (((387, 373), (386, 374), (385, 380)), 0.35)):
        for upper, lower in pairs:
            for index, sign in ((upper, -1), (lower, 1)):
                faces[:, index] = np.stack([np.full(len(opening), middle), sign * lids * 0.05, np.zeros(len(opening))], 1)
    angle = np.radians(pose.turn_deg)
    x = faces[..., 0] * np.cos(angle)[:, None] + faces[..., 2] * np.sin(angle)[:, None]
    z = faces[..., 2] * np.cos(angle)[:, None] - faces[..., 0] * np.sin(angle)[:, None]
    result = np.stack([x, faces[..., 1], z], -1) * eye_distance_px
    result[..., :2] += pose.shift_px[:, None] + [SIZE[1] / 2, SIZE[0] / 3]
    return result


def tone(loudness: np.ndarray) -> np.ndarray:
    """Speech [N·640]: a hum as loud as told in every frame."""
    level = np.interp(np.arange(len(loudness) * 640) / 640 - 0.5, np.arange(len(loudness)), loudness)
    return (level * np.sin(2 * np.pi * 180 * np.arange(len(level)) / 16_000)).astype(np.float32)


def write_film(path: Path, pictures: list[np.ndarray], speech: np.ndarray | None) -> Path:
    with VideoWriter(path, size=pictures[0].shape[:2], speech=speech, metadata={}) as writer:
        for picture in pictures:
            writer.write(picture)
    return path


def blurred(pictures: list[np.ndarray]) -> list[np.ndarray]:
    return [cv2.GaussianBlur(picture, (0, 0), 2.5) for picture in pictures]


def noisy(pictures: list[np.ndarray]) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [np.clip(p + random.normal(0, 8, p.shape), 0, 255).astype(np.uint8) for p in pictures]


def flickering(pictures: list[np.ndarray]) -> list[np.ndarray]:
    return [np.clip(p * (1.04 if index % 2 else 0.96), 0, 255).astype(np.uint8) for index, p in enumerate(pictures)]


def frozen(pictures: list[np.ndarray]) -> list[np.ndarray]:
    return [pictures[0]] * len(pictures)


def shuffled(pictures: list[np.ndarray]) -> list[np.ndarray]:
    return [pictures[index] for index in order_of(len(pictures))]


def order_of(count: int) -> np.ndarray:
    """How `shuffled` puts frames."""
    return np.random.default_rng(0).permutation(count)


def drifting(pictures: list[np.ndarray]) -> list[np.ndarray]:
    """Colours that leave slowly, as clip after clip of a bad chain does."""
    tint = np.linspace(0, 24, len(pictures))
    return [np.clip(p + tint[index] * np.array([1, -0.5, -1]), 0, 255).astype(np.uint8) for index, p in enumerate(pictures)]


SPOILED: dict[str, Callable[[list[np.ndarray]], list[np.ndarray]]] = {
    "blurred": blurred, "noisy": noisy, "flickering": flickering, "frozen": frozen, "shuffled": shuffled, "drifting": drifting,
}  # fmt: skip
