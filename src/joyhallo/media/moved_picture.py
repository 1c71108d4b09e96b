"""A picture whose own pixels move as a small frame of it moves.

Weights of a few million parameters know better how a face changes than how its skin looks. So a frame is read as a movement,
which carries the picture's own skin, hair and beard along. Axes: h, w of a frame; H, W of the picture.
"""

from collections.abc import Iterator

import cv2
import numpy as np

from joyhallo.easing import smooth_step

_STILL, _MOVED = 4.0, 10.0  # levels of change, felt over _SPREAD: below the first nothing has moved, above the second all has
_SPREAD = 0.03  # of the shorter side
_SMOOTHNESS = 0.012  # of the movement: neighbouring skin goes the same way
_BRIDGED = 0.04  # of the shorter side: over which skin around a mouth says how that under it goes
_ROOM = 0.04  # of the shorter side: around what has moved, where movement is read too
_SHORTEST_PX, _LONGEST = 64, 2  # frames that a movement can be read from: their shorter side, and the longer one against it


class MovedPicture:
    """Follows frames with one picture.

    Parameters
    ----------
    picture : [H, W, 3], uint8.
    still : [h, w, 3], uint8, what the frames' maker makes of the unmoved picture.
    """

    def __init__(self, picture: np.ndarray, still: np.ndarray) -> None:
        self._picture, self._shape = np.ascontiguousarray(picture), still.shape
        # Frames are read at their own size, or at the picture's where that is smaller.
        self.size = min(picture.shape[0], still.shape[0]), min(picture.shape[1], still.shape[1])
        self._side = min(self.size)
        self._still = self._reduced(still)
        self._grey = cv2.cvtColor(self._still, cv2.COLOR_RGB2GRAY)
        # OpenCV's flow crashes on small and on long frames; there, nothing but the mouth changes.
        self._has_movement = self._side >= _SHORTEST_PX and max(self.size) <= _LONGEST * self._side

    def way(self, frame: np.ndarray, covered: np.ndarray | None = None) -> np.ndarray:
        """From every place of a frame [h, w, 3] uint8 back to where it was in the still: [h', w', 2] float32, columns and rows.

        `covered` [h', w'] of `size` is 1 where the frame shows something else, an open mouth: all there goes the way of what
        lies around. Raises ValueError for a frame that is not uint8 of the still's size.
        """
        if frame.dtype != np.uint8 or frame.shape != self._shape:
            raise ValueError(f"a frame is uint8 {list(self._shape)} like the still, got {frame.dtype} {list(frame.shape)}")
        frame = self._reduced(frame)
        moved = self._moved(frame)
        way = np.zeros((*self.size, 2), np.float32)
        if not self._has_movement or not moved.any():
            return way
        part = _extent(moved, self._side)
        grey = cv2.cvtColor(frame[part], cv2.COLOR_RGB2GRAY)
        flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)  # anew: it remembers parts of another size
        read = flow.calc(grey, np.ascontiguousarray(self._grey[part]), np.zeros((*grey.shape, 2), np.float32))
        if covered is not None:
            read = _bridged(read, covered[part], self._side * _BRIDGED)
        way[part] = moved[part][..., None] * cv2.GaussianBlur(read, (0, 0), self._side * _SMOOTHNESS)
        return way

    def carried(self, way: np.ndarray) -> np.ndarray:
        """The picture [H, W, 3] uint8 carried along a way [h', w', 2]; its very pixels where that leads nowhere."""
        carried = self._picture.copy()
        for here in _boxes((way != 0).max(2)):
            enlarge = _Enlarging(here, self.size, carried.shape[:2])
            carried[enlarge.there] = enlarge.taken(self._picture, way)
        return carried

    def _reduced(self, image: np.ndarray) -> np.ndarray:
        if image.shape[:2] == self.size:
            return image
        return cv2.resize(np.ascontiguousarray(image), self.size[::-1], interpolation=cv2.INTER_AREA)

    def _moved(self, frame: np.ndarray) -> np.ndarray:
        """How much of each place of a frame has moved, [h, w] float32 in 0 to 1."""
        change = _strongest(cv2.absdiff(frame, self._still)).astype(np.float32)
        felt = cv2.GaussianBlur(change, (0, 0), max(0.8, self._side * _SPREAD))
        return smooth_step(felt, _STILL, _MOVED)


