"""A picture's mouth follows the lips that are read, in its own pixels."""

import cv2
import numpy as np
import pytest

from drawn_face import LIP, SIZE, drawn, face
from joyhallo.conditioning import anatomy
from joyhallo.mouth.drawing import SpeakingMouth

FRAME = 128  # pixels of a frame's side: the picture is shown at half its size
NO_WAY = np.zeros((FRAME, FRAME, 2), np.float32)


def grained(roll_deg: float) -> np.ndarray:
    picture = drawn(face(0, roll_deg), inside=LIP)
    grain = np.random.default_rng(0).normal(0, 12, picture.shape[:2])
    return np.clip(picture + cv2.GaussianBlur(grain, (0, 0), 1)[..., None], 0, 255).astype(np.uint8)


def mouth_of(picture: np.ndarray, roll_deg: float = 0.0) -> SpeakingMouth:
    points = np.concatenate([face(0, roll_deg), np.zeros((10, 3), np.float32)])
    return SpeakingMouth(picture, points, (FRAME, FRAME), None)


def opened(by_px: float, roll_deg: float = 0.0) -> np.ndarray:
    """Moves in pixels of the frame: the lower lip goes down a face that is tilted."""
    moves = np.zeros((len(anatomy.LIP_POINTS), 2))
    turn = np.radians(roll_deg)
    for line in (anatomy.INNER_LOWER_LIP[1:-1], anatomy.OUTER_LOWER_LIP[1:-1]):
        moves[[anatomy.LIP_POINTS.index(point) for point in line]] = by_px * np.array([-np.sin(turn), np.cos(turn)])
    return moves


def spoken(picture: np.ndarray, by_px: float, roll_deg: float = 0.0) -> np.ndarray:
    mouth = mouth_of(picture, roll_deg)
    lips = mouth.lips(opened(by_px, roll_deg))
    assert lips is not None
    followed = picture.copy()
    mouth.draw(followed, NO_WAY, lips)
    return followed


def place(x_mm: float, down_mm: float, roll_deg: float) -> tuple[int, int]:
    """Row and column of a place beside and under the middle of the lips."""
    turn = np.radians(roll_deg)
    across, down = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
    middle = face(0, roll_deg)[[13, 14], :2].mean(0)
    column, row = middle + x_mm * across + down_mm * down
    return round(float(row)), round(float(column))


def test_lips_at_rest_are_left_alone():
    mouth = mouth_of(grained(0))
    assert mouth.lips(np.zeros((len(anatomy.LIP_POINTS), 2))) is None
    assert mouth.lips(np.random.default_rng(0).normal(0, 0.025, (len(anatomy.LIP_POINTS), 2))) is None


@pytest.mark.parametrize("roll_deg", [0.0, 20.0])
def test_an_open_mouth_is_dark_inside_and_its_lips_keep_their_colour(roll_deg):
    followed = spoken(grained(roll_deg), 6.0, roll_deg)  # 12 px of the picture
    assert followed[place(0, 9, roll_deg)].mean() < 95, "between the lips"
    for under in (13.5, 17):  # the lower lip, 12 px lower than before
        assert np.abs(followed[place(0, under, roll_deg)] - np.array(LIP)).max() < 45
    assert np.abs(followed[place(0, -4, roll_deg)] - np.array(LIP)).max() < 45


@pytest.mark.parametrize("roll_deg", [0.0, 20.0])
def test_what_is_not_around_the_mouth_keeps_its_very_pixels(roll_deg):
    picture = grained(roll_deg)
    changed = np.argwhere((spoken(picture, 6.0, roll_deg) != picture).any(-1))
    middle = np.array(place(0, 5, roll_deg))
    assert len(changed) > 1000
    assert np.linalg.norm(changed - middle, axis=1).max() < 52


def test_skin_under_the_lip_goes_with_it_and_less_and_less():
    picture = grained(0)
    columns = slice(SIZE // 2 - 12, SIZE // 2 + 12)
    followed, row = spoken(picture, 4.0), place(0, 0, 0)[0]

    def moved_by(at: int) -> int:
        """Pixels that the skin at a height came down by."""
        strip = followed[at : at + 3, columns].astype(float)
        apart = [np.abs(strip - picture[at - shift : at + 3 - shift, columns]).mean() for shift in range(12)]
        return int(np.argmin(apart))

    assert moved_by(row + 18) in (6, 7, 8)
    assert 0 < moved_by(row + 22) < 7
    assert moved_by(row + 34) == 0


def test_skin_goes_the_way_that_everything_goes():
    picture, shift = grained(0), 3.0
    mouth = mouth_of(picture)
    lips = mouth.lips(np.full((len(anatomy.LIP_POINTS), 2), (0, shift)))  # everything goes down, with the lips
    way = np.tile(np.float32([0, -shift]), (FRAME, FRAME, 1))
    expected = np.roll(picture, round(2 * shift), axis=0)
    followed = expected.copy()
    mouth.draw(followed, way, lips)
    around = slice(80, 200)
    assert np.abs(followed[around, around].astype(int) - expected[around, around]).max() < 12


@pytest.mark.parametrize("by_px", [0.2, 0.3, 0.4])
def test_a_mouth_that_begins_to_open_does_not_flash(by_px):
    picture = grained(0)
    difference = np.abs(spoken(picture, by_px).astype(int) - picture)
    assert difference.max() < 75
    assert np.sort(difference.max(-1).ravel())[-150:].mean() < 40


def test_at_the_edge_of_a_picture_the_mouth_is_cut_off():
    picture = grained(0)
    low = picture[: place(0, 6, 0)[0]]  # ends in the lower lip
    followed = spoken(np.ascontiguousarray(low), 6.0)
    assert followed.shape == low.shape
    assert (followed != low).any()


def test_what_lips_cover_is_told_in_pixels_of_the_frame():
    mouth = mouth_of(grained(0))
    lips = mouth.lips(opened(6.0))
    covered = mouth.covered(lips, (FRAME, FRAME))
    rows = np.flatnonzero(covered[:, FRAME // 2])
    middle = place(0, 0, 0)[0] / 2
    assert rows.min() == pytest.approx(middle - 4 - 2, abs=1.5)
    assert rows.max() == pytest.approx(middle + 4 + 6 + 2, abs=1.5)
