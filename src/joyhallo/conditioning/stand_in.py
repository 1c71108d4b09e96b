"""Somebody who stands in for the pictures that weights speak badly of: they know frontal photographs.

They are shown the stand-in, laid where the picture has its face; what its lips and skin do is then done by the picture's own.
The stand-in is nobody: the composite of `examples/portrait.png`, 256 px, with its face mesh.
"""

from pathlib import Path

import cv2
import numpy as np
from torch import Tensor

from joyhallo.conditioning.anatomy import head_yaw_deg
from joyhallo.conditioning.face import Face
from joyhallo.conditioning.softened_look import reduced_face
from joyhallo.errors import UserError
from joyhallo.models.latents import to_pixels

LEAST_RED, MOST_YELLOW = 3.0, 2.45  # the mean a* of a face and its mean b* for each a* (CIE L*a*b*)
MOST_TURNED_DEG = 12.0


def why_needed(picture: np.ndarray, landmarks: np.ndarray, *, is_drawn: bool) -> str | None:
    """What about a face of a picture [H, W, 3] uint8 asks for the stand-in, to go on after "the picture"; None for nothing.

    `landmarks` [K, 3] in its pixels; `is_drawn` in strokes (`softened_look.strokes`).
    """
    if is_drawn:
        return "is drawn in strokes"
    if not has_natural_colours(picture, landmarks):
        return "is not in natural colours"
    turn = abs(head_yaw_deg(landmarks))
    return f"shows a head turned by {turn:.0f}°" if turn > MOST_TURNED_DEG else None


def has_natural_colours(picture: np.ndarray, landmarks: np.ndarray) -> bool:
    """Whether a face of a picture [H, W, 3] uint8 is reddish and not much yellower; `landmarks` [K, 2 or 3] in its pixels.

    The limits were set between 687 photographs in colour (mean a* 5.1 at least, mean b* at most 2.1 times that) and what is
    grey, of stone or sepia (a* of about 0) or of bronze (b* of 2.5 times a* and more).
    """
    face, inside = reduced_face(picture, landmarks)
    _, red, yellow = cv2.cvtColor(face.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[inside].mean(0)
    return bool(red >= LEAST_RED and yellow <= MOST_YELLOW * red)


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
            raise UserError(f"there is no stand-in at '{path}': install the package again")
        return cls(**load_file(path))

    def laid_on(self, landmarks: np.ndarray, size: tuple[int, int]) -> Tensor:
        """The picture moved, sheared and scaled until its mesh comes closest to `landmarks` [K, 2 or 3] of a frame.

        `size` (height, width) of the frame in pixels; returns [3, H, W] float32 in [-1, 1].
        """
        points = self.face.landmarks[:, :2]
        from_here = np.c_[points, np.ones(len(points))]
        to_frame = np.linalg.lstsq(from_here, landmarks[: len(points), :2].astype(np.float64), rcond=None)[0].T
        shown = cv2.warpAffine(self.picture, to_frame, size[::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        return to_pixels(shown[None])[0]
