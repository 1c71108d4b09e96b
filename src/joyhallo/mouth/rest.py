"""How frames show somebody at rest, and how far lips have gone from there."""

from dataclasses import dataclass

import numpy as np
import torch

from joyhallo.conditioning.lip_reading import read_lips
from joyhallo.models.lip_reader import LipReader

_NUM_VIEWS = 2  # of a frame; five are 0.2 px of 256 from them, steady in time as they are, and take twice as long


@dataclass(frozen=True, eq=False)
class Rest:
    """The unmoved portrait as the weights draw it, and what reads the lips in frames like it."""

    still: np.ndarray  # [H, W, 3] uint8
    reader: LipReader


class LipFollower:
    """Reads frame after frame how far the lips of one person have moved."""

    def __init__(self, rest: Rest, landmarks: np.ndarray) -> None:
        """`landmarks` [K, 2 or 3] of the face mesh in pixels of the frames."""
        self._reader, self._landmarks = rest.reader, landmarks
        self._at_rest = self._read(rest.still)

    def moves(self, frame: np.ndarray) -> np.ndarray:
        """Of every lip point (`anatomy.LIP_POINTS`), in pixels of the frame [H, W, 3] uint8: [P, 2]."""
        return self._read(frame) - self._at_rest

    def _read(self, frame: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(frame).permute(2, 0, 1).float() / 127.5 - 1
        return read_lips(pixels, self._landmarks, self._reader, _NUM_VIEWS)
