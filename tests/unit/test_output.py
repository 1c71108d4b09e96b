"""Frames become finished pictures: whose pixels they show, and where."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from joyhallo.conditioning import anatomy
from joyhallo.media.paste import Crop
from joyhallo.output import Finish, Output
from tiny import drawn_portrait

CROP = Crop(16, 30, 64, 64)
LIPS_AT = (16.0, 22.0)  # column and row of the frame's 32 x 32


@pytest.fixture
def portrait():
    """Somebody whose lips are in the lower middle of the frame."""
    landmarks = np.zeros((478, 3), np.float32)
    landmarks[list(anatomy.LIPS), :2] = LIPS_AT
    across = np.linspace(-5, 5, 11)
    for contour, side in ((anatomy.OUTER_UPPER_LIP, -1.5), (anatomy.OUTER_LOWER_LIP, 1.5)):
        for number, x in zip(contour, across, strict=True):
            landmarks[number, :2] = (LIPS_AT[0] + x, LIPS_AT[1] + side * np.sqrt(1 - (x / 5) ** 2))
    return replace(drawn_portrait((32, 32)), crop=CROP, landmarks=landmarks)


def still_of(portrait) -> np.ndarray:
    shown = portrait.picture[CROP.top : CROP.top + CROP.height, CROP.left : CROP.left + CROP.width]
    return cv2.GaussianBlur(cv2.resize(shown, (32, 32), interpolation=cv2.INTER_AREA), (0, 0), 1)


def test_weights_that_predict_changes_leave_the_rest_of_the_picture_as_it_is(portrait):
    still = still_of(portrait)
    finish = Finish(portrait, Output(), still)
    assert finish.size == (96, 128)
    assert np.array_equal(finish.apply(still, 0), portrait.picture)
    frame = still.copy()
    frame[21:25, 13:20] = 5
    finished = finish.apply(frame, 1)
    assert np.array_equal(finished[:40], portrait.picture[:40])
    row, column = CROP.top + 2 * 23, CROP.left + 2 * 16
    assert finished[row, column].max() < 60


def test_weights_that_draw_everything_are_pasted_as_they_are(portrait):
    frame = still_of(portrait)
    finished = Finish(portrait, Output(), None).apply(frame, 0)
    enlarged = cv2.resize(frame, (64, 64), interpolation=cv2.INTER_CUBIC)
    inner = slice(8, -8)
    assert np.array_equal(finished[CROP.top : CROP.top + 64, CROP.left : CROP.left + 64][inner, inner], enlarged[inner, inner])


def test_a_frame_alone_has_the_portraits_own_pixels_too(portrait):
    still = still_of(portrait)
    shown = (portrait.pixels.permute(1, 2, 0).numpy() * 127.5 + 127.5).round().astype(np.uint8)
    assert np.array_equal(Finish(portrait, Output(paste_back=False), still).apply(still, 0), shown)
