"""How far every second frame is from what its neighbours let expect.

Smooth is VBench's: the expectation is that of AMT, an interpolation network whose code and weights may not be used
commercially; any other `Interpolate` gives a number that is no Smooth. Warp error is ours and needs no weights: the expectation
is half the way of the optical flow between the neighbours. It is not on VBench's scale and not comparable with Smooth.

Axes: N frames, P pairs of even frames.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import cv2
import numpy as np

from joyhallo.evaluation.film import Film
from joyhallo.evaluation.measures import Measure

FLOW_PX = 256  # larger pictures are made so small on their shorter side before motion is looked for: four times quicker

Interpolate = Callable[[np.ndarray, np.ndarray], np.ndarray]  # two pictures [H, W, 3] uint8 RGB → the one between, alike
TOO_SHORT = "three frames are needed for one between two others"


@dataclass(frozen=True, eq=False)
class _Triple:
    first: np.ndarray
    between: np.ndarray
    last: np.ndarray


def differences(frames: Iterable[np.ndarray], interpolate: Interpolate) -> np.ndarray:
    """The mean absolute difference [P] in grey levels of 255 between each odd frame and the interpolated one.

    Parameters
    ----------
    frames : [H, W, 3] uint8 RGB; three are kept. An odd frame at the end is left out.
    interpolate : called with the even frames around each odd one.
    """
    triples = _triples(frames)
    return np.array([cv2.absdiff(interpolate(t.first, t.last), t.between).mean(dtype=np.float64) for t in triples])


def smoothness(frames: Iterable[np.ndarray], interpolate: Interpolate) -> float | None:
    """VBench's motion smoothness in [0, 1]; None for fewer than three frames. See `differences`."""
    found = differences(frames, interpolate)
    return (255.0 - float(found.mean())) / 255.0 if len(found) else None


def measure_smooth(film: Film, interpolate: Interpolate | None) -> list[Measure]:
    """`smooth` with AMT's interpolation (`amt.load_amt`); without a value, and with the command, where it is None."""
    from joyhallo.evaluation.lacking import lacking

    if interpolate is None:
        return [Measure("smooth", None, note=lacking("metrics-smooth") + " (not for commercial use; warp_error needs nothing)")]
    found = differences(film.frames(), interpolate)
    if not len(found):
        return [Measure("smooth", None, note=TOO_SHORT)]
    return [
        Measure("smooth", (255.0 - float(found.mean())) / 255.0, curve=_on_frames((255.0 - found) / 255.0, film.num_frames))
    ]


def measure_warp_error(film: Film) -> list[Measure]:
    """`warp_error` in grey levels of 255, smaller is smoother: the odd frames against half the optical flow around them."""
    found = differences(film.frames(), partial(flow_midpoint, _flow()))
    if not len(found):
        return [Measure("warp_error", None, note=TOO_SHORT)]
    return [Measure("warp_error", float(found.mean()), "grey levels", curve=_on_frames(found, film.num_frames))]


def flow_midpoint(flow: Any, first: np.ndarray, last: np.ndarray) -> np.ndarray:  # noqa: ANN401
    """The picture between two, [H, W, 3] uint8: both moved half-way towards each other, then averaged.

    Motion is taken to be steady, and to be the same at the place it passes half-way as where it began. `flow` is one of OpenCV.
    """
    greys = [_shrunk(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)) for picture in (first, last)]
    height, width = first.shape[:2]
    scale = np.array([width / greys[0].shape[1], height / greys[0].shape[0]], np.float32)
    places = _places(height, width)
    moved = []
    for picture, one, other in ((first, *greys), (last, *reversed(greys))):
        ways = cv2.resize(flow.calc(one, other, None), (width, height)) * (scale / 2)  # [H, W, 2] half the way
        both: Any = None  # the first map holds x and y; OpenCV's types ask for a second one
        moved.append(cv2.remap(picture, places - ways, both, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))
    return cv2.addWeighted(moved[0], 0.5, moved[1], 0.5, 0)


def _triples(frames: Iterable[np.ndarray]) -> Iterator[_Triple]:
    """Frames 0, 1, 2, then 2, 3, 4 and so on."""
    first = between = None
    for index, frame in enumerate(frames):
        if index % 2:
            between = frame
            continue
        if first is not None and between is not None:
            yield _Triple(first, between, frame)
        first = frame


@lru_cache(maxsize=1)
def _places(height: int, width: int) -> np.ndarray:
    """The coordinates x, y of all pixels, [H, W, 2] float32."""
    return np.stack(np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)), axis=-1)


def _on_frames(values: np.ndarray, num_frames: int) -> np.ndarray:
    curve = np.full(num_frames, np.nan)
    curve[1 : 2 * len(values) : 2] = values
    return curve


def _flow() -> Any:  # noqa: ANN401  OpenCV's types know neither that it is made nor that it needs no flow to begin with
    return cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)


def _shrunk(grey: np.ndarray) -> np.ndarray:
    scale = FLOW_PX / min(grey.shape)
    return grey if scale >= 1 else cv2.resize(grey, (0, 0), fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
