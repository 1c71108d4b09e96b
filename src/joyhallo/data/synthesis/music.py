"""Music to speak over, made of nothing but tones: chords, a melody, sometimes a beat. Axes: T samples at 16 kHz."""

import numpy as np

from joyhallo.models.speech_encoder import SAMPLE_RATE_HZ

_SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10))  # major, minor; semitones
_PROGRESSIONS = ((0, 4, 5, 3), (0, 5, 3, 4), (0, 3, 4, 3), (5, 3, 0, 4))  # steps of the scale that a chord stands on
_BEATS_PER_CHORD = 2
_MELODY = (0, 1, 2, 4, 5)  # steps of the scale: with five of them nothing clashes
_NUM_HARMONICS = 8


def music_like(num_samples: int, random: np.random.Generator) -> np.ndarray:
    """Music [T] of unit deviation, in some key, tempo and sound; it begins anywhere in a bar."""
    beat = int(60 / random.uniform(70, 140) * SAMPLE_RATE_HZ)
    scale, root_hz = _SCALES[int(random.integers(2))], 110 * 2 ** (random.uniform(0, 12) / 12)
    progression = _PROGRESSIONS[int(random.integers(len(_PROGRESSIONS)))]
    chords, melody, drum = (random.uniform(*span) for span in ((0.5, 1), (0.2, 1), (0, 0.6)))
    is_plucked, brightness = random.random() < 0.5, random.uniform(0.3, 0.8)
    late = int(random.integers(beat * _BEATS_PER_CHORD))
    music = np.zeros(num_samples + late + 2 * beat * _BEATS_PER_CHORD)
    for number, start in enumerate(range(0, num_samples + late, beat)):
        step = progression[number // _BEATS_PER_CHORD % len(progression)]
        if number % _BEATS_PER_CHORD == 0:
            for degree in (step, step + 2, step + 4):
                tone = _tone(_hz(root_hz, scale, degree), _BEATS_PER_CHORD * beat, brightness, is_plucked)
                music[start : start + len(tone)] += chords * tone
        if random.random() < 0.7:
            degree = 7 + int(random.choice(_MELODY))
            tone = _tone(_hz(root_hz, scale, degree), beat, brightness, True)
            music[start : start + len(tone)] += melody * tone
        hit = random.normal(size=beat // 4) * np.exp(-np.arange(beat // 4) / (0.02 * SAMPLE_RATE_HZ))
        music[start : start + len(hit)] += drum * hit
    music = music[late : late + num_samples]
    return music / (music.std() + 1e-9)


def _hz(root_hz: float, scale: tuple[int, ...], degree: int) -> float:
    octave, step = divmod(degree, len(scale))
    return root_hz * 2 ** (octave + scale[step] / 12)


def _tone(hz: float, num_samples: int, brightness: float, is_plucked: bool) -> np.ndarray:
    """One note with overtones, each `brightness` times as strong as the one before; plucked ones die away, others swell."""
    times = np.arange(num_samples) / SAMPLE_RATE_HZ
    numbers = np.arange(1, _NUM_HARMONICS + 1)
    numbers = numbers[numbers * hz < SAMPLE_RATE_HZ / 2]
    tone = (brightness ** (numbers - 1)) @ np.sin(2 * np.pi * hz * numbers[:, None] * times)
    swell = np.minimum(1, times / (0.005 if is_plucked else 0.15))
    fade = np.clip((times[-1] - times) / 0.03, 0, 1)
    return tone * swell * fade * (np.exp(-times / 0.4) if is_plucked else 1.0)
