"""What should stay as it is, and what should move: head, eyes, background, brightness, identity.

Axes: N frames, K mesh points, H height, W width.
"""

from dataclasses import dataclass, field

import cv2
import numpy as np

from joyhallo.conditioning import anatomy
from joyhallo.evaluation.film import Film
from joyhallo.evaluation.head import Head
from joyhallo.evaluation.measures import Measure

_LONGEST_PX = 512  # flicker is looked for at this size: larger frames are averaged down
_COARSE_PX = 128  # the background's: grain and coding noise average out, drift and warping stay
_MIN_BACKGROUND = 0.03  # share of the frame
_HAIR = (0.35, 0.6)  # of the silhouette's width to either side, of its height above: hair and ears are no background
_SMOOTH_S = 0.2
_CLOSED_EYE = 0.55  # of the film's usual lid distance
_BLINK_S = (0.03, 0.6)  # shorter is a slip of the mesh, longer are closed or lowered eyes
_LID_PAIRS = {(33, 133): ((160, 144), (159, 145), (158, 153)), (263, 362): ((387, 373), (386, 374), (385, 380))}


def motion_measures(film: Film, head: Head) -> list[Measure]:
    """How far the head turns, and how often the eyes blink."""
    turn = _smooth(head.turn_deg, film.fps)
    spread = float(np.sqrt(np.nanvar(turn, axis=0).sum()))
    openness = eye_openness(film.points)
    return [
        Measure("head_motion", spread, "degrees", curve=np.linalg.norm(turn - np.nanmean(turn, axis=0), axis=1)),
        Measure("blink_rate", count_blinks(openness, film.fps) / (film.duration_s / 60), "per minute", curve=openness),
    ]


def eye_openness(points: np.ndarray) -> np.ndarray:
    """[N]: the distance between the lids over the width of the eye, the mean of both eyes; `points` [N, K, 3]."""
    ratios = []
    for (outer, inner), pairs in _LID_PAIRS.items():
        width = np.linalg.norm(points[:, outer] - points[:, inner], axis=1)
        lids = np.mean([np.linalg.norm(points[:, upper] - points[:, lower], axis=1) for upper, lower in pairs], axis=0)
        ratios.append(lids / width)
    return np.mean(ratios, axis=0)


def count_blinks(openness: np.ndarray, fps: float) -> int:
    """How often the lids of `openness` [N] come together and part again."""
    seen = np.isfinite(openness)
    usual = np.percentile(openness[seen], 80)
    is_closed = np.zeros(len(openness) + 2, np.int8)
    is_closed[1:-1][seen] = openness[seen] < _CLOSED_EYE * usual
    edges = np.diff(is_closed)
    lengths_s = (np.flatnonzero(edges < 0) - np.flatnonzero(edges > 0)) / fps
    return int(((lengths_s >= _BLINK_S[0]) & (lengths_s <= _BLINK_S[1])).sum())


def _smooth(values: np.ndarray, fps: float) -> np.ndarray:
    """Running mean of [N, C] over 0.2 s, so that the trembling of the mesh is no motion."""
    reach = round(_SMOOTH_S * fps / 2)
    padded = np.pad(values, ((reach, reach), (0, 0)), "edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=0)
    return windows.mean(axis=-1)


@dataclass(eq=False)
class Flicker:
    """Brightness that jumps and comes back at once: motion changes a pixel one way, flicker there and back again."""

    _before: list[np.ndarray] = field(default_factory=list)
    _reversals: list[float] = field(default_factory=list)

    def add(self, frame: np.ndarray) -> None:
        """The next frame [H, W, 3] uint8."""
        grey = _shrunk(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), _LONGEST_PX).astype(np.int16)
        if len(self._before) == 2:
            first, middle = self._before
            back, forth = middle - first, middle - grey
            jump = np.minimum(np.abs(back), np.abs(forth))
            self._reversals.append(float(jump[(back > 0) == (forth > 0)].sum() / jump.size))
        self._before = [*self._before[-1:], grey]

    def result(self) -> Measure:
        """Grey levels of 255, the mean over pixels and frames; 0 is perfectly steady."""
        if not self._reversals:
            return Measure("flicker", None, note="flicker needs at least 3 frames")
        curve = np.array([np.nan, *self._reversals, np.nan])
        return Measure("flicker", float(np.mean(self._reversals)), "grey levels", curve=curve)


class Background:
    """How far what is behind the head moves away from the first frame."""

    def __init__(self, film: Film) -> None:
        height, width = film.size
        scale = min(1.0, _COARSE_PX / max(height, width))
        self._size = max(1, round(width * scale)), max(1, round(height * scale))
        self._where = background_of(film.points * scale, (self._size[1], self._size[0]))
        self._first: np.ndarray | None = None
        self._changes: list[float] = []

    def add(self, frame: np.ndarray) -> None:
        """The next frame [H, W, 3] uint8."""
        if self._where.mean() < _MIN_BACKGROUND:
            return
        pixels = cv2.resize(frame, self._size, interpolation=cv2.INTER_AREA)[self._where].astype(np.float32)
        self._first = pixels if self._first is None else self._first
        self._changes.append(float(np.abs(pixels - self._first).mean()))

    def result(self) -> Measure:
        """Grey levels of 255, the mean over the background and all frames after the first."""
        if len(self._changes) < 2:
            return Measure("background_change", None, note="the head fills the frame: there is no background beside it")
        return Measure("background_change", float(np.mean(self._changes[1:])), "grey levels", curve=np.array(self._changes))


def background_of(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[H, W] bool: above the chin, and beside or above the head wherever it goes in the film."""
    height, width = size
    outline = points[np.isfinite(points[:, 0, 0])][:, list(anatomy.SILHOUETTE), :2].reshape(-1, 2)
    low, high = outline.min(0), outline.max(0)
    margin = (high - low) * np.array(_HAIR)
    columns, rows = np.arange(width) + 0.5, np.arange(height) + 0.5
    beside = (columns < low[0] - margin[0]) | (columns > high[0] + margin[0])
    above = rows < low[1] - margin[1]
    return (beside[None] | above[:, None]) & (rows < high[1])[:, None]


def _shrunk(picture: np.ndarray, longest: int) -> np.ndarray:
    scale = longest / max(picture.shape[:2])
    if scale >= 1:
        return picture
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
