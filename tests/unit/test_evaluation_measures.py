"""Measures of hand-made faces and pictures, whose answers are known."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch

from joyhallo.evaluation.catalogue import choose_metrics
from joyhallo.evaluation.film import open_film
from joyhallo.evaluation.head import hold_still
from joyhallo.evaluation.lip_timing import at_times
from joyhallo.evaluation.lips import is_silent, lip_measures, lips_of, loudness_db
from joyhallo.evaluation.measures import Measure
from joyhallo.evaluation.portrait_likeness import Likenesses, detail
from joyhallo.evaluation.stability import Background, Flicker, background_of, motion_measures
from joyhallo.evaluation.suite import NO_FACE, Tools, evaluate_film
from joyhallo.media.audio import AudioError
from joyhallo.media.video import VideoError
from made_films import FPS, Pose, blurred, flickering, made_film, made_points, noisy, still, tone, write_film

NUM = 100
TIMES = np.arange(NUM) / FPS
CLOSED, USUAL_WIDTH, OPEN_LIDS = np.zeros(NUM), np.full(NUM, 0.6), np.full(NUM, 2.0)


def value(measures: list[Measure], name: str) -> float | None:
    return next(measure.value for measure in measures if measure.name == name)


@pytest.mark.parametrize("distance_px", [40.0, 160.0])
@pytest.mark.parametrize("turn", [0.0, 12.0])
def test_lips_do_not_depend_on_size_and_pose(distance_px, turn):
    opening, width = 0.06 + 0.05 * np.sin(6 * TIMES), 0.6 + 0.04 * np.cos(5 * TIMES)
    pose = Pose(turn * np.sin(2 * TIMES), np.stack([9 * np.sin(TIMES), 5 * TIMES], 1))
    lips = lips_of(hold_still(made_points(opening, width, OPEN_LIDS, pose, distance_px)))
    assert np.abs(lips.opening - opening).max() < 0.003
    assert np.abs(lips.width - width).max() < 0.003


def test_head_motion_is_the_spread_of_the_turning():
    pose = Pose(6 * np.sin(2 * np.pi * TIMES / 2), np.zeros((NUM, 2)))
    film = made_film(made_points(CLOSED, USUAL_WIDTH, OPEN_LIDS, pose))
    found = value(motion_measures(film, hold_still(film.points)), "head_motion")
    assert abs(found - 6 / np.sqrt(2)) < 0.3
    resting = made_film(made_points(0.1 + 0.1 * np.sin(9 * TIMES), USUAL_WIDTH, OPEN_LIDS, still(NUM)))
    assert value(motion_measures(resting, hold_still(resting.points)), "head_motion") < 0.05  # talking is no head motion


def test_blinks_are_counted():
    lids = OPEN_LIDS.copy()
    for start in (10, 40, 70):
        lids[start : start + 4] = 0.2
    lids[90] = 1.7  # no blink
    film = made_film(made_points(CLOSED, USUAL_WIDTH, lids, still(NUM)))
    assert abs(value(motion_measures(film, hold_still(film.points)), "blink_rate") - 3 / (NUM / FPS) * 60) < 1e-9
    closed = lids.copy()
    closed[30:75] = 0.2  # eyes that stay closed do not blink
    film = made_film(made_points(CLOSED, USUAL_WIDTH, closed, still(NUM)))
    assert abs(value(motion_measures(film, hold_still(film.points)), "blink_rate") - 15) < 1e-9


def talking(opening: np.ndarray) -> list[Measure]:
    """Measures of lips while a voice is heard in the second half."""
    loudness = np.where(np.arange(NUM) >= 50, 0.3, 0.0005)
    film = made_film(made_points(opening, USUAL_WIDTH, OPEN_LIDS, still(NUM)), speech=tone(loudness))
    return lip_measures(film, hold_still(film.points))


def test_lips_in_silence_and_in_speech():
    speaks = np.arange(NUM) >= 50
    chatter = 0.07 + 0.07 * np.sin(np.arange(NUM))
    good = talking(np.where(speaks, chatter, 0.0))
    assert value(good, "lips_closed_in_silence") == 1
    assert 0.12 < value(good, "lip_amplitude") < 0.142
    restless = talking(chatter)
    assert value(restless, "lips_closed_in_silence") < 0.4
    assert value(restless, "lip_amplitude") == pytest.approx(value(good, "lip_amplitude"), abs=0.01)
    mumbling = talking(np.where(speaks, chatter / 4, 0.0))
    assert value(mumbling, "lip_amplitude") < 0.3 * value(good, "lip_amplitude")
    still_open = talking(np.full(NUM, 0.08))
    assert (value(still_open, "lip_amplitude"), value(still_open, "lips_closed_in_silence")) == (pytest.approx(0, abs=1e-3), 0)


def test_silence_keeps_away_from_speech_and_forgives_quiet_breath():
    loudness = np.full(NUM, 0.3)
    loudness[40:70] = 0.01  # breath, 30 dB below
    found = np.flatnonzero(is_silent(loudness_db(tone(loudness), NUM, FPS), FPS))
    assert found[0] in range(44, 47)
    assert found[-1] in range(63, 66)
    assert is_silent(np.full(NUM, -90.0), FPS).all()  # a digital silence throughout


def test_frames_without_a_face_are_left_out():
    opening = 0.07 + 0.07 * np.sin(np.arange(NUM))
    points = made_points(opening, USUAL_WIDTH, OPEN_LIDS, still(NUM)).astype(np.float32)
    whole = made_film(points, speech=tone(np.full(NUM, 0.3)))
    gaps = points.copy()
    gaps[20:28] = np.nan
    film = made_film(gaps, speech=whole.speech)
    before, after = (lip_measures(f, hold_still(f.points)) for f in (whole, film))
    assert value(after, "lip_amplitude") == pytest.approx(value(before, "lip_amplitude"), abs=0.005)
    assert np.isnan(hold_still(film.points).shape[20:28]).all()
    filled = at_times(gaps, np.arange(NUM, dtype=float))
    assert np.isfinite(filled).all()
    assert np.allclose(filled[:20], gaps[:20])
    assert np.allclose(filled[24], (gaps[19] * 4 + gaps[28] * 5) / 9, atol=1e-3)


def flicker_of(pictures: list[np.ndarray]) -> float:
    flicker = Flicker()
    for picture in pictures:
        flicker.add(picture)
    return flicker.result().value


def gliding(step: float) -> list[np.ndarray]:
    """A soft bright bar that moves to the right."""
    columns = np.arange(160)
    bars = [100 + 80 * np.exp(-(((columns - 20 - step * index) / 15) ** 2)) for index in range(30)]
    return [np.repeat(np.repeat(bar[None, :, None], 90, 0), 3, 2).astype(np.uint8) for bar in bars]


def test_flicker_is_there_and_back_again_and_motion_is_not():
    steady = gliding(0)
    assert flicker_of(steady) == 0
    assert flicker_of(gliding(3)) < 0.3
    jumping = [np.clip(p.astype(int) + (6 if i % 2 else 0), 0, 255).astype(np.uint8) for i, p in enumerate(steady)]
    assert flicker_of(jumping) == pytest.approx(6, abs=0.1)
    assert flicker_of(flickering(steady)) > flicker_of(noisy(steady)) > 2
    assert Flicker().result().value is None


def test_background_is_beside_the_head_and_its_drift_is_measured():
    points = made_points(CLOSED[:30], USUAL_WIDTH[:30], OPEN_LIDS[:30], still(30), 40.0)
    where = background_of(points, (240, 200))
    assert 0.1 < where.mean() < 0.8
    inside = points[0, :, :2].round().astype(int)
    assert not where[inside[:, 1], inside[:, 0]].any()
    random = np.random.default_rng(0)
    room = random.integers(60, 200, (240, 200, 3)).astype(np.uint8)
    moving_mouth = [room.copy() for _ in range(30)]
    for index, picture in enumerate(moving_mouth):
        picture[100:120, 80:120] = index * 8  # inside the head: no background
    film = made_film(points, moving_mouth)
    assert change_of(film) == pytest.approx(0, abs=0.3)
    brighter = [np.clip(p.astype(int) + index, 0, 255).astype(np.uint8) for index, p in enumerate(moving_mouth)]
    assert change_of(made_film(points, brighter)) == pytest.approx(15, abs=0.5)  # the mean of 1 … 29
    filling = made_points(CLOSED[:30], USUAL_WIDTH[:30], OPEN_LIDS[:30], still(30), 160.0)
    assert "fills the frame" in Background(made_film(filling, moving_mouth)).result().note


def change_of(film) -> float:
    background = Background(film)
    for picture in film.frames():
        background.add(picture)
    return background.result().value


class ColourIdentity:
    """Recognises people by the mean colours of four quarters."""

    embedding_size = 12

    def embed(self, image, face) -> torch.Tensor:
        x0, y0, x1, y1 = np.clip(face.box, 0, min(image.shape[:2])).astype(int)
        crop = torch.from_numpy(image[y0:y1, x0:x1].astype(np.float32)).permute(2, 0, 1)[None]
        return torch.nn.functional.adaptive_avg_pool2d(crop - 128, 2).flatten()


def test_identity_and_sharpness_of_pictures():
    random = np.random.default_rng(1)
    faces = [np.kron(random.integers(0, 255, (24, 20, 3)), np.ones((10, 10, 1))).astype(np.uint8) for _ in range(2)]
    points = made_points(CLOSED[:50], USUAL_WIDTH[:50], OPEN_LIDS[:50], still(50))
    films = {
        "one": [faces[0]] * 50,
        "two": [faces[0]] * 25 + [faces[1]] * 25,
        "blurred": [faces[0], *blurred([faces[0]] * 49)],
    }
    found = {}
    for name, pictures in films.items():
        film = made_film(points, pictures)
        likenesses = Likenesses(film, ColourIdentity(), None)
        for picture in pictures:
            likenesses.add(picture)
        found[name] = {measure.name: measure for measure in likenesses.result()}
    assert found["one"]["identity_stability"].value == pytest.approx(1)
    assert found["two"]["identity_stability"].value < 0.8
    assert found["one"]["sharpness"].value == pytest.approx(1, abs=1e-6)
    assert found["blurred"]["sharpness"].value < 0.6
    assert "first frame" in found["one"]["sharpness"].note
    assert "--reference" in found["one"]["identity_likeness"].note
    landmarks = points[0]
    assert detail(faces[0], landmarks, 128) > 1.5 * detail(blurred([faces[0]])[0], landmarks, 128)


def test_without_sound_or_face_measures_say_so():
    points = made_points(CLOSED, USUAL_WIDTH, OPEN_LIDS, still(NUM)).astype(np.float32)
    chosen = choose_metrics(["lip_sync", "lips", "flicker", "motion"])
    silent = evaluate_film(made_film(points), chosen, Tools())
    notes = {measure.name: measure.note for measure in silent.measures}
    assert "--speech" in notes["lip_sync"]
    assert "--speech" in notes["lips_closed_in_silence"]
    assert silent.value("head_motion") is not None
    faceless = evaluate_film(replace(made_film(points), mesh=np.full_like(points, np.nan)), chosen, Tools())
    assert {measure.note for measure in faceless.measures if measure.name != "flicker"} == {NO_FACE}
    assert faceless.value("flicker") == 0
    assert len(faceless.pictures) == 6


def test_a_measure_has_a_value_or_a_reason():
    with pytest.raises(ValueError, match="neither"):
        Measure("x", None)
    with pytest.raises(ValueError, match="nan"):
        Measure("x", float("nan"))


def test_films_stream_and_take_other_speech(tmp_path):
    pictures = [np.full((64, 48, 3), 20 + 4 * index, np.uint8) for index in range(20)]
    path = write_film(tmp_path / "a.mp4", pictures, tone(np.full(20, 0.3)))
    film = open_film(path)
    assert (film.num_frames, film.fps, film.size) == (20, 25.0, (64, 48))
    assert abs(len(film.speech) - 20 * 640) <= 16
    assert [round(float(frame.mean())) // 4 for frame in film.frames()] == [
        round(float(frame.mean())) // 4 for frame in film.frames()
    ]
    other = write_film(tmp_path / "b.mp4", pictures, tone(np.full(20, 0.01)))
    assert np.abs(open_film(path, speech=other).speech).max() < 0.1 < np.abs(film.speech).max()
    assert open_film(write_film(tmp_path / "c.mp4", pictures, None)).speech is None
    with pytest.raises(VideoError, match="at least 2"):
        open_film(write_film(tmp_path / "d.mp4", pictures[:1], None))
    with pytest.raises(AudioError, match="no sound"):
        open_film(path, speech=tmp_path / "c.mp4")


def test_what_is_kept_of_a_frame_is_its_mesh_and_little_else():
    """Temporary memory of a long film is that of a piece of it."""
    peaks = []
    for count in (500, 2000):
        points = made_points(np.full(count, 0.1), np.full(count, 0.6), np.full(count, 2.0), still(count)).astype(np.float32)
        tracemalloc.start()
        hold_still(points)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    mesh_bytes = 478 * 3 * 4
    assert (peaks[1] - peaks[0]) / 1500 < 1.5 * mesh_bytes
