"""Frames become finished pictures: whose pixels they show, and where."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from joyhallo.conditioning import anatomy
from joyhallo.idle.motion import IdleMotion
from joyhallo.media.image import resize
from joyhallo.media.paste import Crop
from joyhallo.mouth.rest import Rest
from joyhallo.output import Finish, Output
from tiny import drawn_portrait

CROP = Crop(16, 30, 64, 64)
LIPS_AT = (16.0, 22.0)  # column and row of the frame's 32 x 32


@pytest.fixture
def portrait():
    """Somebody whose lips are in the lower middle of the frame."""
    landmarks = np.zeros((478, 3), np.float32)
    landmarks[[*anatomy.LIPS, *anatomy.INNER_LIP_RING], :2] = LIPS_AT
    landmarks[anatomy.RIGHT_EYE_OUTER, :2], landmarks[anatomy.LEFT_EYE_OUTER, :2] = (7, 8), (25, 8)
    across = np.linspace(-5, 5, 11)
    for contour, side in ((anatomy.OUTER_UPPER_LIP, -1.5), (anatomy.OUTER_LOWER_LIP, 1.5)):
        for number, x in zip(contour, across, strict=True):
            landmarks[number, :2] = (LIPS_AT[0] + x, LIPS_AT[1] + side * np.sqrt(1 - (x / 5) ** 2))
    for contour in (anatomy.INNER_UPPER_LIP, anatomy.INNER_LOWER_LIP):
        landmarks[list(contour), :2] = np.stack([0.9 * across + LIPS_AT[0], np.full(11, LIPS_AT[1])], 1)
    return replace(drawn_portrait((32, 32)), crop=CROP, landmarks=landmarks)


def still_of(portrait) -> np.ndarray:
    shown = portrait.picture[CROP.top : CROP.top + CROP.height, CROP.left : CROP.left + CROP.width]
    return cv2.GaussianBlur(cv2.resize(shown, (32, 32), interpolation=cv2.INTER_AREA), (0, 0), 1)


@pytest.fixture
def rest(portrait) -> Rest:
    """Of weights whose reader sees the lips where the picture is darkest in the middle of the frame."""
    return Rest(still_of(portrait), Darkest())


def finished(finish: Finish, frame: np.ndarray) -> np.ndarray:
    return next(finish.apply(frame[None], 0))


class Darkest(torch.nn.Module):
    """Reads every lip point as low as the window is dark."""

    def __init__(self) -> None:
        super().__init__()
        num_points = len(anatomy.LIP_POINTS)
        self.config = {"size_px": 32, "num_points": num_points}
        self.register_buffer("units", torch.ones(2 * num_points))
        self.low = torch.tensor([point in anatomy.INNER_LOWER_LIP[1:-1] for point in anatomy.LIP_POINTS])

    def forward(self, mouths: torch.Tensor) -> torch.Tensor:
        down = -20 * mouths.mean((1, 2, 3))[:, None] * self.low
        return torch.stack([torch.zeros_like(down), down], -1).flatten(1)


def test_weights_that_predict_changes_leave_the_rest_of_the_picture_as_it_is(portrait, rest):
    finish = Finish(portrait, Output(), rest)
    assert finish.size == (96, 128)
    assert np.array_equal(finished(finish, rest.still), portrait.picture)
    frame = rest.still.copy()
    frame[20:28, 8:24] = 5
    after = finished(finish, frame)
    assert (after != portrait.picture).any()
    assert np.array_equal(after[: CROP.top], portrait.picture[: CROP.top])
    mouth = (slice(CROP.top + 40, CROP.top + 60), slice(CROP.left + 20, CROP.left + 44))
    assert after[mouth].mean() < portrait.picture[mouth].mean()


def test_in_silence_the_picture_is_its_own_whatever_the_frame_shows(portrait, rest):
    frame = rest.still.copy()
    frame[20:28, 8:24] = 5
    finish = Finish(portrait, Output(), replace(rest, freedom=np.array([0, 0.3, 1])))
    held, settling, free = (picture.astype(int) for picture in finish.apply(np.stack([frame] * 3), 0))
    assert np.array_equal(held, portrait.picture)
    assert np.array_equal(free, finished(Finish(portrait, Output(), rest), frame))
    assert 0 < np.abs(settling - held).sum() < np.abs(free - held).sum()


def test_every_clip_has_its_own_closings(portrait, rest):
    frame = rest.still.copy()
    frame[20:28, 8:24] = 5
    closed_in_frame_2 = Finish(portrait, Output(), replace(rest, closings=np.array([0, 0, 1, 0])))
    pictures = [picture for first in (0, 2) for picture in closed_in_frame_2.apply(np.stack([frame] * 2), first)]
    opened = finished(Finish(portrait, Output(), rest), frame)
    assert [np.array_equal(picture, opened) for picture in pictures] == [True, True, False, True]


@pytest.mark.parametrize("heard", [{"freedom": np.array([1, 0.1, 0.001])}, {"closings": np.array([0, 0.9, 1])}])
def test_lips_that_settle_or_shut_hide_what_the_frame_shows_between_them(portrait, rest, monkeypatch, heard):
    """A frame of a wide mouth must not be read as skin that has moved, however little of it is shown."""
    frame, hidden = rest.still.copy(), []
    frame[20:28, 8:24] = 5
    finish = Finish(portrait, Output(), replace(rest, **heard))
    assert finish.speaking is not None
    way = finish.speaking.moved.way
    monkeypatch.setattr(finish.speaking.moved, "way", lambda *given: (hidden.append(given[1]), way(*given))[1])
    list(finish.apply(np.stack([frame] * 3), 0))
    assert hidden[0].any()
    assert all(np.array_equal(one, hidden[0]) for one in hidden)


def test_weights_that_draw_everything_are_pasted_as_they_are(portrait):
    frame = still_of(portrait)
    after = finished(Finish(portrait, Output(), None), frame)
    enlarged = cv2.resize(frame, (64, 64), interpolation=cv2.INTER_CUBIC)
    inner = slice(8, -8)
    assert np.array_equal(after[CROP.top : CROP.top + 64, CROP.left : CROP.left + 64][inner, inner], enlarged[inner, inner])


def test_a_frame_alone_has_the_portraits_own_pixels_too(portrait, rest):
    shown = portrait.picture[CROP.top : CROP.top + 64, CROP.left : CROP.left + 64]
    assert np.array_equal(finished(Finish(portrait, Output(paste_back=False), rest), rest.still), resize(shown, (32, 32)))
    whole = replace(portrait, crop=None)
    assert np.array_equal(Finish(whole, Output(paste_back=False), rest).paster.beneath, resize(portrait.picture, (32, 32)))


def test_pictures_come_in_the_order_of_their_frames_whatever_is_made_at_once(portrait, rest, monkeypatch):
    idle = IdleMotion(np.linspace(0, 1, 24), np.linspace(0, 0.05, 24)[:, None] * np.ones(5))
    finish = Finish(portrait, Output(), rest, idle)
    frames = np.stack([np.clip(rest.still.astype(int) - 3 * number, 0, 255).astype(np.uint8) for number in range(24)])
    made = []
    for num_threads in (1, 4):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=num_threads: count)
        made.append(np.stack(list(finish.apply(frames, 0))))
    assert np.array_equal(*made)
    assert len(np.unique(made[0].reshape(24, -1), axis=0)) == 24


def test_of_large_pictures_fewer_are_made_at_once(portrait, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    counts = []

    class Counting(ThreadPoolExecutor):
        def __init__(self, max_workers: int) -> None:
            counts.append(max_workers)
            super().__init__(max_workers)

    monkeypatch.setattr("joyhallo.output.ThreadPoolExecutor", Counting)
    large = replace(portrait, picture=np.zeros((5000, 6000, 3), np.uint8))
    for one in (portrait, large):
        next(Finish(one, Output(), None).apply(still_of(portrait)[None], 0))
    assert counts == [4, 1]
