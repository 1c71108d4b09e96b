"""The lines of lips that speak."""

import numpy as np
import pytest

from drawn_face import face
from joyhallo.conditioning import anatomy
from joyhallo.mouth.shape import brought_together, moved_lips, shut_lips

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


def test_lips_brought_together_shut_while_the_jaw_stays_and_the_mouth_keeps_its_width(shut):
    down = np.array([0.0, 1.0])
    moves = lowered(0.8) + np.array([0.1, 0.2])  # the whole mouth goes along
    together = brought_together(np.stack([moves] * 3), down, np.array([0, 0.5, 1]))
    assert np.array_equal(together[0], moves)
    lips = [moved_lips(shut, one) for one in together]
    assert [gaps(one)[5] for one in lips] == pytest.approx([gaps(lips[0])[5], gaps(moved_lips(shut, lowered(0.4)))[5], 0])
    assert np.array_equal(lips[2].outline[:, 0], lips[0].outline[:, 0])
    assert lips[2].inner_lower[5, 1] - lips[0].inner_lower[5, 1] == pytest.approx(-0.4, abs=0.05)
    assert lips[2].outer_lower[5, 1] - lips[0].outer_lower[5, 1] == pytest.approx(-0.2)
    assert lips[2].outer_upper[5, 1] - lips[0].outer_upper[5, 1] == pytest.approx(0.2)
    assert np.array_equal(brought_together(lowered(-0.3)[None], down, np.ones(1))[0], lowered(-0.3)), "crossed lips are shut"


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
