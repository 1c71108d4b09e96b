"""Skin of a picture that is stretched between lines across it.

Axes: h and w of a part of the picture.
"""

import numpy as np

_LEAST = 1e-3  # between two lines


def source_heights(heights: np.ndarray, lines: tuple[np.ndarray, ...], sources: tuple[np.ndarray, ...]) -> np.ndarray:
    """Where places at `heights` [h, w] came from, when lines moved from `sources` and all between them was stretched.

    Heights and lines [h, w] are counted downwards, the lines from the first down to the last; outside of them nothing moves.
    """
    came = heights.copy()
    for first, last, first_source, last_source in zip(lines, lines[1:], sources, sources[1:], strict=False):
        share = (heights - first) / np.maximum(last - first, _LEAST)
        is_between = (share >= 0) & (share <= 1)
        came = np.where(is_between, first_source + share * (last_source - first_source), came)
    return came
