"""A square of generated pixels put back into the full picture."""

from dataclasses import dataclass

import cv2
import numpy as np

_GAIN_LIMITS = (0.8, 1.25)  # a colour match mends a cast; beyond this the face itself has changed


@dataclass(frozen=True)
class Crop:
    """A rectangle of the full picture, in its pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, picture: np.ndarray) -> np.ndarray:
        """What lies in the rectangle of a picture [H, W, 3]: a view [height, width, 3]."""
        return picture[self.top : self.top + self.height, self.left : self.left + self.width]


class Paster:
    """Pastes frames into one picture, with a soft edge.

    The edge fades over `feather` times the shorter side of the crop. A side of the crop that coincides with the border of the
    picture is not faded: there is nothing to fade to. Everything that does not depend on the frame is computed here, once.

    Parameters
    ----------
    full : [H, W, 3], uint8, the whole picture.
    crop : where frames go; must lie inside the picture.
    feather : width of the soft edge as a share of the crop's shorter side, 0 to 0.5.
    match_colour : scale each channel of a frame so that its mean on the soft edge is that of the picture
        (within 0.8 to 1.25); a frame that agrees already is left as it is.

    Raises
    ------
    ValueError : the crop leaves the picture, or feather is out of range.
    """

    def __init__(self, full: np.ndarray, crop: Crop, feather: float = 0.08, match_colour: bool = False) -> None:
        height, width = full.shape[:2]
        bottom, right = crop.top + crop.height, crop.left + crop.width
        if crop.top < 0 or crop.left < 0 or crop.height < 1 or crop.width < 1 or bottom > height or right > width:
            raise ValueError(f"{crop} does not lie inside a picture of {height}x{width} (height x width)")
        if not 0.0 <= feather <= 0.5:
            raise ValueError(f"feather is {feather}, but must lie in 0 to 0.5 of the crop's shorter side")
        self.crop = crop
        self._full = np.ascontiguousarray(full)
        self._inside = (slice(crop.top, bottom), slice(crop.left, right))
        fade = round(feather * min(crop.height, crop.width))
        fades = [fade * (crop.top > 0), fade * (bottom < height), fade * (crop.left > 0), fade * (right < width)]
        rows = _ramp(crop.height, fades[0], fades[1])
        columns = _ramp(crop.width, fades[2], fades[3])
        alpha = rows[:, None] * columns[None, :]  # [h, w], exactly 1 inside
        # Only the faded strips are blended; the two vertical ones leave out the corners the horizontal ones have done.
        middle = slice(fades[0], crop.height - fades[1])
        strips = [
            (slice(0, fades[0]), slice(None)),
            (slice(crop.height - fades[1], crop.height), slice(None)),
            (middle, slice(0, fades[2])),
            (middle, slice(crop.width - fades[3], crop.width)),
        ]
        self._strips = [(strip, per_channel(alpha[strip])) for strip in strips if alpha[strip].size]
        self._match_colour = match_colour and any(fades)
        self._ring_means = self._means(self._full[self._inside]) if self._match_colour else None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the picture."""
        return self._full.shape[0], self._full.shape[1]

    @property
    def beneath(self) -> np.ndarray:
        """What the picture shows where frames go, [h, w, 3] uint8; not to be written to."""
        return self._full[self._inside]

    def in_picture(self, points: np.ndarray, frame_size: tuple[int, int]) -> np.ndarray:
        """Points [K, 3] of a frame of `frame_size` (height, width), as they lie in the picture; z by the width's scale."""
        scale = np.array([self.crop.width / frame_size[1], self.crop.height / frame_size[0], self.crop.width / frame_size[1]])
        return points * scale + [self.crop.left, self.crop.top, 0]

    def paste(self, frame: np.ndarray) -> np.ndarray:
        """Return the full picture with `frame` in it.

        Parameters
        ----------
        frame : [h, w, 3], uint8, any size; it is resized to the crop.

        Returns
        -------
        [H, W, 3], uint8, a new array; equal to the picture outside the crop.
        """
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise ValueError(f"a frame is uint8 [h, w, 3], got {frame.dtype} {list(frame.shape)}")
        frame = self._fitted(frame)
        if self._match_colour:
            frame = self._matched(frame)
        picture = self._full.copy()
        inside = picture[self._inside]
        original = self._full[self._inside]
        inside[:] = frame
        for strip, weights in self._strips:
            inside[strip] = between(original[strip], frame[strip], weights)
        return picture

    def _fitted(self, frame: np.ndarray) -> np.ndarray:
        """The frame in the crop's size."""
        height, width = self.crop.height, self.crop.width
        if frame.shape[:2] == (height, width):
            return frame
        method = cv2.INTER_AREA if height * width < frame.shape[0] * frame.shape[1] else cv2.INTER_CUBIC
        return cv2.resize(np.ascontiguousarray(frame), (width, height), interpolation=method)

    def _means(self, image: np.ndarray) -> np.ndarray:
        """Mean of each channel over the soft edge, [3]."""
        parts = [image[strip].reshape(-1, 3) for strip, _ in self._strips]
        return np.concatenate(parts).mean(axis=0, dtype=np.float64)

    def _matched(self, frame: np.ndarray) -> np.ndarray:
        gain = np.clip(self._ring_means / np.maximum(self._means(frame), 1.0), *_GAIN_LIMITS)
        if np.abs(gain - 1.0).max() < 0.5 / 255:
            return frame
        return np.clip(np.rint(frame * gain.astype(np.float32)), 0, 255).astype(np.uint8)


def per_channel(weights: np.ndarray) -> np.ndarray:
    """Weights [h, w] for each of three channels, [h, w, 3], as OpenCV multiplies them."""
    return cv2.merge([weights, weights, weights])


def between(below: np.ndarray, above: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """below + (above - below) · weights in float32, rounded, [h, w, 3] uint8; OpenCV does it faster than NumPy."""
    step = cv2.subtract(above, below, dtype=cv2.CV_32F)
    return cv2.add(below, cv2.multiply(step, weights, dst=step), dtype=cv2.CV_8U)


def _ramp(length: int, fade_in: int, fade_out: int) -> np.ndarray:
    """Weights along one side, [length]: a raised cosine of `fade_in` and `fade_out` pixels, 1 between."""
    weights = np.ones(length, np.float32)
    for fade, side in ((fade_in, weights), (fade_out, weights[::-1])):
        if fade:
            side[:fade] *= 0.5 - 0.5 * np.cos(np.pi * (np.arange(fade) + 0.5) / fade)
    return weights
