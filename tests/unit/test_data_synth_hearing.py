"""What lips do for a sound is learnt from films; what the spelling says of closures and shapes stands beside it."""

import numpy as np
import pytest

from joyhallo.data.synthesis.hearing import fit_hearing
from joyhallo.data.synthesis.mandarin import with_heard

NUM_FRAMES = 75


def spoken(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise that swells and fades, and lips that open with it and round when it is dark: speech [T], controls [F, 4]."""
    random = np.random.default_rng(seed)
    times = np.arange(NUM_FRAMES) / 25
    loud = 0.5 + 0.5 * np.sin(2 * np.pi * random.uniform(1.0, 2.5) * times + random.uniform(0, 6))
    dark = 0.5 + 0.5 * np.sin(2 * np.pi * random.uniform(0.5, 1.5) * times + random.uniform(0, 6))
    noise = random.normal(size=NUM_FRAMES * 640)
    low = np.convolve(noise, np.ones(24) / 24**0.5, "same")
    share = np.repeat(dark, 640)
    speech = np.repeat(0.02 + loud, 640) * (share * low + (1 - share) * noise)
    controls = np.stack([loud, 0.8 * loud, 0.2 - 0.5 * dark, 0.3 * dark], 1)
    return speech.astype(np.float32), controls


@pytest.fixture(scope="module")
def hearing():
    return fit_hearing([spoken(seed) for seed in range(12)])


@pytest.mark.parametrize("level", [1.0, 0.05])
def test_other_speech_of_any_level_moves_the_lips_as_the_filmed_did(hearing, level):
    speech, controls = spoken(100)
    found = hearing.controls(level * speech, NUM_FRAMES)
    assert found.shape == (NUM_FRAMES, 4)
    for column in range(4):
        assert np.corrcoef(found[:, column], controls[:, column])[0, 1] > 0.8
    assert found.mean(0) == pytest.approx(controls.mean(0), abs=0.15)


def test_they_move_as_far_as_the_filmed_did(hearing):
    clips = [spoken(seed) for seed in range(12)]
    found = np.concatenate([hearing.controls(speech, NUM_FRAMES) for speech, _ in clips])
    filmed = np.concatenate([controls for _, controls in clips])
    assert found.std(0) == pytest.approx(filmed.std(0), rel=0.02)


def test_what_the_spelling_shuts_stays_shut_and_shapes_are_between_both():
    spelled = np.array([[0.0, 0.1, 0.0, 0.0], [0.8, 0.6, 0.2, -0.1], [0.2, 0.2, -0.4, 0.3]])
    heard = np.array([[0.9, 0.7, 0.1, 0.0], [0.4, 0.3, -0.2, 0.1], [-0.5, 0.0, 0.0, 0.0]])
    found = with_heard(spelled, heard)
    assert found[0, 0] == 0
    assert found[1] == pytest.approx([0.72, 0.54, 0.08, -0.04])  # half and half, wider by a fifth; corners by seven tenths
    assert found[2] == pytest.approx([0.12, 0.12, -0.28, 0.21])  # lips do not go beyond shut
