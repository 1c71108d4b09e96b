"""Whether lips and sound fit: on drawn faces, and on real clips where the data folder is there."""

from pathlib import Path

import numpy as np
import pytest

from joyhallo.conditioning.lip_sync import MAX_OFFSET, LipSync, correlation, fit, lip_measures, log_mel
from joyhallo.data.preparation.checks import check_speech, check_sync, speech_share
from joyhallo.data.preparation.films import Thresholds
from joyhallo.data.preparation.lip_sync_fit import auc, measure, read_talking_clip
from joyhallo.errors import UserError
from talking import babble, face, loudness, open_face_mesh

GRID = Path(__file__).resolve().parents[3] / "shared" / "data" / "grid_s1"
NUM_FRAMES = 75


@pytest.fixture(scope="module")
def mouths():
    """Points of the face with its mouth ever wider open, [21, K, 3]."""
    mesh = open_face_mesh()
    return np.stack([mesh.track(face(opening), None).landmarks for opening in np.linspace(0, 1, 21)])


def spoken(mouths, seed, num_frames=NUM_FRAMES):
    return mouths[np.round(20 * loudness(np.arange(num_frames) / 25, seed)).astype(int)]


@pytest.fixture(scope="module")
def model():
    return LipSync.load()


@pytest.mark.parametrize("seed", range(3))
def test_the_offset_is_found(mouths, model, seed):
    points, voice = spoken(mouths, seed), babble(NUM_FRAMES / 25, seed)
    right = model.score(points, voice)
    assert abs(right.offset_frames) <= 1
    assert right.score > 0.35
    assert right.confidence > 0.3
    for shift in (-7, 4, 10):
        moved = np.roll(voice, -shift * 640)  # the sound comes earlier, the lips lag
        found = model.score(points, moved)
        assert abs(found.offset_frames - shift) <= 1
        assert found.score < right.score - 0.2
        reason = check_sync(found, Thresholds())
        assert reason is not None
        assert reason.reason == "sound and lips out of sync"
    assert check_sync(right, Thresholds()) is None


def test_a_foreign_sound_does_not_fit(mouths, model):
    """One in eight may slip through: the threshold throws out dubbing, not people who speak differently."""
    reasons = []
    for seed in range(8):
        own = model.score(spoken(mouths, seed), babble(NUM_FRAMES / 25, seed))
        found = model.score(spoken(mouths, seed), babble(NUM_FRAMES / 25, seed + 10))
        assert found.best_score < own.best_score - 0.2
        reasons.append(getattr(check_sync(found, Thresholds()), "reason", None))
    assert reasons.count("lips do not follow the sound") >= 7


def test_the_numbers_of_a_score_belong_together(mouths, model):
    found = model.score(spoken(mouths, 0), babble(3.0, 0))
    assert len(found.scores) == 2 * MAX_OFFSET + 1
    assert found.scores[MAX_OFFSET] == found.score
    assert max(found.scores) == found.best_score == found.scores[MAX_OFFSET + found.offset_frames]
    assert found.best_within(MAX_OFFSET) == found.best_score
    assert found.best_within(0) == found.score
    assert found.confidence == pytest.approx(found.best_score - np.median(found.scores))


def test_measures_are_free_of_the_head(mouths):
    points = spoken(mouths, 0).astype(np.float64)
    before = lip_measures(points)
    angle = 0.3
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    tilt = np.array([[np.cos(0.2), 0, np.sin(0.2)], [0, 1, 0], [-np.sin(0.2), 0, np.cos(0.2)]])
    assert np.allclose(lip_measures(3.7 * points @ (turn @ tilt).T + [50, -20, 9]), before, atol=1e-6)
    random = np.random.RandomState(0)
    moved = np.stack(
        [p * s + t for p, s, t in zip(points, random.uniform(0.8, 1.2, 75), random.normal(0, 30, (75, 1, 3)), strict=True)]
    )
    assert np.allclose(lip_measures(moved), before, atol=1e-6)
    opening = before[:, 0]
    assert correlation(opening[:, None], loudness(np.arange(75) / 25)[:, None])[0] > 0.9


def test_level_and_type_of_the_sound_do_not_matter(mouths, model):
    points, voice = spoken(mouths, 1), babble(3.0, 1)
    loud = model.score(points, voice)
    quiet = model.score(points, np.round(voice * 3000).astype(np.int16))
    assert quiet.score == pytest.approx(loud.score, abs=0.02)
    assert quiet.offset_frames == loud.offset_frames


def test_too_short_and_missing(tmp_path, mouths, model):
    with pytest.raises(ValueError, match="50 are needed"):
        model.score(spoken(mouths, 0, 49), babble(2.0))
    with pytest.raises(UserError, match="no lip-sync model"):
        LipSync.load(tmp_path)


def test_fitting_learns_what_was_shown_and_can_be_kept(mouths, tmp_path):
    clips = [(spoken(mouths, seed), babble(3.0, seed)) for seed in range(4)]
    own = fit(clips)
    assert own.score(spoken(mouths, 7), babble(3.0, 7)).score > 0.8  # of a sound it has not heard
    assert own.measure_weights.sum() == pytest.approx(1, abs=1e-5)
    own.save(tmp_path)
    again = LipSync.load(tmp_path)
    assert again.score(*clips[0]) == own.score(*clips[0])


def test_log_mel_is_at_25_a_second():
    tone = np.zeros(10 * 640, np.float32)
    tone[4 * 640 : 5 * 640] = np.sin(np.arange(640) * 0.5)
    bands = log_mel(tone, 10)
    assert bands.shape == (10, 26)
    assert bands.max(1).argmax() == 4
    assert log_mel(tone[:3000], 10).shape == (10, 26)


def test_speech_goes_up_and_down():
    random = np.random.RandomState(0)
    assert speech_share(babble(4.0)) > 0.3
    for sound in (np.zeros(25 * 640), 0.1 * random.standard_normal(25 * 640), 0.2 * np.sin(np.arange(25 * 640) / 9)):
        assert speech_share(sound.astype(np.float32)) < 0.1
        assert check_speech(sound.astype(np.float32), Thresholds()).reason == "no speech"
    quiet = (babble(4.0) * 0.002).astype(np.float32)
    assert speech_share(quiet) == 0


def test_auc_by_hand():
    assert auc([3, 2], [1, 2]) == 0.875
    assert auc([1], [2]) == 0


@pytest.mark.skipif(not GRID.is_dir(), reason="no shared data folder")
def test_real_clips_that_the_numbers_were_not_fitted_to(model):
    mesh = open_face_mesh()
    paths = sorted(GRID.glob("*.mp4"))[:20:2]
    clips = [clip for clip in (read_talking_clip(path, mesh) for path in paths) if clip is not None]
    found = measure(model, clips)
    assert found.auc_shifted > 0.95
    assert found.share_within_two_frames >= 0.9
    assert found.score_in_sync > 0.5
