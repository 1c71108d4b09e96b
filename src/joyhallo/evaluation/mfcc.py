"""Mel-frequency cepstral coefficients as the published lip-sync expert takes them (python_speech_features' defaults).

Axes: T samples, N windows of sound, C coefficients.
"""

import numpy as np

SAMPLE_RATE_HZ = 16_000
WINDOW = 400  # samples: 25 ms
STEP = 160  # samples: 10 ms, four to a video frame
NUM_FFT = 512
NUM_FILTERS = 26
NUM_COEFFICIENTS = 13
PREEMPHASIS = 0.97
LIFTER = 22


def mfcc(samples: np.ndarray) -> np.ndarray:
    """Coefficients of 16 kHz sound; the first is replaced by the logarithm of the window's energy.

    Parameters
    ----------
    samples : [T], on the scale of int16 and not of 1, because the energy is kept as it is.

    Returns
    -------
    [N, 13] float64, with N = 1 + ceil((T - 400) / 160), and 1 for anything shorter; the end is padded with zeros.
    """
    if samples.ndim != 1 or not len(samples):
        raise ValueError(f"sound must be [T] and not empty, got {list(samples.shape)}")
    signal = samples.astype(np.float64)
    signal = np.append(signal[:1], signal[1:] - PREEMPHASIS * signal[:-1])
    num_windows = 1 + max(0, -(-(len(signal) - WINDOW) // STEP))
    signal = np.pad(signal, (0, max(0, (num_windows - 1) * STEP + WINDOW - len(signal))))
    windows = np.lib.stride_tricks.sliding_window_view(signal, WINDOW)[::STEP][:num_windows]  # rectangular
    power = np.abs(np.fft.rfft(windows, NUM_FFT)) ** 2 / NUM_FFT
    energy = _above_zero(power.sum(1))
    bands = _above_zero(power @ mel_filters().T)
    cepstrum = np.log(bands) @ _cosines().T
    cepstrum *= 1 + LIFTER / 2 * np.sin(np.pi * np.arange(NUM_COEFFICIENTS) / LIFTER)
    cepstrum[:, 0] = np.log(energy)
    return cepstrum


def mel_filters() -> np.ndarray:
    """Triangles over the bins of the spectrum, [26, 257], evenly spaced in mel between 0 and 8000 Hz."""
    top = 2595 * np.log10(1 + SAMPLE_RATE_HZ / 2 / 700)
    edges_hz = 700 * (10 ** (np.linspace(0, top, NUM_FILTERS + 2) / 2595) - 1)
    edges = np.floor((NUM_FFT + 1) * edges_hz / SAMPLE_RATE_HZ)  # the corners lie on whole bins
    bins = np.arange(NUM_FFT // 2 + 1)
    filters = np.zeros((NUM_FILTERS, len(bins)))
    for row, (left, peak, right) in enumerate(zip(edges[:-2], edges[1:-1], edges[2:], strict=True)):
        rising, falling = (bins >= left) & (bins < peak), (bins >= peak) & (bins < right)
        filters[row, rising] = (bins[rising] - left) / (peak - left)
        filters[row, falling] = (right - bins[falling]) / (right - peak)
    return filters


def _cosines() -> np.ndarray:
    """The orthonormal cosine transform of type 2, [13, 26]."""
    rows, columns = np.arange(NUM_COEFFICIENTS)[:, None], np.arange(NUM_FILTERS)[None]
    basis = np.cos(np.pi * rows * (2 * columns + 1) / (2 * NUM_FILTERS)) * np.sqrt(2 / NUM_FILTERS)
    basis[0] /= np.sqrt(2)
    return basis


def _above_zero(values: np.ndarray) -> np.ndarray:
    return np.where(values == 0, np.finfo(float).eps, values)
