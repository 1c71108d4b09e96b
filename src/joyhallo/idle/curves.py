"""Slow random curves, blinks and loudness: what heads and eyes follow. All at 25 frames a second."""

import numpy as np

FPS = 25
_RANGE_DB = 40.0  # under the loudest frame: as quiet as nothing
# How far shut the lids are, frame by frame, in three kinds of blinks.
_BLINKS = ((0.5, 1.0, 1.0, 0.6, 0.25), (0.6, 1.0, 0.7, 0.3), (0.3, 0.8, 1.0, 1.0, 0.75, 0.4, 0.15))


def draw_blinks(num_frames: int, per_s: float, random: np.random.Generator) -> np.ndarray:
    """How far shut the lids are, [F] in [0, 1]: blinks at random times, now and then two at once."""
    lids = np.zeros(num_frames)
    time = float(random.exponential(1 / per_s))
    while time * FPS < num_frames:
        curve = _BLINKS[int(random.integers(len(_BLINKS)))]
        first = int(time * FPS)
        for frame, value in enumerate(curve[: num_frames - first], first):
            lids[frame] = max(lids[frame], value)
        pause = 0.32 if random.random() < 0.12 else 0.5 + float(random.exponential(1 / per_s))
        time += pause
    return lids


def wander(num_frames: int, random: np.random.Generator) -> np.ndarray:
    """A slow random curve [F] of about unit deviation: waves of 0.08 to 0.7 a second."""
    times = np.arange(num_frames) / FPS
    rates = random.uniform(0.08, 0.7, 4)
    phases = random.uniform(0, 2 * np.pi, 4)
    strengths = random.uniform(0.3, 1.0, 4) / (0.3 + rates)
    waves = np.sin(2 * np.pi * rates * times[:, None] + phases) @ strengths
    return np.asarray(waves / np.sqrt(np.square(strengths).sum() / 2))


def smooth(values: np.ndarray, width: float) -> np.ndarray:
    """Values [F] averaged over a bell of `width` frames (standard deviation; up to 3)."""
    kernel = np.exp(-0.5 * (np.arange(-9, 10) / width) ** 2)
    return np.convolve(np.pad(values, 9, "edge"), kernel / kernel.sum(), "valid")


def loudness_of_levels(levels_db: np.ndarray) -> np.ndarray:
    """Loudness [F] in [0, 1]: decibels under the loudest frame, 40 dB and less are 0."""
    return np.clip(1 + (levels_db - levels_db.max()) / _RANGE_DB, 0, 1)
