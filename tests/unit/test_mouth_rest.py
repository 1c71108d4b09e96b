"""Lips read in frames by the embedded reader."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from joyhallo.animator import Animator
from joyhallo.conditioning import anatomy
from joyhallo.conditioning.portrait import own_teeth
from joyhallo.conditioning.similarity import upright
from joyhallo.conditioning.teeth import HALF_WIDTH_CM, PX_PER_CM
from joyhallo.media.image import read_image
from joyhallo.mouth.rest import LipFollower

PORTRAIT = Path(__file__).parents[2] / "examples" / "portrait.png"
LOWER = [anatomy.LIP_POINTS.index(point) for point in anatomy.INNER_LOWER_LIP[3:8]]
UPPER = [anatomy.LIP_POINTS.index(point) for point in anatomy.INNER_UPPER_LIP[3:8]]


@pytest.fixture(scope="module")
def pipe() -> Animator:
    return Animator.from_pretrained("mini")


@pytest.fixture(scope="module")
def portrait(pipe):
    return pipe.portrait(PORTRAIT)


@pytest.fixture(scope="module")
def follower(pipe, portrait) -> LipFollower:
    return LipFollower(pipe.rest(portrait), portrait.landmarks)


def test_at_rest_nothing_has_moved(pipe, portrait, follower):
    assert np.array_equal(follower.moves(pipe.rest(portrait).still[None])[0], np.zeros((len(anatomy.LIP_POINTS), 2)))


@pytest.mark.parametrize("shift", [-3, 3])
def test_lips_that_go_down_or_up_are_followed(pipe, portrait, follower, shift):
    still = pipe.rest(portrait).still
    moved = cv2.warpAffine(still, np.float32([[1, 0, 0], [0, 1, shift]]), still.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
    moves = follower.moves(moved[None])[0]
    assert moves[LOWER + UPPER, 1].mean() == pytest.approx(shift, abs=1.2)
    assert abs(moves[:, 0].mean()) < 0.8


def test_a_dark_gap_between_the_lips_is_an_open_mouth(pipe, portrait, follower):
    frame, points = pipe.rest(portrait).still.copy(), portrait.landmarks[list(anatomy.INNER_LIP_RING), :2]
    middle = points.mean(0)
    ring = (points - middle) * [0.9, 1] + middle
    ring[:, 1] += np.where(np.arange(len(ring)) > 10, 9, 0)
    cv2.fillPoly(frame, [np.round(ring).astype(np.int32)], (35, 15, 15))
    moves = follower.moves(frame[None])[0]
    assert moves[LOWER, 1].mean() - moves[UPPER, 1].mean() > 3


def test_a_smile_keeps_its_own_teeth_and_a_shut_mouth_has_none(portrait):
    """Teeth of a colour that nobody has are found again between the lips that were closed."""
    picture = read_image(PORTRAIT)
    given = portrait.landmarks.copy()
    scale = portrait.crop.width / portrait.pixels.shape[2]
    given[:, :2] = given[:, :2] * scale + [portrait.crop.left, portrait.crop.top]
    assert portrait.teeth is None
    pose = upright(given)
    smile = given.copy()
    for line, way in ((anatomy.INNER_UPPER_LIP, -1), (anatomy.INNER_LOWER_LIP, 1)):
        arch = np.sqrt(np.clip(1 - np.linspace(-1, 1, 11) ** 2, 0, 1))
        smile[list(line), 1] += way * 0.35 * arch * pose.scale
    ring = np.round(smile[list(anatomy.INNER_LIP_RING), :2] * 16).astype(np.int32)
    shown = picture.copy()
    cv2.fillPoly(shown, [ring], (205, 214, 200), cv2.LINE_AA, 4)
    teeth = own_teeth(shown, smile)
    assert teeth is not None
    middle = teeth.pixels[-40:-20, round(HALF_WIDTH_CM * PX_PER_CM)]
    assert np.abs(middle[:, :3].max(0) - [205, 214, 200]).max() < 12
