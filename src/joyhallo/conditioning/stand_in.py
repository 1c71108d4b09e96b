"""Somebody who stands in for drawings: weights that know photographs speak badly of strokes.

They are shown the stand-in, laid where the drawing has its face; what its lips and skin do is then done by the drawing's own.
The stand-in is nobody: the composite of `examples/portrait.png`, 256 px, with its face mesh.
"""

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from joyhallo.conditioning.face import Face
from joyhallo.errors import UserError


class StandIn:
    """A picture [S, S, 3] uint8 and the mesh [468, 2] of the face in it."""

    def __init__(self, picture: np.ndarray, landmarks: np.ndarray) -> None:
        self.picture = picture
        points = np.concatenate([landmarks, np.zeros((len(landmarks), 1))], 1).astype(np.float32)
        self.face = Face(1.0, np.concatenate([points.min(0)[:2], points.max(0)[:2]]), points)

    @classmethod
    def load(cls) -> "StandIn":
        """The one in the package. Raises UserError when it is not there."""
        from safetensors.numpy import load_file

        path = Path(__file__).parents[1] / "weights" / "stand_in" / "stand_in.safetensors"
        if not path.is_file():
            raise UserError(f"there is no stand-in for drawings at '{path}': install the package again")
        return cls(**load_file(path))

    def laid_on(self, landmarks: np.ndarray, size: tuple[int, int]) -> Tensor:
        """The picture moved, sheared and scaled until its mesh comes closest to `landmarks` [K, 2 or 3] of a frame.

        `size` (height, width) of the frame in pixels; returns [3, H, W] float32 in [-1, 1].
        """
        points = self.face.landmarks[:, :2]
        from_here = np.c_[points, np.ones(len(points))]
        to_frame = np.linalg.lstsq(from_here, landmarks[: len(points), :2].astype(np.float64), rcond=None)[0].T
        shown = cv2.warpAffine(self.picture, to_frame, size[::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        return torch.from_numpy(shown).permute(2, 0, 1).float() / 127.5 - 1
