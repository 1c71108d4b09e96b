"""Where one camera shot ends and the next begins: the whole picture changes at once, and much more than just before."""

from collections import deque

import cv2
import numpy as np

THUMBNAIL = (32, 18)  # (width, height)
MIN_CHANGE = 0.08  # of the full range, on average over the thumbnail
CHANGE_RATIO = 4.0  # over the usual change of the last half second
HISTORY = 12


class ShotDetector:
    """Looks at the pictures of a film one after the other. Hard cuts only: a slow dissolve is found by the tracked face."""

    def __init__(self) -> None:
        self._last: np.ndarray | None = None
        self._changes: deque[float] = deque(maxlen=HISTORY)

    def is_cut(self, image: np.ndarray) -> bool:
        """Whether a new shot begins with this picture [H, W, 3] uint8; the first picture of all begins none."""
        thumbnail = cv2.resize(image, THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.float32)
        last, self._last = self._last, thumbnail
        if last is None:
            return False
        change = float(np.abs(thumbnail - last).mean()) / 255
        usual = float(np.median(self._changes)) if self._changes else 0.0
        if change > MIN_CHANGE and change > CHANGE_RATIO * usual:
            self._changes.clear()
            return True
        self._changes.append(change)
        return False