def _extent(moved: np.ndarray, side: int) -> tuple[slice, slice]:
    """Rows and columns of what has moved in [h, w], with some room around, at least as large as the flow needs."""
    rows, columns = (np.flatnonzero(moved.any(axis)) for axis in (1, 0))
    extent = []
    for places, length in ((rows, moved.shape[0]), (columns, moved.shape[1])):
        room = max(_ROOM * side, (_SHORTEST_PX - (places[-1] - places[0])) / 2)
        first = int(np.clip(places[0] - room, 0, length - _SHORTEST_PX))
        extent.append(slice(first, int(np.clip(places[-1] + room + 1, first + _SHORTEST_PX, length))))
    height, width = (one.stop - one.start for one in extent)
    return (extent[0], extent[1]) if max(height, width) <= _LONGEST * min(height, width) else (slice(None), slice(None))


def _bridged(way: np.ndarray, covered: np.ndarray, reach_px: float) -> np.ndarray:
    """A way [h, w, 2] that goes on smoothly where it is covered [h, w], from what is seen around."""
    seen = (1 - covered).astype(np.float32)
    share = cv2.GaussianBlur(seen, (0, 0), reach_px)
    around = cv2.GaussianBlur(way * seen[..., None], (0, 0), reach_px) / np.maximum(share, 1e-3)[..., None]
    return np.where(covered[..., None] > 0, around, way)


class _Enlarging:
    """A part of a frame, in the size of the picture."""

    def __init__(self, here: tuple[slice, slice], size: tuple[int, int], full_size: tuple[int, ...]) -> None:
        rows, columns = (
            slice(-(-one.start * full // length), one.stop * full // length)
            for one, length, full in zip(here, size, full_size, strict=True)
        )
        self.there = rows, columns
        self._scale = np.array([full_size[1] / size[1], full_size[0] / size[0]])  # of columns and rows
        self._size = columns.stop - columns.start, rows.stop - rows.start
        # From the middle of a pixel of the picture to that of the frame.
        shift = (np.array([columns.start, rows.start]) + 0.5) / self._scale - 0.5
        self._back = np.array([[1 / self._scale[0], 0, shift[0]], [0, 1 / self._scale[1], shift[1]]])

    def ways(self, way: np.ndarray) -> np.ndarray:
        """A way [h, w, 2] of the frame in the part, in the picture's pixels: [A, B, 2]."""
        enlarged = cv2.warpAffine(
            way, self._back, self._size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
        )
        return enlarged * self._scale.astype(np.float32)

    def taken(self, picture: np.ndarray, way: np.ndarray) -> np.ndarray:
        """The picture [H, W, 3] with its places taken along a way [h, w, 2] of the frame, [A, B, 3]; no way is no change."""
        rows, columns = self.there
        across, down = cv2.split(self.ways(way))
        across += np.arange(columns.start, columns.stop, dtype=np.float32)
        down += np.arange(rows.start, rows.stop, dtype=np.float32)[:, None]
        return cv2.remap(picture, across, down, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def _boxes(moved: np.ndarray) -> Iterator[tuple[slice, slice]]:
    """The rows and columns of every patch of [h, w] that moves by itself."""
    count, _, boxes, _ = cv2.connectedComponentsWithStats(cv2.dilate(moved.astype(np.uint8), np.ones((3, 3))))
    for left, top, width, height in boxes[1:count, : cv2.CC_STAT_AREA].tolist():
        yield slice(top, top + height), slice(left, left + width)


def _strongest(difference: np.ndarray) -> np.ndarray:
    """The largest of three channels [h, w, 3]: [h, w]."""
    red, green, blue = cv2.split(difference)
    return cv2.max(cv2.max(red, green), blue)
