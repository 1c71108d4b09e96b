"""When the syllables of a recorded word are heard, and their initials and finals, from the sound alone.

There is no alignment of the words, so they are cut by what kinds of sound look like: a closure is quiet, a breath or a hiss is
not voiced, a hum is voiced and dark, a vowel is loud and voiced. The cuts are the best path through the kinds that the spelling
asks for: how well the sound fits them, how usual their lengths are, and how much changes at the cuts.
Axes: T samples at 16 kHz, N steps of 5 ms.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from joyhallo.data.synthesis.spelling import STOPS, initial_of
from joyhallo.models.speech_encoder import SAMPLE_RATE_HZ

_HOP, _WINDOW, _FFT = 80, 400, 512
_STEP_S = _HOP / SAMPLE_RATE_HZ
_SILENT = 1e-3  # of full scale: no speech is quieter
_QUIET = 0.02  # of the loudest: where a word begins and ends
# Mean and deviation of each kind: decibels under the loudest, voicing from 0 to 1, decibels of 2-8 kHz against 0.1-1 kHz,
# decibels of 0.1-0.45 kHz against all.
_KINDS = {
    "closed": ((-30, 10), (0.5, 0.3), (-18, 12), (-1.5, 2.5)),
    "breath": ((-23, 7), (0.38, 0.2), (-2, 12), (-8, 7)),
    "hiss": ((-17, 8), (0.33, 0.15), (20, 10), (-23, 10)),
    "hum": ((-8, 6), (0.97, 0.1), (-37, 8), (-0.4, 0.8)),
    "liquid": ((-9, 7), (0.92, 0.18), (-22, 9), (-0.8, 1.5)),
    "vowel": ((-6, 6), (0.95, 0.14), (-19, 9), (-2, 3)),
    "end": ((-11, 7), (0.95, 0.16), (-32, 9), (-0.5, 0.9)),
}
_CLOSED_S = 0.06
_INITIAL_KINDS = {
    **dict.fromkeys(("b", "d", "g"), (("breath", 0.015),)),
    **dict.fromkeys(("p", "t", "k"), (("breath", 0.085),)),
    **dict.fromkeys(("z", "zh", "j"), (("hiss", 0.06),)),
    **dict.fromkeys(("c", "ch", "q"), (("hiss", 0.12),)),
    **dict.fromkeys(("s", "sh", "x"), (("hiss", 0.13),)),
    **dict.fromkeys(("f", "h"), (("breath", 0.1),)),
    **dict.fromkeys(("m", "n"), (("hum", 0.075),)),
    **dict.fromkeys(("l", "r"), (("liquid", 0.065),)),
}  # fmt: skip
_VOWEL_S, _END_S = 0.19, 0.08
_CONSONANTS_PACE = 0.4
_SPREAD = 0.5  # of the lengths' logarithms
_SHARE = 0.08  # what one step of 5 ms counts: the steps of a sound are much alike
_CHANGE = 1.5  # what the greatest change of a word is worth as a cut


@dataclass(frozen=True)
class Timed:
    """One syllable of a recording, seconds."""

    pinyin: str
    start: float  # its initial is heard: of a stop, the burst
    vowel: float  # its final begins
    end: float

    def moved(self, by_s: float, pace: float = 1.0) -> "Timed":
        """The same of a recording that is played `pace` times as fast and begins `by_s` later."""
        return Timed(self.pinyin, *(by_s + time / pace for time in (self.start, self.vowel, self.end)))


@dataclass(frozen=True)
class _Piece:
    """A stretch of one kind of sound that a word must have."""

    syllable: int
    role: str  # "closed", "initial", "final", "end"
    kind: str
    length_s: float


def time_syllables(speech: np.ndarray, syllables: Sequence[str]) -> list[Timed]:
    """When the syllables of a word are heard in its recording [T]; none in silence."""
    if not syllables or float(np.abs(speech).max(initial=0)) < _SILENT:
        return []
    seen = _measure(speech)
    loud = np.flatnonzero(seen[:, 0] > 20 * np.log10(_QUIET))
    first, last = int(loud[0]), int(loud[-1]) + 1
    pieces = _pieces(syllables)
    cuts = _cut(seen[first:last], pieces)
    times = (first + cuts) * _STEP_S
    found = []
    for number, pinyin in enumerate(syllables):
        own = [index for index, piece in enumerate(pieces) if piece.syllable == number and piece.role != "closed"]
        vowel = next(index for index in own if pieces[index].role == "final")
        found.append(Timed(pinyin, float(times[own[0]]), float(times[vowel]), float(times[own[-1] + 1])))
    return found


def _pieces(syllables: Sequence[str]) -> list[_Piece]:
    """What is heard in turn: a closure before a stop that follows another syllable, an initial, a final, its nasal end."""
    pieces = []
    for number, pinyin in enumerate(syllables):
        initial = initial_of(pinyin)
        if initial in STOPS and number:
            pieces.append(_Piece(number, "closed", "closed", _CLOSED_S))
        pieces += [_Piece(number, "initial", kind, length_s) for kind, length_s in _INITIAL_KINDS.get(initial, ())]
        has_end = pinyin.rstrip("012345").endswith(("n", "ng"))
        longer = 1.25 if number == len(syllables) - 1 else 1.0
        pieces.append(_Piece(number, "final", "vowel", longer * (_VOWEL_S - 0.5 * _END_S * has_end)))
        if has_end:
            pieces.append(_Piece(number, "end", "end", longer * _END_S))
    return pieces


def _measure(speech: np.ndarray) -> np.ndarray:
    """What kinds are told by, [N, 4]; see `_KINDS`."""
    padded = np.pad(np.asarray(speech, np.float64), (_WINDOW // 2, _WINDOW))
    windows = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP][: -(-len(speech) // _HOP)]
    power = np.abs(np.fft.rfft(windows * np.hanning(_WINDOW), _FFT)) ** 2
    hz = np.fft.rfftfreq(_FFT, 1 / SAMPLE_RATE_HZ)
    floor = 1e-6 * power.sum(1).max() + 1e-12

    def band(low: float, high: float) -> np.ndarray:
        return 10 * np.log10(power[:, (hz >= low) & (hz < high)].sum(1) + floor)

    every = band(80, 8000)
    echo = np.fft.irfft(np.abs(np.fft.rfft(windows * np.hanning(_WINDOW), 2 * _FFT)) ** 2)
    own = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(_WINDOW), 2 * _FFT)) ** 2)
    lags = slice(SAMPLE_RATE_HZ // 400, SAMPLE_RATE_HZ // 75)
    voicing = (echo[:, lags] / own[lags]).max(1) / (echo[:, 0] / own[0] + floor / _FFT)
    return np.stack(
        [every - every.max(), np.clip(voicing, 0, 1), band(2000, 8000) - band(100, 1000), band(100, 450) - every], 1
    )


def _cut(seen: np.ndarray, pieces: Sequence[_Piece]) -> np.ndarray:
    """Where the pieces begin and the last one ends, [len(pieces) + 1] steps: the best path."""
    length = len(seen)
    if length < 2 * len(pieces):
        return np.linspace(0, length, len(pieces) + 1).round().astype(int)
    pace = length * _STEP_S / sum(piece.length_s for piece in pieces)
    # A cut is best where the sound changes most within 20 ms.
    change = np.abs(seen[4:] - seen[:-4]) @ (1 / np.array([6, 0.25, 8, 6]))
    change = np.pad(change, (2, 2))[:length]
    worth = np.append(_CHANGE * change / max(float(change.max()), 1e-6), 0.0)
    best = np.full(length + 1, np.inf)
    best[0] = 0.0
    back = []
    for piece in pieces:
        misfit = _misfit(seen, piece.kind)
        # Slow speech has long vowels: consonants hardly change.
        usual_s = piece.length_s * pace ** (1.0 if piece.role in ("final", "end") else _CONSONANTS_PACE)
        steps = np.arange(1, min(length, int(4 * usual_s / _STEP_S) + 3))
        unusual = np.log(steps * _STEP_S / usual_s) ** 2 / (2 * _SPREAD**2)
        sums = np.concatenate([[0.0], np.cumsum(misfit)])
        before = np.concatenate([np.full(steps[-1], np.inf), best - sums])
        starts = np.lib.stride_tricks.sliding_window_view(before, len(steps))[: length + 1]  # row e: steps[-1] … 1 before e
        costs = starts + unusual[::-1]
        choice = costs.argmin(1)
        back.append(np.arange(length + 1) - steps[::-1][choice])
        best = costs[np.arange(length + 1), choice] + sums - worth
    cuts = [length]
    for starts_of in back[::-1]:
        cuts.append(max(0, int(starts_of[cuts[-1]])))
    return np.array(cuts[::-1], int)


def _misfit(seen: np.ndarray, kind: str) -> np.ndarray:
    """How little each step sounds like a kind, [N]."""
    means, deviations = np.array(_KINDS[kind], float).T
    away = np.clip(np.abs((seen - means) / deviations), 0, 3)
    return _SHARE * np.sum(away**2 / 2 + np.log(deviations), 1)
