"""Somebody who stands in for the pictures that weights speak badly of, who know frontal photographs in colour.

They are shown the stand-in, laid where the picture has its face; what its lips and skin do is then done by the picture's own.
The stand-in is nobody: the composite of `examples/portrait.png`, 256 px, with its face mesh.
"""

from pathlib import Path

import cv2
import numpy as np
from torch import Tensor

from joyhallo.conditioning.anatomy import SILHOUETTE, head_yaw_deg
from joyhallo.conditioning.face import Face
from joyhallo.errors import UserError
from joyhallo.models.latents import to_pixels

LEAST_RED, MOST_YELLOW = 5.0, 2.2  # the mean a* of skin and its mean b* for each a* (CIE L*a*b*), see `has_skin_colour`
MOST_TURNED_DEG = 12.0


def why_needed(picture: np.ndarray, landmarks: np.ndarray, *, is_drawn: bool) -> str | None:
    """What about a face of a picture [H, W, 3] uint8 asks for the stand-in, to go on after "the picture"; None for nothing.

    `landmarks` [K, 3] in its pixels; `is_drawn` in strokes (`softened_look.strokes`).
    """
    if is_drawn:
        return "is drawn in strokes"
    if not has_skin_colour(picture, landmarks):
        return "has no colour of skin"
    turn = abs(head_yaw_deg(landmarks))
    return f"shows a head turned by {turn:.0f}°" if turn > MOST_TURNED_DEG else None


def has_skin_colour(picture: np.ndarray, landmarks: np.ndarray) -> bool:
    """Whether a face of a picture [H, W, 3] uint8 is as red as skin, and no yellower; `landmarks` [K, 2 or 3] in its pixels.

    Of 687 photographs in colour the mean a* is 5.1 at least and b* at most 2.1 times that. Grey ones, stone and sepia have an
    a* of about 0, bronze a b* of 2.5 times its a* and more.
    """
    outline = np.round(landmarks[list(SILHOUETTE), :2]).astype(np.int32)
    left, top, width, height = cv2.boundingRect(outline)
    rows, columns = slice(max(top, 0), max(top + height, 1)), slice(max(left, 0), max(left + width, 1))
    part = np.ascontiguousarray(picture[rows, columns])
    inside = np.zeros(part.shape[:2], np.uint8)
    cv2.fillPoly(inside, [outline - np.array([columns.start, rows.start], np.int32)], 1)
    _, red, yellow, _ = cv2.mean(cv2.cvtColor(part.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), inside)
    return red >= LEAST_RED and yellow <= MOST_YELLOW * red


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
