"""Smooth by VBench's formula with an interpolator made by hand, and our warp error on films that move as we say."""

import cv2
import numpy as np
import pytest

from joyhallo.evaluation.smoothness import differences, measure_smooth, measure_warp_error, smoothness
from made_films import film_of


def grey(level: int) -> np.ndarray:
    return np.full((8, 10, 3), level, np.uint8)


def mean_of(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    return ((first.astype(int) + last) // 2).astype(np.uint8)


def test_formula_on_greys():
    """Expected 15 and 30, true 25 and 26: wrong by 10 and by 4."""
    frames = [grey(level) for level in (10, 25, 20, 26, 40, 99)]
    np.testing.assert_array_equal(differences(iter(frames), mean_of), [10, 4])
    assert smoothness(iter(frames), mean_of) == pytest.approx((255 - 7) / 255)
    assert smoothness(iter(frames[:2]), mean_of) is None
    assert smoothness([grey(7)] * 5, mean_of) == 1


def test_smooth_is_measured_with_any_interpolator_and_says_when_there_is_none(tmp_path, monkeypatch):
    film = film_of([grey(level) for level in (10, 25, 20, 26, 40, 99)])
    found = measure_smooth(film, mean_of)[0]
    assert found.name == "smooth"
    assert found.value == pytest.approx((255 - 7) / 255)
    np.testing.assert_allclose(found.curve, [np.nan, 245 / 255, np.nan, 251 / 255, np.nan, np.nan])
    assert "three frames" in measure_smooth(film_of([grey(1)] * 2), mean_of)[0].note
    monkeypatch.setenv("JOYHALLO_CACHE", str(tmp_path))
    monkeypatch.delenv("JOYHALLO_WEIGHTS", raising=False)
    absent = measure_smooth(film, None)[0]
    assert absent.value is None
    assert "joyhallo models pull metrics-smooth" in absent.note


def texture(size: tuple[int, int] = (120, 160)) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3).astype(float)
    return np.clip((smooth - smooth.mean()) * 6 + 128, 0, 255).astype(np.uint8)


def moving(ways: list[float]) -> list[np.ndarray]:
    """A texture pushed to the right by so many pixels."""
    picture = texture((120, 220))
    return [cv2.warpAffine(picture, np.float32([[1, 0, x], [0, 1, 0]]), (220, 120))[:, 30:190] for x in ways]


def error_of(frames: list[np.ndarray]) -> float:
    value = measure_warp_error(film_of(frames))[0].value
    assert value is not None
    return value


def test_still_and_steadily_moving_films_have_little_warp_error():
    assert error_of([texture()] * 5) == 0
    steady = moving([0, 2, 4, 6, 8, 10, 12])
    assert error_of(steady) < 2
    plain = np.mean([np.abs(a.astype(int) - b).mean() for a, b in zip(steady[1:], steady[:-1], strict=True)])
    assert plain > 10, "the frames themselves differ"


def test_jerks_flicker_and_shuffled_frames_have_more():
    steady = error_of(moving([0, 2, 4, 6, 8, 10, 12]))
    jerky = error_of(moving([0, 3.5, 4, 7.5, 8, 11.5, 12]))
    assert jerky > 3 * steady
    bright = [np.clip(frame.astype(int) + 12 * (i % 2), 0, 255).astype(np.uint8) for i, frame in enumerate([texture()] * 7)]
    assert error_of(bright) == pytest.approx(12, abs=0.5)
    frames = moving([0, 2, 4, 6, 8, 10, 12])
    assert error_of([frames[i] for i in (3, 0, 5, 1, 6, 2, 4)]) > 3 * steady


def test_curve_and_repetition():
    film = film_of(moving([0, 2, 4, 6, 8, 11, 12]))
    first, second = measure_warp_error(film)[0], measure_warp_error(film)[0]
    assert first.value == second.value
    assert np.isnan(first.curve[::2]).all()
    assert np.nanargmax(first.curve) == 5
    assert first.unit == "grey levels"


def test_large_pictures_are_looked_at_smaller():
    large = [cv2.resize(frame, (1366, 1024), interpolation=cv2.INTER_CUBIC) for frame in moving([0, 2, 4])]
    assert error_of(large) < 3
