"""The lines of two lips, shut and speaking.

Lengths are centimetres of the average face from the middle of the shut lips: x to the person's left, y down.
"""

from dataclasses import dataclass

import numpy as np

from joyhallo.conditioning import anatomy
from joyhallo.easing import smooth_step

_SHUT_CM, _OPEN_CM = 0.05, 0.2  # lips that are read nearer than the first have met, beyond the second they have not
_STRESS, _WIDTH = 0.65, 1.15  # the power of an opening and what one of a centimetre becomes: unsure lips part by too little
_WIDEST_CM = 4.0
_OUTER_FOLLOW = 0.25  # how far the outer lines go where the inner ones are brought together
_UPPER_OUT, _LOWER_OUT, _UPPER_IN, _LOWER_IN = (
    [anatomy.LIP_POINTS.index(point) for point in line]
    for line in (anatomy.OUTER_UPPER_LIP, anatomy.OUTER_LOWER_LIP, anatomy.INNER_UPPER_LIP, anatomy.INNER_LOWER_LIP)
)


def heights(x: np.ndarray, line: np.ndarray) -> np.ndarray:
    """How far down a line [n, 2] lies at places across of any shape, float32; beyond its ends it goes on level."""
    return np.interp(x, np.maximum.accumulate(line[:, 0]), line[:, 1]).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Lips:
    """Four lines [11, 2] from the corner at the person's right to the other; those of a pair share their ends."""

    outer_upper: np.ndarray
    inner_upper: np.ndarray
    inner_lower: np.ndarray
    outer_lower: np.ndarray

    @property
    def outline(self) -> np.ndarray:
        """The outer lines as one closed ring [20, 2]."""
        return np.concatenate([self.outer_upper, self.outer_lower[-2:0:-1]])


def shut_lips(points: np.ndarray) -> Lips:
    """The lips of a face at rest, from its mesh points [K, 2 or 3]: both inner lines are the one where they meet."""
    outer = (points[list(line), :2] for line in (anatomy.OUTER_UPPER_LIP, anatomy.OUTER_LOWER_LIP))
    inner = (points[list(anatomy.INNER_UPPER_LIP), :2] + points[list(anatomy.INNER_LOWER_LIP), :2]) / 2
    upper, lower = outer
    return Lips(upper, inner, inner, lower)


def brought_together(moves: np.ndarray, down: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Lips whose points have made `moves` [F, P, 2], with a share [F] of their opening along `down` [2] taken away.

    The skin beyond them stays where it is, and the mouth as wide: outer lines go a quarter as far as inner ones.
    """
    opening = np.maximum((moves[:, _LOWER_IN] - moves[:, _UPPER_IN]) @ down, 0)
    inwards = (share[:, None] * opening / 2)[..., None] * down
    moves = moves.copy()
    for upper, lower, how_far in ((_UPPER_IN, _LOWER_IN, 1.0), (_UPPER_OUT, _LOWER_OUT, _OUTER_FOLLOW)):
        moves[:, upper] += how_far * inwards
        moves[:, lower] -= how_far * inwards
    return moves


def moved_lips(shut: Lips, moves: np.ndarray) -> Lips:
    """The lips after their points have moved by `moves` [P, 2] (`anatomy.LIP_POINTS`); what nearly meets does meet.

    Where they are shown farther apart than they are read, or less far, they stay as thick.
    """
    outer_upper, outer_lower = shut.outer_upper + moves[_UPPER_OUT], shut.outer_lower + moves[_LOWER_OUT]
    upper, lower = shut.inner_upper + moves[_UPPER_IN], shut.inner_lower + moves[_LOWER_IN]
    middle, gap = (upper + lower) / 2, np.clip(lower[:, 1] - upper[:, 1], 0, _WIDEST_CM)
    gap[[0, -1]] = 0
    shown = gap * _shown(float(gap[3:8].mean()))
    half, added = (np.stack([np.zeros_like(gap), height / 2], 1) for height in (shown, shown - gap))
    return Lips(outer_upper - added, middle - half, middle + half, outer_lower + added)


def _shown(gap_cm: float) -> float:
    """How much more or less than it is read an opening is shown: nothing of what nearly meets, more of what opens a little."""
    opened = gap_cm * float(smooth_step(np.array(gap_cm), _SHUT_CM, _OPEN_CM))
    return _WIDTH * opened**_STRESS / gap_cm if opened > 0 else 0.0
