"""A picture whose head and eyes move by themselves, frame after frame."""

import numpy as np

from joyhallo.idle.eyelids import Eyelids
from joyhallo.idle.motion import IdleMotion
from joyhallo.idle.sway import Sway


class Liveliness:
    """Gives the frames of one video their blinks and their sway."""

    def __init__(self, size: tuple[int, int], points: np.ndarray, motion: IdleMotion, share: float = 1.0) -> None:
        """`size` (height, width) in pixels; `points` [K, 3] of the face mesh in it; `share` of the head's movement, above 0."""
        self._motion, self._share = motion, share
        self._eyelids, self._sway = Eyelids(size, points), Sway(size, points)

    def apply(self, picture: np.ndarray, frame: int) -> np.ndarray:
        """The picture [H, W, 3] uint8 of a frame with its eyes and its head moved; it may be changed itself."""
        self._eyelids.shut(picture, self._motion.lids(frame))
        return self._sway.move(picture, self._motion.pose(frame, self._share))
