"""Lids that shut over the eyes of a still picture: the skin above is stretched down, with its lashes at its edge."""

from dataclasses import dataclass

import cv2
import numpy as np

from joyhallo.conditioning import anatomy
from joyhallo.conditioning.stretch import source_heights

_RIGHT_BROW, _LEFT_BROW = (46, 53, 52, 65, 55), (276, 283, 282, 295, 285)  # its lower edge
_UPPER_SHARE, _LOWER_SHARE, _FOLD_SHARE = 0.92, 0.08, 0.25  # of the eye's height that the lines go when it shuts
_MARGIN = 0.06  # of the eye's width: the older face mesh has the lower lid that much too high, and white would stay under it
_BELOW = 0.45  # of the eye's width: how far down the lower lid's skin is moved
_NARROW, _OPEN = 0.08, 0.18  # height over width: up to the first an eye is shut already, from the second on it blinks whole


@dataclass(frozen=True, eq=False)
class _Eye:
    """A window of the picture in an eye's own axes, in pixels: `down` from the line between its corners, [h, w].

    At every place of the window, [h, w] each, the lines above and below it: where the skin is held (`brow`, `cheek`), and the
    fold and the two lids that move.
    """

    window: tuple[slice, slice]
    places: np.ndarray  # [h, w, 2] in the picture
    axis: np.ndarray  # [2] downwards, one pixel long
    down: np.ndarray
    brow: np.ndarray
    fold: np.ndarray
    upper: np.ndarray
    lower: np.ndarray
    cheek: np.ndarray
    strength: float  # of a blink


class Eyelids:
    """Shuts the eyes of one picture as far as wanted; what does not depend on how far is computed once."""

    def __init__(self, size: tuple[int, int], points: np.ndarray) -> None:
        """`size` (height, width) of the picture in pixels; `points` [K, 3] of the face mesh in it."""
        rings = (
            (anatomy.RIGHT_EYE, anatomy.RIGHT_EYE_FOLD, _RIGHT_BROW),
            (anatomy.LEFT_EYE, anatomy.LEFT_EYE_FOLD, _LEFT_BROW),
        )
        self._eyes = [_eye(size, points[:, :2].astype(np.float32), *ring) for ring in rings]

    def shut(self, picture: np.ndarray, share: float) -> None:
        """Shut the lids of the picture [H, W, 3] uint8, in place, by a share: 0 leaves it as it is, 1 shuts them."""
        for eye in self._eyes:
            if share * eye.strength > 0:
                picture[eye.window] = _shut(picture, eye, share * eye.strength)


def _eye(
    size: tuple[int, int], points: np.ndarray, ring: tuple[int, ...], fold: tuple[int, ...], brow: tuple[int, ...]
) -> _Eye:
    """An eye whose ring begins at one corner and has the other one as its ninth point, the upper lid between."""
    start, end = points[ring[0]], points[ring[8]]
    if start[0] > end[0]:
        start, end = end, start
    width = max(float(np.linalg.norm(end - start)), 1.0)
    along = (end - start) / width
    axes = np.stack([along, [-along[1], along[0]]], 1)  # columns: along, down
    middle = (start + end) / 2
    low = np.clip(np.floor(middle - width), 0, [size[1] - 1, size[0] - 1]).astype(int)
    high = np.clip(np.ceil(middle + width), 1, [size[1], size[0]]).astype(int)
    places = np.stack(np.meshgrid(np.arange(low[0], high[0]), np.arange(low[1], high[1])), -1).astype(np.float32)
    at = (places - start) @ axes

    def line(numbers: tuple[int, ...], ends: tuple[float, ...] = ()) -> np.ndarray:
        """How far down a line of points lies, at every place; beyond its ends it goes on level."""
        own = (points[list(numbers)] - start) @ axes
        own = np.concatenate([own, np.array([(place, 0.0) for place in ends]).reshape(-1, 2)])
        own = own[np.argsort(own[:, 0])]
        return np.interp(at[..., 0], own[:, 0], own[:, 1]).astype(np.float32)

    corners = (0.0, width)
    upper, lower = line(ring[1:8], corners), line(ring[9:], corners)
    openness = float((lower - upper).max()) / width
    lower = np.maximum(lower, upper)
    lower += _MARGIN * width * np.clip((lower - upper) / (0.1 * width), 0, 1)
    folded = np.minimum(line(fold), upper - 0.02 * width)
    held = np.minimum(line(brow), folded - 0.05 * width)
    strength = float(np.clip((openness - _NARROW) / (_OPEN - _NARROW), 0, 1))
    window = (slice(low[1], high[1]), slice(low[0], high[0]))
    return _Eye(window, places, axes[:, 1], at[..., 1], held, folded, upper, lower, lower + _BELOW * width, strength)


def _shut(picture: np.ndarray, eye: _Eye, share: float) -> np.ndarray:
    """The eye's window [h, w, 3] with its lids shut by a share."""
    height = share * (eye.lower - eye.upper)
    fold, upper = eye.fold + _FOLD_SHARE * height, eye.upper + _UPPER_SHARE * height
    lower = eye.lower - _LOWER_SHARE * height
    above = source_heights(eye.down, (eye.brow, fold, upper), (eye.brow, eye.fold, eye.upper))
    below = source_heights(eye.down, (lower, eye.cheek), (eye.lower, eye.cheek))
    original = picture[eye.window]
    result = original.astype(np.float32)
    for skin, is_inside in ((below, eye.down - lower), (above, upper - eye.down)):
        at = eye.places + (skin - eye.down)[..., None] * eye.axis
        drawn = cv2.remap(picture, at[..., 0], at[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        weights = np.clip(is_inside + 0.5, 0, 1)[..., None]  # half a pixel of either side of the line
        result += (drawn - result) * weights
    unmoved = (height <= 0)[..., None]
    return np.where(unmoved, original, np.clip(np.rint(result), 0, 255).astype(np.uint8))
