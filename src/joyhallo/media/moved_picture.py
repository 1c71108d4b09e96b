"""A picture whose own pixels move as a small frame of it moves.

Weights of a few million parameters know better how a face changes than how its skin looks. So a frame is read twice: as a
movement, which carries the picture's own skin, hair and beard along, and as what the picture does not have: what appears in the
mouth. Axes: h, w of a frame; H, W of the picture.
"""

from collections.abc import Iterator

import cv2
import numpy as np

from joyhallo.easing import smooth_step
from joyhallo.media.paste import between, per_channel

_STILL, _MOVED = 4.0, 10.0  # levels of change, felt over _SPREAD: below the first nothing has moved, above the second all has
_SPREAD = 0.03  # of the shorter side
_SMOOTHNESS = 0.012  # of the movement: neighbouring skin goes the same way
# Levels of difference from the moved picture: below the first a mouth has only moved, above the second it shows something new.
_ALIKE, _UNLIKE = 2.5, 9.0
_DOUBT = 0.85  # of a difference on the upper lip: what uncertain weights draw there is a haze more often than teeth
_STRESSED = 1.3  # what is new, against how the frame shows it: frames of uncertain lips lie between open and shut
_FELT = 0.008  # of the shorter side: over which they are felt
_SHORTEST_PX, _LONGEST = 64, 2  # frames that a movement can be read from: their shorter side, and the longer one against it


class MovedPicture:
    """Follows frames with one picture.

    Parameters
    ----------
    picture : [H, W, 3], uint8.
    still : [h, w, 3], uint8, what the frames' maker makes of the unmoved picture.
    lips : [h, w], float32 in 0 to 1, the lips in the still. They move as the frames move, and between them appears what the
        picture does not have.
    upper_lip : [h, w], float32 in 0 to 1, the outer half of the upper lip in the still: only strong differences show there.
    """

    def __init__(self, picture: np.ndarray, still: np.ndarray, lips: np.ndarray, upper_lip: np.ndarray) -> None:
        for mask in (lips, upper_lip):
            if mask.shape != still.shape[:2]:
                raise ValueError(f"a mask of the lips is {list(mask.shape)}, the still {list(still.shape)} (height, width)")
        self._picture, self._shape = np.ascontiguousarray(picture), still.shape
        # Frames are read at their own size, or at the picture's where that is smaller.
        self._size = min(picture.shape[0], still.shape[0]), min(picture.shape[1], still.shape[1])
        self._side = min(self._size)
        self._still = self._reduced(still)
        self._lips, self._belief = self._reduced(lips), 1 - _DOUBT * self._reduced(upper_lip)
        self._grey = cv2.cvtColor(self._still, cv2.COLOR_RGB2GRAY)
        # OpenCV's flow crashes on small and on long frames; there, nothing but the mouth changes.
        has_movement = self._side >= _SHORTEST_PX and max(self._size) <= _LONGEST * self._side
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST) if has_movement else None

    def follow(self, frame: np.ndarray) -> np.ndarray:
        """The picture [H, W, 3] moved as `frame` [h, w, 3] is, uint8; its very pixels where the frame is like the still.

        Raises ValueError for a frame that is not uint8 of the still's size.
        """
        if frame.dtype != np.uint8 or frame.shape != self._shape:
            raise ValueError(f"a frame is uint8 {list(self._shape)} like the still, got {frame.dtype} {list(frame.shape)}")
        frame = self._reduced(frame)
        moved = self._moved(frame)
        followed = self._picture.copy()
        if not moved.any():
            return followed
        back, new = self._read(frame, moved)
        colours = frame.astype(np.float32)
        for here in _boxes(moved):
            enlarge = _Enlarging(here, self._size, followed.shape[:2])
            own = enlarge.taken(self._picture, back)
            followed[enlarge.there] = between(own, enlarge(colours), per_channel(enlarge(new)))
        return followed

    def _reduced(self, image: np.ndarray) -> np.ndarray:
        if image.shape[:2] == self._size:
            return image
        return cv2.resize(np.ascontiguousarray(image), self._size[::-1], interpolation=cv2.INTER_AREA)

    def _moved(self, frame: np.ndarray) -> np.ndarray:
        """How much of each place of a frame has moved, [h, w] float32 in 0 to 1."""
        change = _strongest(cv2.absdiff(frame, self._still)).astype(np.float32)
        felt = cv2.GaussianBlur(change, (0, 0), max(0.8, self._side * _SPREAD))
        return smooth_step(felt, _STILL, _MOVED)

    def _read(self, frame: np.ndarray, moved: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of every place of a frame, float32: the way back to where it was in the still, [h, w, 2] (columns and rows), and how
        much it shows what is new, [h, w] from 0."""
        back = np.zeros((*self._size, 2), np.float32)
        if self._flow is not None:
            back = self._flow.calc(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), self._grey, back)
            back = moved[..., None] * cv2.GaussianBlur(back, (0, 0), self._side * _SMOOTHNESS)
        places = back + _grid(*self._size)
        laid, lips, belief = (_taken(one, places, cv2.INTER_LINEAR) for one in (self._still, self._lips, self._belief))
        difference = _strongest(cv2.absdiff(frame, laid)).astype(np.float32)
        felt = cv2.GaussianBlur(difference, (0, 0), max(0.8, self._side * _FELT))
        return back, _STRESSED * moved * lips * smooth_step(belief * felt, _ALIKE, _UNLIKE)


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

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """What there is of [h, w, ·] in the part: [A, B, ·]."""
        how = cv2.INTER_CUBIC if frame.shape[2:] == (3,) else cv2.INTER_LINEAR  # colours are seen, weights and ways are not
        return cv2.warpAffine(frame, self._back, self._size, flags=how | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE)

    def taken(self, picture: np.ndarray, back: np.ndarray) -> np.ndarray:
        """The picture [H, W, 3] with its places taken along ways [h, w, 2] of the frame, [A, B, 3]; no way is no change."""
        rows, columns = self.there
        ways = self(back) * self._scale.astype(np.float32)
        grid = _grid(rows.stop - rows.start, columns.stop - columns.start) + np.array([columns.start, rows.start], np.float32)
        return _taken(picture, ways + grid, cv2.INTER_CUBIC)


def _boxes(moved: np.ndarray) -> Iterator[tuple[slice, slice]]:
    """The rows and columns of every patch of [h, w] that moves by itself."""
    count, _, boxes, _ = cv2.connectedComponentsWithStats((moved > 0).astype(np.uint8))
    for left, top, width, height in boxes[1:count, : cv2.CC_STAT_AREA].tolist():
        yield slice(top, top + height), slice(left, left + width)


def _grid(height: int, width: int) -> np.ndarray:
    """The column and the row of every place, [h, w, 2] float32."""
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return cv2.merge([columns, rows])


def _taken(picture: np.ndarray, places: np.ndarray, how: int) -> np.ndarray:
    """What a picture [h, w] or [h, w, 3] shows at places [a, b, 2] (column and row): [a, b] or [a, b, 3]."""
    columns, rows = cv2.split(places)
    return cv2.remap(picture, columns, rows, how, borderMode=cv2.BORDER_REPLICATE)


def _strongest(difference: np.ndarray) -> np.ndarray:
    """The largest of three channels [h, w, 3]: [h, w]."""
    red, green, blue = cv2.split(difference)
    return cv2.max(cv2.max(red, green), blue)
