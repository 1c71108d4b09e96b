"""The speaker of a film, followed from picture to picture: stretches with one face, and what is wrong with the others.

Axes: F frames at 25 a second, K points of the face mesh.
"""

from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import dataclass

import cv2
import numpy as np

from joyhallo.conditioning.anatomy import LEFT_CHEEK, RIGHT_CHEEK, silhouette_box
from joyhallo.conditioning.face import Face, FaceMesh
from joyhallo.data.frames import FPS
from joyhallo.data.preparation.footage import Picture
from joyhallo.data.preparation.shots import ShotDetector

ANALYSIS_PX = 1280  # larger pictures are looked at reduced to this
CHECK_EVERY = 12  # frames between two counts of the faces in the picture
LOST_EVERY = 5  # frames between two looks for a speaker where there is none
OTHER_FACE_SHARE = 0.4  # a second face with a side of this share of the speaker's is a second speaker
MAX_JUMP = 0.25  # of the width of the face, in a 25th of a second: beyond, it is another shot or another face
SHARPNESS_PX = 128  # the side that faces are brought to before their sharpness is measured

NO_FACE, SEVERAL_FACES = "no face", "several faces"


@dataclass(frozen=True, eq=False)
class Stretch:
    """Consecutive frames of one shot, with one speaker or with none that can be used."""

    first_slot: int
    num_frames: int
    start_s: float  # on the film's own clock
    size: tuple[int, int]  # (height, width) of the film's pictures
    reason: str | None  # why there is no speaker: NO_FACE or SEVERAL_FACES
    points: np.ndarray  # [F, K, 3] float32 in pixels of the film's pictures; no frames where there is a reason
    sharpness: float  # median of some frames; 0 where there is a reason
    num_pictures: int  # different pictures: fewer than frames where the film has fewer than 25 a second

    def part(self, first: int, stop: int) -> "Stretch":
        """Frames `first` to `stop` of it."""
        share = (stop - first) / self.num_frames
        return Stretch(
            first_slot=self.first_slot + first,
            num_frames=stop - first,
            start_s=self.start_s + first / FPS,
            size=self.size,
            reason=self.reason,
            points=self.points[first:stop],
            sharpness=self.sharpness,
            num_pictures=round(self.num_pictures * share),
        )


