"""Upper teeth of nobody, painted: for portraits that do not show their own.

Lengths are centimetres from the middle of the mouth: x to the person's left, y down from the edge of the middle teeth.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class _Tooth:
    """One of a pair, as wide as it is on the arch, its edge higher than the middle teeth's, and how much darker."""

    width: float
    raised: float
    darker: float


_TEETH = (
    _Tooth(0.82, 0.0, 0.0),
    _Tooth(0.62, 0.07, 0.04),
    _Tooth(0.70, 0.03, 0.08),
    _Tooth(0.62, 0.08, 0.22),
    _Tooth(0.60, 0.12, 0.42),
    _Tooth(0.60, 0.14, 0.6),
)
_ARCH_CM = 2.6  # half the width of the row as it is seen from the front
_TURN_CM = 2.9  # along the arch, to where it turns away by a radian
_SOFT_CM = 0.06  # over which edges fade
_NOTCH_CM = 0.06  # of rounded corners between two edges
_GAP_CM, _GAP = 0.05, 0.1  # the line between two teeth: how wide, how much darker
_NECK = np.array([0.03, 0.07, 0.11])  # how much red, green and blue are missing a centimetre above the edge
_ENDS_CM = 0.5  # over which the row fades into the dark at both ends
_EDGE = 0.05  # the edge itself lets the dark shine through


def paint_teeth(x: np.ndarray, y: np.ndarray, white: np.ndarray) -> np.ndarray:
    """The teeth at places [h, w] in a colour [3] of 0..255: colour times alpha, and alpha in 0..1, [h, w, 4]."""
    side = np.abs(x)
    alpha, light = np.zeros(np.broadcast_shapes(x.shape, y.shape), np.float32), np.ones((1, 1), np.float32)
    begin = 0.0
    for tooth in _TEETH:
        first, last = (_ARCH_CM * np.sin(place / _TURN_CM) for place in (begin, begin + tooth.width))
        begin += tooth.width
        from_middle = (side - (first + last) / 2) / ((last - first) / 2)  # -1 to 1 across the tooth
        is_here = np.abs(from_middle) <= 1
        edge = -tooth.raised - _NOTCH_CM * np.abs(from_middle) ** 5
        shown = np.clip((edge - y) / _SOFT_CM + 0.5, 0, 1)
        alpha = np.where(is_here, shown, alpha)
        to_gap = (1 - np.abs(from_middle)) * (last - first) / 2
        shade = (1 - tooth.darker) * (1 - 0.06 * from_middle**2) * (1 - _GAP * np.exp(-((to_gap / _GAP_CM) ** 2)))
        light = np.where(is_here, shade, light)
    alpha = alpha * np.clip((_ARCH_CM * np.sin(begin / _TURN_CM) - side) / _ENDS_CM, 0, 1)
    above = np.clip(-y, 0, 1)[..., None]
    through = _EDGE * np.exp(-((y / 0.08) ** 2))[..., None]
    colour = white * (1 - _NECK * above**1.5) * (1 - through) * light[..., None]
    return np.concatenate([colour * alpha[..., None], alpha[..., None]], -1)
