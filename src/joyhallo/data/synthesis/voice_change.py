"""Another voice for recorded speech: pitch, formants and speed, each changed without the others.

Axes: T samples at 16 kHz, W windows, K frequencies.
"""

from dataclasses import dataclass

import numpy as np

_SIZE, _STEP, _REACH = 640, 320, 80  # of the pieces that speech is stretched by
_WINDOW, _HOP = 512, 128
_SMOOTH = 36  # cepstral coefficients of an envelope: less than one period of any voice
_RAISED = 6  # times that an envelope is laid over the peaks again
_MOST = 2.9  # natural logarithm (25 dB) that an envelope may be raised or lowered by
_PITCH, _WIDEST_PITCH = 0.22, 0.5  # natural logarithms: deviation, limit
_FORMANTS, _WIDEST_FORMANTS = 0.06, 0.2


@dataclass(frozen=True)
class Voice:
    """How a voice differs from the recorded one: factors of its pitch and of its formants."""

    pitch: float
    formants: float


def draw_voice(random: np.random.Generator) -> Voice:
    """A voice at random: higher ones have higher formants more often than not, as shorter throats do."""
    pitch = float(np.clip(random.normal(0, _PITCH), -_WIDEST_PITCH, _WIDEST_PITCH))
    formants = float(np.clip(0.3 * pitch + random.normal(0, _FORMANTS), -_WIDEST_FORMANTS, _WIDEST_FORMANTS))
    return Voice(float(np.exp(pitch)), float(np.exp(formants)))


def in_voice(speech: np.ndarray, voice: Voice, num_samples: int) -> np.ndarray:
    """Speech [T] spoken by another voice, as loud, in `num_samples` from its beginning to its end; float32."""
    import soxr

    # Resampling moves the formants by the factor of the pitch: they are moved the other way before.
    coloured = _with_formants(np.asarray(speech, np.float64), voice.formants / voice.pitch)
    longer = stretched(coloured, round(num_samples * voice.pitch))
    changed = soxr.resample(longer, voice.pitch, 1.0)
    changed = np.pad(changed, (0, max(0, num_samples - len(changed))))[:num_samples]
    return (changed * (speech.std() / max(float(changed.std()), 1e-9))).astype(np.float32)


def stretched(speech: np.ndarray, num_samples: int) -> np.ndarray:
    """Speech [T] of the same pitch, faster or slower, so that it lasts `num_samples`."""
    pace = len(speech) / num_samples
    # One piece more at either end, which fade in and out.
    spare = round(_STEP * pace)
    padded = np.pad(np.asarray(speech, np.float32), (_REACH + spare, _SIZE + 2 * (_REACH + spare)))
    return faster(padded, pace)[_STEP:][:num_samples]


def faster(sound: np.ndarray, pace: float) -> np.ndarray:
    """Shorter at the same pitch: pieces of 40 ms added with overlap, each shifted to fit the last one best."""
    window = np.hanning(_SIZE).astype(np.float32)
    num_pieces = int((len(sound) - _SIZE - 2 * _REACH) / pace) // _STEP
    if num_pieces < 2:
        return sound
    result = np.zeros(num_pieces * _STEP + _SIZE, np.float32)
    for index in range(num_pieces):
        at, target = int(index * _STEP * pace) + _REACH, index * _STEP
        shifts = range(-_REACH, _REACH + 1, 4)
        overlap = result[target : target + _STEP]
        shift = max(shifts, key=lambda move: float(overlap @ sound[at + move : at + move + _STEP])) if index else 0
        result[target : target + _SIZE] += window * sound[at + shift : at + shift + _SIZE]
    return result


def _with_formants(speech: np.ndarray, factor: float) -> np.ndarray:
    """Speech [T] with its spectral envelope, and so its formants, `factor` times as high; the pitch stays."""
    padded = np.pad(speech, (_WINDOW, 2 * _WINDOW))
    window = np.sqrt(np.hanning(_WINDOW + 1)[:-1])
    spectra = np.fft.rfft(np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP] * window)
    envelopes = _envelopes(np.log(np.abs(spectra) + 1e-4 * np.abs(spectra).max() + 1e-12))
    places = np.clip(np.arange(envelopes.shape[1]) / factor, 0, envelopes.shape[1] - 1)
    low = np.minimum(places.astype(int), envelopes.shape[1] - 2)
    share = places - low
    moved = envelopes[:, low] * (1 - share) + envelopes[:, low + 1] * share
    pieces = np.fft.irfft(spectra * np.exp(np.clip(moved - envelopes, -_MOST, _MOST))) * window
    result = np.zeros(len(padded))
    for number, piece in enumerate(pieces):
        result[number * _HOP : number * _HOP + _WINDOW] += piece
    return result[_WINDOW : _WINDOW + len(speech)] * (_HOP / np.square(window).sum())


def _envelopes(heights: np.ndarray) -> np.ndarray:
    """Smooth curves [W, K] over the peaks of logarithmic spectra: what lies below them is raised to them, a few times."""
    raised = heights
    for _ in range(_RAISED):
        cepstra = np.fft.irfft(raised)
        cepstra[:, _SMOOTH : -_SMOOTH + 1] = 0
        envelopes = np.fft.rfft(cepstra).real
        raised = np.maximum(heights, envelopes)
    return envelopes
