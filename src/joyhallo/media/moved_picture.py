"""A picture whose own pixels move as a small frame of it moves.

Weights of a few million parameters know better how a face changes than how its skin looks. So a frame is read twice: as a
movement, which carries the picture's own skin, hair and beard along, and as what the picture does not have: what appears in the
mouth. Axes: h, w of a frame; H, W of the picture.
"""

from collections.abc import Iterator

import cv2
import numpy as np

_STILL, _MOVED = 4.0, 10.0  # levels of change, felt over _SPREAD: below the first nothing has moved, above the second all has
_SPREAD = 0.03  # of the shorter side
_UNSEEN = 0.05  # less movement changes no level
_MARGIN = 0.05  # around what has moved, for the flow to begin from pixels at rest
_SMOOTHNESS = 0.012  # of the movement: neighbouring skin goes the same way
# Levels of difference from the moved picture: below the first a mouth has only moved, above the second it shows something new.
_ALIKE, _UNLIKE = 5.0, 15.0
_FELT = 0.008  # of the shorter side: over which they are felt


class MovedPicture:
    """Follows frames with one picture.

    Parameters
    ----------
    picture : [H, W, 3], uint8.
    still : [h, w, 3], uint8, what the frames' maker makes of the unmoved picture.
    mouth : [h, w], float32 in 0 to 1, where frames show what the picture does not: what is between parted lips.
    """

    def __init__(self, picture: np.ndarray, still: np.ndarray, mouth: np.ndarray) -> None:
        if mouth.shape != still.shape[:2]:
            raise ValueError(f"the mouth's mask is {list(mouth.shape)}, the still {list(still.shape)} (height, width)")
        self._picture = np.ascontiguousarray(picture)
        # Frames are read at their own size, or at the picture's where that is smaller.
        self._size = min(picture.shape[0], still.shape[0]), min(picture.shape[1], still.shape[1])
        self._side = min(self._size)
        self._still, self._mouth = self._reduced(still), self._reduced(mouth)
        self._grey = cv2.cvtColor(self._still, cv2.COLOR_RGB2GRAY)
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def follow(self, frame: np.ndarray) -> np.ndarray:
        """The picture [H, W, 3] moved as `frame` [h, w, 3] is, uint8; its very pixels where the frame is like the still."""
        frame = self._reduced(frame)
        followed = self._picture.copy()
        for here, share in self._parts(self._moved(frame)):
            places, new = self._read(frame, here, share)
            enlarge = _Enlarging(here, self._size, followed.shape[:2])
            own = _taken(self._picture, enlarge.places(places), cv2.INTER_CUBIC)
            step = cv2.subtract(enlarge(frame[here].astype(np.float32)), own, dtype=cv2.CV_32F)
            step = cv2.multiply(step, _per_channel(enlarge(new)), dst=step)
            followed[enlarge.there] = cv2.add(own, step, dtype=cv2.CV_8U)
        return followed

    def _reduced(self, image: np.ndarray) -> np.ndarray:
        if image.shape[:2] == self._size:
            return image
        return cv2.resize(np.ascontiguousarray(image), self._size[::-1], interpolation=cv2.INTER_AREA)

    def _moved(self, frame: np.ndarray) -> np.ndarray:
        """How much of each place of a frame has moved, [h, w] float32 in 0 to 1."""
        change = _strongest(cv2.absdiff(frame, self._still)).astype(np.float32)
        felt = cv2.GaussianBlur(change, (0, 0), max(0.8, self._side * _SPREAD))
        return _smooth_step(felt, _STILL, _MOVED)

    def _parts(self, moved: np.ndarray) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
        """Every patch that moves by itself: its rows and columns with a little around, and how much of each place moves."""
        count, labels, boxes, _ = cv2.connectedComponentsWithStats((moved > _UNSEEN).astype(np.uint8))
        margin = round(_MARGIN * self._side) + 1
        height, width = self._size
        for number in range(1, count):
            left, top, columns, rows = boxes[number, : cv2.CC_STAT_AREA]
            here = (
                slice(max(0, int(top) - margin), min(height, int(top + rows) + margin)),
                slice(max(0, int(left) - margin), min(width, int(left + columns) + margin)),
            )
            yield here, np.where(labels[here] == number, moved[here], np.float32(0))

    def _read(self, frame: np.ndarray, here: tuple[slice, slice], share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of a part [a, b] of the frame that moves by `share`: where its places were in the still, [a, b, 2] (column and row
        within the part), and how much it shows what is new, [a, b] in 0 to 1; float32."""
        frame, still, mouth = frame[here], self._still[here], self._mouth[here]
        grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
        flow = self._flow.calc(grey, np.ascontiguousarray(self._grey[here]), np.zeros((*grey.shape, 2), np.float32))
        flow = share[..., None] * cv2.GaussianBlur(flow, (0, 0), self._side * _SMOOTHNESS)
        columns, rows = np.meshgrid(np.arange(grey.shape[1], dtype=np.float32), np.arange(grey.shape[0], dtype=np.float32))
        places = flow + cv2.merge([columns, rows])
        difference = _strongest(cv2.absdiff(frame, _taken(still, places, cv2.INTER_LINEAR))).astype(np.float32)
        felt = cv2.GaussianBlur(difference, (0, 0), self._side * _FELT)
        return places, share * mouth * _smooth_step(felt, _ALIKE, _UNLIKE)


class _Enlarging:
    """A part of a frame, in the size of the picture."""

    def __init__(self, here: tuple[slice, slice], size: tuple[int, int], full_size: tuple[int, ...]) -> None:
        self._first = np.array([here[1].start, here[0].start])  # column and row
        self._scale = np.array([full_size[1] / size[1], full_size[0] / size[0]])
        low = np.ceil(self._first * self._scale).astype(int)
        high = np.floor([here[1].stop, here[0].stop] * self._scale).astype(int)
        self.there = slice(low[1], high[1]), slice(low[0], high[0])
        self._size = (int(high[0] - low[0]), int(high[1] - low[1]))
        # From the middle of a pixel of the picture to that of the part: exact, whatever part it is.
        shift = (low + 0.5) / self._scale - 0.5 - self._first
        self._back = np.array([[1 / self._scale[0], 0, shift[0]], [0, 1 / self._scale[1], shift[1]]])

    def __call__(self, part: np.ndarray) -> np.ndarray:
        """[a, b, ·] → [A, B, ·]."""
        how = cv2.INTER_CUBIC if part.shape[2:] == (3,) else cv2.INTER_LINEAR  # colours are seen, weights and places are not
        return cv2.warpAffine(part, self._back, self._size, flags=how | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE)

    def places(self, places: np.ndarray) -> np.ndarray:
        """Places [a, b, 2] of a part, as columns and rows of the picture: [A, B, 2]."""
        return self(((places + self._first + 0.5) * self._scale - 0.5).astype(np.float32))


def _taken(picture: np.ndarray, places: np.ndarray, how: int) -> np.ndarray:
    """The pixels of a picture [h, w, 3] at places [a, b, 2] (column and row): [a, b, 3]."""
    columns, rows = cv2.split(places)
    return cv2.remap(picture, columns, rows, how, borderMode=cv2.BORDER_REPLICATE)


def _strongest(difference: np.ndarray) -> np.ndarray:
    """The largest of three channels [h, w, 3]: [h, w]."""
    red, green, blue = cv2.split(difference)
    return cv2.max(cv2.max(red, green), blue)


def _smooth_step(levels: np.ndarray, low: float, high: float) -> np.ndarray:
    share = np.clip((levels - low) / (high - low), 0, 1)
    return share * share * (3 - 2 * share)


def _per_channel(weights: np.ndarray) -> np.ndarray:
    """Weights [h, w] for each of three channels, [h, w, 3], as OpenCV multiplies them."""
    return cv2.merge([weights, weights, weights])
