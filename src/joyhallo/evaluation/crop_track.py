"""From a film to the 224-pixel faces that the lip-sync expert looks at: detections linked to tracks, smoothed and cropped.

The steps and constants are those of the expert's own pipeline. It keeps its pictures as JPEG and its crops as XVID between the
steps; here they stay as they are.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import cv2
import numpy as np

from joyhallo.evaluation.syncnet import FACE_PX

RATE_FPS = 25
MIN_TRACK_FRAMES = 100
MIN_FACE_PX = 100
MIN_OVERLAP = 0.5  # intersection over union of one face in neighbouring frames
MAX_GAP_FRAMES = 25
SMOOTHING_FRAMES = 13
MARGIN = 0.4
PADDING = 110
CUT = 27.0  # mean change of hue, saturation and value that begins a new shot: PySceneDetect's default
MIN_SHOT_FRAMES = 15  # no cut sooner after the last: its default too

FindFaces = Callable[[np.ndarray], np.ndarray]  # a picture [H, W, 3] uint8 RGB → [K, 5] x0, y0, x1, y1, score


@dataclass(frozen=True, eq=False)
class Track:
    """One face from frame to frame."""

    first_frame: int
    boxes: np.ndarray  # [N, 4] x0, y0, x1, y1 in pixels, for every frame; gaps are filled

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True, eq=False)
class _Found:
    frame: int
    box: np.ndarray  # [4]


def on_the_clock(frames: Iterable[np.ndarray], fps: float) -> Iterator[np.ndarray]:
    """The frames at 25 a second: for every moment the frame nearest to it, so that frames are left out or repeated."""
    shown = 0
    for index, frame in enumerate(frames):
        while np.floor(shown * fps / RATE_FPS + 0.5) <= index:
            yield frame
            shown += 1


def find_tracks(
    frames: Iterable[np.ndarray], find_faces: FindFaces, *, min_frames: int = MIN_TRACK_FRAMES, min_face_px: float = MIN_FACE_PX
) -> list[Track]:
    """Faces followed through a film at 25 frames a second, in the order in which they begin.

    Parameters
    ----------
    frames : [H, W, 3] uint8 RGB; gone through once, one is kept.
    find_faces : the detector.
    min_frames : a shot must have as many, and a track must have been seen in more.
    min_face_px : the mean width or height of a track must be larger.
    """
    tracks: list[Track] = []
    shot: list[list[_Found]] = []
    before = None
    for index, frame in enumerate(frames):
        colours = cv2.cvtColor(frame, cv2.COLOR_RGB2HSV)
        is_changed = before is not None and cv2.absdiff(colours, before).mean(dtype=np.float64) >= CUT
        if is_changed and len(shot) >= MIN_SHOT_FRAMES:
            tracks += _link(shot, min_frames, min_face_px)
            shot = []
        before = colours
        shot.append([_Found(index, np.asarray(row[:4], np.float64)) for row in find_faces(frame)])
    return tracks + _link(shot, min_frames, min_face_px)


def crop_track(frames: Iterable[np.ndarray], track: Track) -> Iterator[np.ndarray]:
    """The faces [224, 224, 3] uint8 RGB of a track; `frames` are those of the whole film, at 25 a second.

    The square is 2.8 times half the face's size and lies lower than its middle, towards the chin.
    """
    x0, y0, x1, y1 = track.boxes.T
    halves = median_filter(np.maximum(y1 - y0, x1 - x0) / 2, SMOOTHING_FRAMES)
    middles_x = median_filter((x0 + x1) / 2, SMOOTHING_FRAMES)
    middles_y = median_filter((y0 + y1) / 2, SMOOTHING_FRAMES)
    shown = islice(frames, track.first_frame, track.first_frame + len(track))
    for frame, half, x, y in zip(shown, halves, middles_x, middles_y, strict=False):
        border = int(half * (1 + 2 * MARGIN))
        padded = cv2.copyMakeBorder(frame, border, border, border, border, cv2.BORDER_CONSTANT, value=[PADDING] * 3)
        top, left = y + border - half, x + border - half * (1 + MARGIN)
        bottom, right = y + border + half * (1 + 2 * MARGIN), x + border + half * (1 + MARGIN)
        square = padded[max(0, int(top)) : int(bottom), max(0, int(left)) : int(right)]
        yield cv2.resize(square, (FACE_PX, FACE_PX))


def median_filter(values: np.ndarray, size: int) -> np.ndarray:
    """The median of `size` values around each of `values` [N]; beyond the ends there are zeros."""
    padded = np.pad(values.astype(np.float64), size // 2)
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, size), axis=1)


def _link(shot: list[list[_Found]], min_frames: int, min_face_px: float) -> list[Track]:
    """Tracks of one shot: each takes the first face that is left, and in every later frame the one that overlaps it."""
    if len(shot) < min_frames:
        return []
    left, tracks = [list(found) for found in shot], []
    while any(left):
        faces = _follow(left)
        if len(faces) > min_frames:
            seen = np.array([face.frame for face in faces])
            boxes = np.stack([face.box for face in faces])
            every = np.arange(seen[0], seen[-1] + 1)
            filled = np.stack([np.interp(every, seen, column) for column in boxes.T], axis=1)
            if max(np.mean(filled[:, 2:] - filled[:, :2], axis=0)) > min_face_px:
                tracks.append(Track(int(seen[0]), filled))
    return sorted(tracks, key=lambda track: track.first_frame)


def _follow(left: list[list[_Found]]) -> list[_Found]:
    """Take one face out of `left`, frame after frame, until it has been gone for too long."""
    taken: list[_Found] = []
    for faces in left:
        if not faces:
            continue
        if taken and faces[0].frame - taken[-1].frame > MAX_GAP_FRAMES:
            break
        nearest = next((face for face in faces if not taken or _overlap(face.box, taken[-1].box) > MIN_OVERLAP), None)
        if nearest is not None:
            taken.append(nearest)
            faces.remove(nearest)
    return taken


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union."""
    sides = np.clip(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]), 0, None)
    shared = float(np.prod(sides))
    return shared / float(np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - shared)
