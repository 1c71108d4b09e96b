"""What is measured of the frames of one clip, and kept: points of the face, flicker, distance from the still portrait.

Axes: F frames, K = 478 mesh points, H and W pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import cv2
import numpy as np

from joyhallo.conditioning import anatomy
from joyhallo.conditioning.face import Face, FaceMesh
from joyhallo.data.framing import face_crop
from joyhallo.data.preparation.footage import watch
from joyhallo.data.synthesis.canonical import CanonicalMesh
from joyhallo.data.synthesis.gestures import read_gesture, smooth
from joyhallo.data.synthesis.raster import Window, cut_patches, draw
from joyhallo.data.synthesis.speakers import load_tracked
from joyhallo.data.synthesis.warp import TalkingPortrait
from joyhallo.errors import UserError
from joyhallo.evaluation.stability import Flicker
from joyhallo.media.files import written_whole
from mini_report.sayings import NUM_FRAMES, Saying

_EVERY = 4  # frames between those that are compared with the still
_MOUTH_GROWN = 1.5  # the region around the lips that may differ, against their extent
_MOST_NUDGED_PX, _ALIKE_PX = 2.0, 8.0
_STILL_HEAD = 0.006  # eye distances that the head may move over two frames to count as still


@dataclass(frozen=True, eq=False)
class Trace:
    """One clip, measured."""

    points: np.ndarray  # [F, K, 3] float32; NaN where no face is found
    flicker: np.ndarray  # [F] grey levels outside the mouth that jump and come back; NaN where unknown or the head moves
    squared_error: np.ndarray  # of sampled frames, against the still laid on their mesh, outside the mouth; grey levels squared
    spent_s: np.ndarray  # [1] processor time of making the frames

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path, "trace", UserError) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: Path) -> "Trace":
        with np.load(path) as file:
            return cls(**{field.name: file[field.name] for field in fields(cls)})


def trace(frames: np.ndarray, still: np.ndarray, tools: tuple[FaceMesh, CanonicalMesh], spent_s: float = 0.0) -> Trace:
    """Measure frames [F, H, W, 3] against the unmoved portrait `still` [H, W, 3], uint8 all."""
    mesh, canonical = tools
    points = follow(frames, mesh)
    errors = np.zeros(0)
    still_points = follow(still[None], mesh)[0]
    if np.isfinite(points).all() and np.isfinite(still_points).all():
        errors = differences(frames, smooth(points), still, still_points, canonical.triangles)
    return Trace(points, flicker_of(frames, points), errors, np.array([spent_s]))


def follow(frames: np.ndarray, mesh: FaceMesh) -> np.ndarray:
    """The points [F, K, 3] of the face; NaN where there is none."""
    found, face = [], None
    for frame in frames:
        face = mesh.track(frame, face)
        found.append(np.full((478, 3), np.nan, np.float32) if face is None else face.landmarks)
    return np.stack(found).astype(np.float32)


def mouth_mask(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[H, W] bool: around the lips wherever they go in `points` [F, K, 3]."""
    mask = np.zeros(size, np.uint8)
    for lips in points[:, list(anatomy.LIPS), :2]:
        centre = lips.mean(0)
        hull = cv2.convexHull((centre + (lips - centre) * _MOUTH_GROWN).astype(np.float32))
        cv2.fillConvexPoly(mask, np.round(hull).astype(np.int32), 1)
    return mask.astype(bool)


def differences(
    frames: np.ndarray, points: np.ndarray, still: np.ndarray, still_points: np.ndarray, triangles: np.ndarray
) -> np.ndarray:
    """Mean squared differences of every fourth frame from the still, which is laid on the frame's mesh; the face without the
    mouth."""
    height, width = still.shape[:2]
    errors = []
    for frame, places in zip(frames[::_EVERY], points[::_EVERY], strict=True):
        patches = cut_patches(places[triangles, :2].astype(np.float64), still_points[triangles, :2].astype(np.float64))
        laid = draw(still, patches, Window(0, 0, width, height))
        compared = laid.is_covered & ~mouth_mask(np.stack([places, still_points]), (height, width))
        shown = [picture[compared].astype(np.float64) for picture in (laid.pixels, nudged(laid.pixels, frame))]
        errors.append(min(np.square(picture - frame[compared]).mean() for picture in shown))
    return np.array(errors)


