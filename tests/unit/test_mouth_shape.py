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
    shown = gaps(lips)[5]
    assert gaps(lips)[1:-1] == pytest.approx(shown)
    assert 0.9 < shown < 1.1
    assert np.allclose(gaps(lips)[[0, -1]], 0)
    assert np.allclose(lips.outer_lower[5] - shut.outer_lower[5], (0, 0.8 + (shown - 0.8) / 2))
    assert np.allclose(lips.outer_upper[5] - shut.outer_upper[5], (0, -(shown - 0.8) / 2))


@pytest.mark.parametrize("by_cm", [0.01, 0.1, 0.4, 1.5])
def test_lips_are_as_thick_as_they_are_read_however_far_apart_they_are_shown(shut, by_cm):
    lips = moved_lips(shut, lowered(by_cm))
    for name in ("upper", "lower"):
        now, before = (getattr(one, f"outer_{name}")[5, 1] - getattr(one, f"inner_{name}")[5, 1] for one in (lips, shut))
        assert now == pytest.approx(before, abs=1e-6)


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
    lines = (anatomy.OUTER_UPPER_LIP, anatomy.INNER_UPPER_LIP, anatomy.INNER_LOWER_LIP, anatomy.OUTER_LOWER_LIP)
    middles = [anatomy.LIP_POINTS.index(line[5]) for line in lines]
    assert (together[2] - moves)[middles] == pytest.approx(np.array([[0, 0.1], [0, 0.4], [0, -0.4], [0, -0.1]]))
    assert np.array_equal(brought_together(lowered(-0.3)[None], down, np.ones(1))[0], lowered(-0.3)), "crossed lips are shut"


def test_between_shut_and_open_there_is_no_jump(shut):
    heights = [gaps(moved_lips(shut, lowered(by_cm)))[5] for by_cm in np.arange(0, 0.3, 0.005)]
    assert (np.diff(heights) >= 0).all()
    assert np.diff(heights).max() < 0.02


def test_small_openings_are_stressed_and_wide_ones_less(shut):
    small, wide = (gaps(moved_lips(shut, lowered(by_cm)))[5] / by_cm for by_cm in (0.3, 1.2))
    assert 1.5 < small < 2
    assert 1 < wide < 1.2


def test_no_reading_opens_a_mouth_beyond_a_face(shut):
    assert gaps(moved_lips(shut, lowered(30.0))).max() <= 3
