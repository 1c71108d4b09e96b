"""Reading portraits and videos, and cutting the face out in the framing that `mini` is trained in.

The silhouette of the face takes 0.6 of the side of the crop and the crop is shifted up by 4 % of its side, but stays inside the
picture (then the face takes more).
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

# Outline of the face in the 478 points (the published preparation uses the same ids).
SILHOUETTE = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
VIDEO_FPS = 25
SPEECH_HZ = 16_000
Image = NDArray[np.uint8]
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Crop:
    """A square of a picture: left, top and side in pixels of the picture; `size_px` is the side of the result."""

    left: float
    top: float
    side: float
    size_px: int

    def cut(self, image: Image) -> Image:
        """The square of an RGB image [H, W, 3] as [size, size, 3]; places outside repeat the border."""
        scale = self.size_px / self.side
        if scale < 0.6:  # shrink first: the warp alone would alias
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            return Crop(self.left * scale, self.top * scale, self.side * scale, self.size_px).cut(image)
        # Pixel centres: output pixel i covers the input around left + (i + 0.5) / scale.
        shift = 0.5 * scale - 0.5
        matrix = np.float32([[scale, 0, shift - scale * self.left], [0, scale, shift - scale * self.top]])
        size = (self.size_px, self.size_px)
        return cv2.warpAffine(image, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)

    def move(self, points: Array) -> Array:
        """Points [..., 3] of the picture as points of the crop (z scaled alike)."""
        scale = self.size_px / self.side
        return ((points - np.float32([self.left, self.top, 0])) * scale).astype(np.float32)


def face_crop(points: Array, height: int, width: int, size_px: int = 256, face_share: float = 0.6) -> Crop:
    """The training crop around face points [478, 3] or [F, 478, 3] (then around the median face, for all frames)."""
    outline = points[..., SILHOUETTE, :2]
    if outline.ndim == 3:
        outline = np.median(outline, 0)
    low, high = outline.min(0), outline.max(0)
    side = min(float((high - low).max()) / face_share, height, width)
    centre = (low + high) / 2 - [0, 0.04 * side]
    left, top = np.clip(centre - side / 2, 0, [width - side, height - side])
    return Crop(float(left), float(top), side, size_px)


def read_picture(path: Path) -> Image:
    """An RGB image [H, W, 3]."""
    return np.ascontiguousarray(cv2.imread(str(path), cv2.IMREAD_COLOR)[..., ::-1])


def read_frames(path: Path) -> Image:
    """All frames of a video, RGB [F, H, W, 3]."""
    import av

    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def read_speech(path: Path, num_frames: int | None = None) -> Array:
    """The sound of a file at 16 kHz, mono, [T]; with `num_frames` cut or padded with silence to 640 samples a frame."""
    import av

    parts = []
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("flt", "mono", SPEECH_HZ)
        for frame in container.decode(audio=0):
            parts += [part.to_ndarray().ravel() for part in resampler.resample(frame)]
        parts += [part.to_ndarray().ravel() for part in resampler.resample(None)]
    speech = np.concatenate(parts).astype(np.float32)
    if num_frames is None:
        return speech
    wanted = num_frames * SPEECH_HZ // VIDEO_FPS
    return np.pad(speech[:wanted], (0, max(0, wanted - len(speech))))


def portrait_files(root: Path) -> list[Path]:
    """All JPEG and PNG files below a folder, sorted."""
    return sorted(path for path in root.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
