"""Lips rest where nothing is heard, and close where that is heard."""

from pathlib import Path

import numpy as np
import pytest
import torch

from joyhallo.animator import Animator
from joyhallo.mouth.heard import closing, freedom

PORTRAIT = Path(__file__).parents[2] / "examples" / "portrait.png"


def levels(*stretches: tuple[int, float]) -> np.ndarray:
    """So many frames at so many decibels each."""
    return np.concatenate([np.full(count, float(level_db)) for count, level_db in stretches])


def test_lips_rest_between_words_and_are_free_near_them():
    free = freedom(levels((20, 0), (30, -30), (20, -3)), 25)
    assert (free[:23] == 1).all()
    assert (np.diff(free[20:35]) <= 0).all()
    assert (free[25:45] == 0).all()
    assert 0 < free[24] < free[23] < 1
    assert np.array_equal(free[20:50], free[20:50][::-1])


def test_a_video_that_begins_and_ends_in_silence_begins_and_ends_at_rest():
    free = freedom(levels((10, -60), (10, 0), (10, -60)), 25)
    assert free[0] == free[-1] == 0
    assert (free[10:20] == 1).all()


@pytest.mark.parametrize("stretches", [((40, 0),), ((10, 0), (10, -15), (10, 0)), ((20, 0), (6, -50), (20, 0))])
def test_without_a_pause_nothing_is_held(stretches):
    assert (freedom(levels(*stretches), 25) == 1).all()


def test_who_goes_on_in_a_low_voice_is_heard():
    low = slice(100, 200)
    assert (freedom(levels((30, 0), (70, -70), (100, -26), (70, -70), (30, 0)), 25)[low] == 1).all()
    assert (freedom(levels((30, 0), (70, -70), (100, -40), (70, -70), (30, 0)), 25)[low][10:-10] == 0).all()


def test_a_long_pause_that_hums_is_a_pause_to_its_end():
    assert (freedom(levels((50, 0), (250, -29), (50, 0)), 25)[56:-56] == 0).all()


def test_a_knock_takes_no_words_away():
    assert (freedom(levels((100, 0), (2, 25), (100, 0)), 25) == 1).all()
    assert (freedom(levels((100, 0), (20, 15), (100, 0)), 25) == 1).all(), "nor does who shouts"


def test_a_few_words_in_much_noise_are_what_is_loud():
    free = freedom(levels((1000, -40), (40, 0), (1000, -40)), 25)
    assert (free[:990] == 0).all()
    assert (free[1000:1040] == 1).all()


def test_times_are_seconds_whatever_the_rate():
    for fps in (25, 50):
        free = freedom(levels((fps, 0), (fps, -30)), fps)
        assert np.flatnonzero(free < 1)[0] == fps - 1 + round(0.12 * fps) + 1
        assert np.flatnonzero(free == 0)[0] == fps - 1 + round(0.24 * fps)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_shortest_recordings_are_free(count):
    assert (freedom(np.full(count, -3.0), 25) == 1).all()
    assert (freedom(np.full(count, -100.0), 25) == 1).all()


def test_lips_close_as_surely_as_it_is_heard():
    closed = closing(np.linspace(-12, 12, 241))
    assert (closed[:100] == 0).all()
    assert (closed[-100:] == 1).all()
    assert (np.diff(closed) >= 0).all()
    assert np.diff(closed).max() < 0.2


def test_a_moment_that_may_be_a_b_closes_lips_and_what_is_around_it_a_little():
    odds = np.full(20, -6.0)
    odds[8:13] = (-3, -1.5, -0.5, -1.5, -3)
    assert closing(odds)[7:14] == pytest.approx([0, 0, 0.25, 1, 0.25, 0, 0])
    odds[10] = -1.5  # no less likely at its neighbours: one long closure, unsure
    assert closing(odds)[8:13] == pytest.approx([0.125, 0.5, 0.5, 0.5, 0.125])


def test_a_little_noise_closes_no_lips_and_opens_none():
    for odds, share in ((-6.0, 0), (-1.0, 0), (0.5, 0), (3.0, 1)):
        noisy = odds + np.random.default_rng(0).normal(0, 0.01, 200)
        assert closing(noisy) == pytest.approx(np.full(200, share), abs=1e-3)
    odds = np.full(20, -6.0)
    odds[9:12] = -0.9
    noisy = odds + np.random.default_rng(1).normal(0, 0.01, 20)
    assert closing(noisy) == pytest.approx(closing(odds), abs=0.02)


def test_of_a_recording_lips_are_held_where_it_is_silent():
    pipe = Animator.from_pretrained("mini")
    portrait = pipe.portrait(PORTRAIT)
    sound = np.random.default_rng(0).normal(0, 0.1, 40 * 640).astype(np.float32)
    sound[10 * 640 : 30 * 640] *= 0.01
    rest = pipe.rest(portrait, pipe.speech(sound))
    assert rest is not None
    assert rest.free(5) == rest.free(35) == 1
    assert rest.free(20) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_of_the_example_lips_are_shut_at_its_one_p(dtype):
    """大家好，我是一张照片: the p of 片 is heard 2.4 s from the beginning; in what follows the pause there is no b, p or m."""
    pipe = Animator.from_pretrained("mini", torch_dtype=dtype)
    rest = pipe.rest(pipe.portrait(PORTRAIT), pipe.speech(PORTRAIT.with_name("speech_zh.wav")))
    assert rest is not None
    assert rest.closings is not None
    assert rest.closed(61, 2).min() > 0.9
    assert rest.closed(50, 9).max() == 0
    assert rest.closed(75, 90).max() == 0
