"""The face cut out of a picture in the framing of `joyhallo.conditioning.portrait`, for one picture or a whole video."""

from dataclasses import dataclass

import numpy as np

from joyhallo.conditioning.portrait import frame_crop
from joyhallo.media.image import resize
from joyhallo.media.paste import Crop

FACE_SHARE = 0.6  # of the side of the frame that the silhouette fills: what `mini` is trained on


@dataclass(frozen=True)
class FaceCrop:
    """A square of a picture and the side that it is resized to."""

    crop: Crop
    size_px: int

    def cut(self, image: np.ndarray) -> np.ndarray:
        """The square of an RGB image [H, W, 3] uint8 as [size, size, 3]."""
        return resize(np.ascontiguousarray(self.crop.of(image)), (self.size_px, self.size_px))

    def move(self, points: np.ndarray) -> np.ndarray:
        """Points [..., 3] of the picture as points of the cut-out (z scaled alike), float32."""
        scale = self.size_px / self.crop.height
        return ((points - np.array([self.crop.left, self.crop.top, 0])) * scale).astype(np.float32)


def face_crop(
    points: np.ndarray, picture_size: tuple[int, int], size_px: int = 256, face_share: float = FACE_SHARE
) -> FaceCrop:
    """The crop around face points [478, 3] or [F, 478, 3] (then around the median face, for all frames)."""
    if points.ndim == 3:
        points = np.median(points, 0)
    return FaceCrop(frame_crop(points, picture_size, (size_px, size_px), face_share), size_px)
