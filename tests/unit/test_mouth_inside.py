"""What is seen between parted lips."""

import numpy as np
import pytest

from joyhallo.mouth.inside import MouthLook, Opening, paint_inside
from joyhallo.mouth.painted_teeth import paint_teeth

LOOK = MouthLook(np.array([200.0, 160, 140]), np.array([170.0, 90, 90]), None, False)
X, Y = np.linspace(-3.0, 3.0, 121)[None], np.linspace(-1.2, 1.2, 97)[:, None]


def opening(gap_cm: float) -> Opening:
    across = np.linspace(-2.2, 2.2, 11)
    half = gap_cm / 2 * (1 - (across / 2.2) ** 2)
    return Opening(np.stack([across, -half], 1), np.stack([across, half], 1))


def at(picture: np.ndarray, x: float, y: float) -> np.ndarray:
    return picture[np.abs(Y[:, 0] - y).argmin(), np.abs(X[0] - x).argmin()]


def test_teeth_under_the_upper_lip_darkness_below_and_no_specks_at_the_corners():
    brightness = paint_inside(X, Y, opening(1.2), LOOK).mean(2)
    assert at(brightness, 0, -0.1) > 120  # teeth
    assert at(brightness, 0, 0.33) < 90  # the cavity
    corner = [at(brightness, 2.17, y) for y in (-0.02, 0, 0.02)]  # the lips are a third of a millimetre apart
    assert np.abs(np.array(corner) - 0.5 * LOOK.lip.mean()).max() < 12


def test_a_wider_mouth_shows_a_tongue_that_goes_down_with_the_jaw():
    red = [at(paint_inside(X, Y, opening(gap), LOOK), 0, gap / 2 - 0.1)[0] for gap in (0.7, 1.6)]
    assert red[1] > red[0] + 30


@pytest.mark.parametrize("skin", [(220.0, 180, 160), (90.0, 60, 50)])
def test_teeth_are_lit_as_the_skin_is(skin):
    look = MouthLook(np.array(skin), LOOK.lip, None, False)
    tooth = at(paint_inside(X, Y, opening(1.2), look), 0, -0.1).mean()
    assert tooth < 240
    assert tooth > np.mean(skin) * 0.8
    assert (tooth > 150) == (skin[0] > 200)


def test_a_grey_picture_has_a_grey_mouth_and_a_pale_face_a_red_one():
    def colour(skin: tuple[float, float, float]) -> np.ndarray:
        inside = paint_inside(X, Y, opening(1.6), MouthLook(np.array(skin), np.full(3, 100.0), None, False))
        return at(inside, 0, 0.7)

    grey, pale = colour((150, 150, 150)), colour((220, 185, 170))
    assert np.ptp(grey) < 1
    assert pale[0] > pale[2] + 40


def test_painted_teeth_have_an_edge_lines_between_them_and_ends():
    painted = paint_teeth(X, Y, np.array([220.0, 210, 195]))
    colour, alpha = painted[..., 0], painted[..., 3]
    assert at(alpha, 0.3, -0.3) > 0.95
    assert at(alpha, 0.3, 0.2) < 0.05
    assert at(alpha, 2.9, -0.3) < 0.05
    assert np.allclose(painted, painted[:, ::-1], atol=1e-5)  # two sides alike
    row = colour[np.abs(Y[:, 0] + 0.3).argmin()]
    inner = slice(np.abs(X[0] + 1.5).argmin(), np.abs(X[0] - 1.5).argmin())
    dips = np.flatnonzero((row[1:-1] < row[:-2]) & (row[1:-1] <= row[2:])) + 1
    assert 3 <= len([dip for dip in dips if inner.start <= dip < inner.stop]) <= 6