def nudged(picture: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """The picture [H, W, 3] moved onto the frame by up to two pixels, neighbours alike: what the tracked mesh is wrong by.

    Without it even the data engine's frames, which are nothing but the portrait stretched, are 31 to 34 dB from it.
    """
    grey, wanted = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (picture, frame))
    flow = np.zeros((*grey.shape, 2), np.float32)
    flow = cv2.calcOpticalFlowFarneback(wanted, grey, flow, 0.5, 2, 25, 3, 7, 1.5, 0)
    flow = cv2.GaussianBlur(flow, (0, 0), _ALIKE_PX)
    flow *= np.minimum(1, _MOST_NUDGED_PX / np.maximum(np.linalg.norm(flow, axis=-1, keepdims=True), 1e-6))
    columns, rows = np.meshgrid(np.arange(grey.shape[1]), np.arange(grey.shape[0]))
    places = np.stack([columns, rows], -1).astype(np.float32) + flow
    moved = cv2.remap(picture, places[..., 0], places[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved)


def flicker_of(frames: np.ndarray, points: np.ndarray) -> np.ndarray:
    """[F]: brightness outside the mouth that jumps and comes back, while the head holds still."""
    known = points[np.isfinite(points[:, 0, 0])]
    if len(known) < 3:
        return np.full(len(frames), np.nan)
    mouth = mouth_mask(known, frames.shape[1:3])
    meter = Flicker()
    for frame in frames:
        meter.add(np.where(mouth[..., None], np.uint8(0), frame))
    curve = meter.result().curve
    assert curve is not None
    eyes = known[:, anatomy.LEFT_EYE_OUTER, :2] - known[:, anatomy.RIGHT_EYE_OUTER, :2]
    rigid = points[:, list(anatomy.RIGID), :2] / np.linalg.norm(eyes, axis=1).mean()
    moved = np.full(len(points), np.inf)
    moved[1:-1] = np.linalg.norm(rigid[2:] - rigid[:-2], axis=-1).mean(1)
    return np.where(moved < _STILL_HEAD, curve / (1 - mouth.mean()), np.nan)


def film_frames(saying: Saying, points: np.ndarray, size_px: int) -> np.ndarray:
    """The frames of a saying as filmed, cut out as a portrait is; `points` [F, K, 3] of the whole film."""
    assert saying.film is not None
    crop = None
    frames = []
    for picture in watch(saying.film):
        pixels = picture.pixels()
        crop = crop or face_crop(points, (pixels.shape[0], pixels.shape[1]), size_px)
        if saying.first_frame <= picture.slot < saying.first_frame + NUM_FRAMES:
            frames.append(crop.cut(pixels))
    return np.stack(frames)


def film_trace(saying: Saying, tracked: Path, tools: tuple[FaceMesh, CanonicalMesh], size_px: int) -> Trace:
    """The real clip, measured as the made ones; its first frame stands for the portrait."""
    frames = film_frames(saying, load_tracked(tracked).points, size_px)
    return trace(frames, frames[0], tools)


def engine_frames(
    picture: np.ndarray, face: Face, saying: Saying, tracked: Path, canonical: CanonicalMesh
) -> Iterator[np.ndarray]:
    """The picture [S, S, 3] moved by the data engine as the speaker of the film moves."""
    gesture = read_gesture(load_tracked(tracked).points, canonical.vertices).part(saying.first_frame, NUM_FRAMES)
    portrait = TalkingPortrait(picture, face.landmarks, canonical)
    for frame in range(len(gesture.blink)):
        yield portrait.render(portrait.place(gesture, frame))


def engine_points(picture: np.ndarray, saying: Saying, tracked: Path, tools: tuple[FaceMesh, CanonicalMesh]) -> np.ndarray:
    """Points [F, K, 3] read from what the engine makes of the same portrait and the same movement; NaN where it cannot."""
    mesh, canonical = tools
    face = mesh.track(picture, None)
    if face is None or len(face.landmarks) != 478:
        return np.full((NUM_FRAMES, 478, 3), np.nan, np.float32)
    return follow(np.stack(list(engine_frames(picture, face, saying, tracked, canonical))), mesh)
