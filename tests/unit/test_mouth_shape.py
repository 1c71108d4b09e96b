"""The lines of lips that speak."""

import numpy as np
import pytest

from drawn_face import face
from joyhallo.conditioning import anatomy
from joyhallo.mouth.shape import moved_lips, shut_lips

LOWER = [anatomy.LIP_POINTS.index(point) for point in (*anatomy.INNER_LOWER_LIP[1:-1], *anatomy.OUTER_LOWER_LIP[1:-1])]


@pytest.fixture
def shut():
    return shut_lips(face(0) / 10)  # millimetres to centimetres


def lowered(by_cm: float) -> np.ndarray:
    """Moves of a lower lip that goes down, its corners held."""
    moves = np.zeros((len(anatomy.LIP_POINTS), 2))
    moves[LOWER, 1] = by_cm
    return moves


def gaps(lips) -> np.ndarray:
    return lips.inner_lower[:, 1] - lips.inner_upper[:, 1]


def test_at_rest_the_inner_lines_are_one(shut):
    assert np.array_equal(shut.inner_upper, shut.inner_lower)
    unmoved = moved_lips(shut, lowered(0))
    for name in ("outer_upper", "inner_upper", "inner_lower", "outer_lower"):
        assert np.allclose(getattr(unmoved, name), getattr(shut, name), atol=1e-12)


def test_a_lowered_lip_opens_the_mouth_and_corners_stay_shut(shut):
    lips = moved_lips(shut, lowered(0.8))
    assert gaps(lips)[1:-1] == pytest.approx(0.8, abs=0.05)
    assert np.allclose(gaps(lips)[[0, -1]], 0)
    assert np.allclose(lips.outer_lower[5] - shut.outer_lower[5], (0, 0.8))
    assert np.allclose(lips.outer_upper, shut.outer_upper)


@pytest.mark.parametrize("by_cm", [0.02, -0.3])
def test_lips_that_nearly_meet_or_cross_have_met(shut, by_cm):
    assert np.array_equal(gaps(moved_lips(shut, lowered(by_cm))), np.zeros(11))


def test_between_shut_and_open_there_is_no_jump(shut):
    heights = [gaps(moved_lips(shut, lowered(by_cm)))[5] for by_cm in np.arange(0, 0.3, 0.005)]
    assert (np.diff(heights) >= 0).all()
    assert np.diff(heights).max() < 0.02


def test_small_openings_are_stressed_and_a_wide_one_stays_as_wide(shut):
    small, wide = (gaps(moved_lips(shut, lowered(by_cm)))[5] for by_cm in (0.3, 1.0))
    assert small > 0.38
    assert wide == pytest.approx(1.0, abs=0.06)


def test_no_reading_opens_a_mouth_beyond_a_face(shut):
    assert gaps(moved_lips(shut, lowered(30.0))).max() <= 3
