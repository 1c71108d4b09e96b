"""Speech changed so that the lips still fit: microphones, rooms, noise, music.

Axes: T samples at 16 kHz, F frames, C columns.
"""

import numpy as np

from joyhallo.data.synthesis.music import music_like
from joyhallo.models.speech_encoder import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME

_SHARE_OTHER_SPEEDS = 0.6
_SHARE_MUSIC = 0.3  # of the recordings that are changed at all


class SoundChanger:
    """Random changes of recordings; the same seed makes the same ones."""

    def __init__(self, others: np.ndarray, seed: int = 0) -> None:
        """`others` [N, T]: recordings to mix in as a distant voice; none are mixed in when N is 0."""
        self._others = others
        self._random = np.random.default_rng(seed)

    def perhaps_faster(self, speech: np.ndarray, components: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Three times of five at another speed."""
        return self.speed(speech, components) if self._random.random() < _SHARE_OTHER_SPEEDS else (speech, components)

    def speed(self, speech: np.ndarray, components: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Play [T] faster or slower by up to a quarter (the pitch and the formants move too) with its lip shapes [F, C]."""
        factor = float(np.exp(self._random.uniform(-0.25, 0.25)))
        spare = max(0.0, len(speech) - 1 - (len(speech) - 1) * factor)
        start = self._random.uniform(0, spare) if factor < 1 else 0.0
        sound = played(speech, factor, start, len(speech))
        # Frame i is shown for 640 samples; its shape is that at the middle of them.
        frames = (np.arange(len(components)) + 0.5) * factor + start / SAMPLES_PER_FRAME - 0.5
        last = np.clip(frames, 0, len(components) - 1)
        shapes = np.stack([np.interp(last, np.arange(len(components)), column) for column in components.T], 1)
        return sound, shapes.astype(np.float32)

    def colour(self, speech: np.ndarray) -> np.ndarray:
        """A random smooth filter of up to 12 dB, noise 5 to 40 dB below, sometimes another voice; unit variance at the end."""
        random = self._random
        speech = filtered(speech, random)
        level = speech.std() + 1e-6
        speech = speech + noise_like(len(speech), random) * level * 10 ** (-random.uniform(5, 40) / 20)
        if len(self._others) and random.random() < 0.3:
            other = np.roll(self._others[random.integers(len(self._others))], int(random.integers(len(speech))))
            speech = speech + other / (other.std() + 1e-6) * level * 10 ** (-random.uniform(8, 25) / 20)
        return ((speech - speech.mean()) / (speech.std() + 1e-6)).astype(np.float32)


def played(speech: np.ndarray, factor: float, start: float, num_samples: int) -> np.ndarray:
    """`num_samples` of [T] from sample `start` on, `factor` times as fast, pitch and formants too; silence after its end."""
    times = np.arange(num_samples) * factor + start
    return np.interp(times, np.arange(len(speech)), speech, right=0.0).astype(np.float32)


def filtered(speech: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Through a random smooth filter of up to 12 dB, as of another microphone or mouth."""
    spectrum = np.fft.rfft(speech)
    knots = random.normal(0, 6, 7)
    places = np.log2(np.linspace(1, 200, len(spectrum)))
    curve_db = np.interp(places, np.linspace(0, places[-1], len(knots)), knots)
    return np.fft.irfft(spectrum * 10 ** (np.clip(curve_db, -12, 12) / 20), len(speech))


def noise_like(num_samples: int, random: np.random.Generator) -> np.ndarray:
    """Noise [T] of unit deviation, from white to nearly red."""
    spectrum = np.fft.rfft(random.normal(size=num_samples))
    noise = np.fft.irfft(spectrum * np.linspace(1, 100, len(spectrum)) ** -random.uniform(0, 0.7), num_samples)
    return noise / noise.std()


def in_a_room(speech: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """With the echoes of a small or middling room: they die away by 60 dB within 0.15 to 0.5 s and lie 3 to 15 dB below."""
    length = int(random.uniform(0.15, 0.5) * SAMPLE_RATE_HZ)
    echoes = random.normal(size=length) * 10 ** (-3 * np.arange(length) / length)
    echoes[: int(0.003 * SAMPLE_RATE_HZ)] = 0
    echoes *= 10 ** (-random.uniform(3, 15) / 20) / np.sqrt(np.square(echoes).sum())
    size = len(speech) + length
    wet = np.fft.irfft(np.fft.rfft(speech, size) * np.fft.rfft(echoes, size), size)[: len(speech)]
    return np.asarray(speech + wet)


def recorded(speech: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """As another recording might hold it, int16 [T]: half of the time clean, else filtered, in a room, with noise or music."""
    sound = np.asarray(speech, np.float64) - float(np.mean(speech))
    if random.random() < 0.5:
        sound = filtered(sound, random)
        if random.random() < 0.5:
            sound = in_a_room(sound, random)
        if random.random() < 0.7:
            sound = sound + noise_like(len(sound), random) * (sound.std() + 1e-6) * 10 ** (-random.uniform(8, 40) / 20)
        if random.random() < _SHARE_MUSIC:
            sound = sound + music_like(len(sound), random) * (sound.std() + 1e-6) * 10 ** (-random.uniform(6, 30) / 20)
    peak = float(np.abs(sound).max())
    target = 10 ** (-random.uniform(1, 12) / 20)
    return np.round(sound * (target / max(peak, 1e-6)) * 32767).astype(np.int16)