def measure_sharpness(image: np.ndarray, box: np.ndarray) -> float:
    """Fine detail over contrast in a face: RMS of the Laplacian over the deviation of the luma, at 128 px.

    `image` [H, W, 3] uint8, `box` [4] x0, y0, x1, y1 of the face. A sharp face has 0.3 and more; blurred with a deviation of
    a hundredth of its height, half of that.
    """
    height, width = image.shape[:2]
    low = np.clip(np.floor(box[:2]).astype(int), 0, [width - 2, height - 2])
    high = np.clip(np.ceil(box[2:]).astype(int), low + 2, [width, height])
    luma = cv2.cvtColor(np.ascontiguousarray(image[low[1] : high[1], low[0] : high[0]]), cv2.COLOR_RGB2GRAY)
    luma = cv2.resize(luma, (SHARPNESS_PX, SHARPNESS_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    detail = cv2.Laplacian(luma, cv2.CV_32F)
    return float(np.sqrt(np.square(detail).mean()) / max(float(luma.std()), 1.0))


class SpeakerTracker:
    """Follows the one speaker through a film; faces are read in pictures reduced to `ANALYSIS_PX`."""

    def __init__(self, mesh: FaceMesh, max_frames: int, min_frames: int) -> None:
        """`max_frames`: longer stretches are split; `min_frames`: no split-off part is shorter. More than `CHECK_EVERY`."""
        self._mesh = mesh
        self._max_frames, self._min_frames = max_frames, min_frames

    def follow(self, pictures: Iterable[Picture]) -> Iterator[Stretch]:
        """All stretches of a film in order; every frame is in one."""
        shots = ShotDetector()
        now: _Open | None = None
        for picture in pictures:
            image = picture.pixels(ANALYSIS_PX)
            is_cut = picture.is_new and shots.is_cut(image)
            is_broken = now is not None and (picture.slot != now.next_slot or picture.size != now.size)
            following = self._begin(picture, image) if now is None or is_cut or is_broken else self._go_on(now, picture, image)
            if now is not None and following is not now:
                yield from now.close(self._max_frames)
            now = following
            if len(now) >= self._max_frames + self._min_frames:
                yield now.take(self._max_frames)
        if now is not None:
            yield from now.close(self._max_frames)

    def _begin(self, picture: Picture, image: np.ndarray) -> "_Open":
        faces = self._mesh.detect(image)
        reason = _judge(faces)
        face = self._mesh.track(image, faces[0]) if reason is None else None
        now = _Open(picture, NO_FACE if reason is None and face is None else reason)
        now.append(picture, image, face)
        if face is not None:
            now.sharpness.append(measure_sharpness(image, silhouette_box(face.landmarks)))
        return now

    def _go_on(self, now: "_Open", picture: Picture, image: np.ndarray) -> "_Open":
        """`now` with one more picture, or what begins with this picture."""
        if not picture.is_new:
            now.append(picture, image, now.face)
            return now
        if now.face is None:
            now.num_unchecked += 1
            if now.num_unchecked >= LOST_EVERY:
                following = self._begin(picture, image)
                if following.reason != now.reason:
                    return following
                now.num_unchecked = 0
            now.append(picture, image, None)
            return now
        face = self._mesh.track(image, now.face)
        if face is None or _jump(now.face, face) > MAX_JUMP:
            return self._begin(picture, image)
        now.append(picture, image, face)
        now.num_unchecked += 1
        if now.num_unchecked >= CHECK_EVERY:
            if _judge(self._mesh.detect(image)) == SEVERAL_FACES:
                return now.hand_over(SEVERAL_FACES)
            now.num_unchecked = 0
            now.sharpness.append(measure_sharpness(image, silhouette_box(face.landmarks)))
        return now


class _Open:
    """A stretch that is still growing."""

    def __init__(self, picture: Picture, reason: str | None) -> None:
        self.first_slot, self.start_s, self.size = picture.slot, picture.time_s, picture.size
        self.reason = reason
        self.face: Face | None = None  # the last one, in the reduced picture
        self.points: list[np.ndarray] = []
        self.is_new: list[bool] = []  # one entry a frame
        self.sharpness: list[float] = []
        self.num_unchecked = 0  # pictures since the faces were last counted

    def __len__(self) -> int:
        return len(self.is_new)

    @property
    def next_slot(self) -> int:
        return self.first_slot + len(self)

    def append(self, picture: Picture, image: np.ndarray, face: Face | None) -> None:
        self.face = face
        self.is_new.append(picture.is_new)
        if face is not None:
            across, down = picture.size[1] / image.shape[1], picture.size[0] / image.shape[0]
            self.points.append((face.landmarks * [across, down, across]).astype(np.float32))

    def hand_over(self, reason: str) -> "_Open":
        """A stretch without a speaker out of the frames since the last count."""
        count = self.num_unchecked
        other = copy(self)
        other.reason, other.face, other.num_unchecked = reason, None, 0
        other.points, other.sharpness, other.is_new = [], [], self.is_new[-count:]
        other.first_slot += len(self) - count
        other.start_s += (len(self) - count) / FPS
        del self.points[-count:], self.is_new[-count:]
        return other

    def take(self, count: int) -> Stretch:
        """The first `count` frames, which this one then no longer has."""
        stretch = Stretch(
            first_slot=self.first_slot,
            num_frames=count,
            start_s=self.start_s,
            size=self.size,
            reason=self.reason,
            points=np.stack(self.points[:count]) if self.points else np.zeros((0, 0, 3), np.float32),
            sharpness=float(np.median(self.sharpness)) if self.sharpness else 0.0,
            num_pictures=max(1, sum(self.is_new[:count])),
        )
        self.first_slot, self.start_s = self.first_slot + count, self.start_s + count / FPS
        del self.points[:count], self.is_new[:count]
        return stretch

    def close(self, max_frames: int) -> Iterator[Stretch]:
        """All that is left, in two halves if it is too long."""
        if len(self) > max_frames:
            yield self.take((len(self) + 1) // 2)
        if len(self):
            yield self.take(len(self))


def _judge(faces: list[Face]) -> str | None:
    """What is wrong with the faces of a picture, the largest first."""
    if not faces:
        return NO_FACE
    is_other = len(faces) > 1 and faces[1].area >= OTHER_FACE_SHARE**2 * faces[0].area
    return SEVERAL_FACES if is_other else None


def _jump(before: Face, after: Face) -> float:
    """How far the face has moved, or by how much its width has changed, in widths."""
    width = float(np.linalg.norm(before.landmarks[LEFT_CHEEK] - before.landmarks[RIGHT_CHEEK]))
    change = float(np.linalg.norm(after.landmarks[LEFT_CHEEK] - after.landmarks[RIGHT_CHEEK])) - width
    moved = float(np.linalg.norm((after.landmarks - before.landmarks)[:, :2].mean(0)))
    return max(moved, abs(change)) / max(width, 1.0)
