"""The Mandarin viseme test: do the lips close on b p m, round on u ü o, spread on i and open on a?

Syllables are found in the sound, sounds in the syllables, and the lips are looked at when each is heard. All shapes are
measured against the same film's lips at rest, in eye distances; the limits below are set by hand, from the range of filmed
speech, and not fitted to filmed Mandarin.
Axes: N frames, T samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from joyhallo.evaluation.film import SPEECH_RATE_HZ, Film
from joyhallo.evaluation.head import Head
from joyhallo.evaluation.lips import CLOSED, Lips, is_silent, lips_of, loudness_db
from joyhallo.evaluation.pinyin import BILABIALS, Syllable
from joyhallo.evaluation.viseme_scores import Event

_HOP = 80  # samples: loudness 200 times a second
_LOUD = 0.06  # of the loudest: where the syllables begin and end
_LENGTHS = (0.35, 2.5)  # shortest and longest syllable of a sentence against the mean
_LEAD_S = 0.04  # lips are ahead of the sound
_MAX_CONSONANT = 0.4  # of the syllable
_CLOSURE_S = (-0.07, 0.03)  # around the burst of b and p; the closure of m is heard
_HUM_S = (-0.05, 0.08)
_APART_S = (0.0, 0.08)
# What shapes look like: opening over 0.1 and change of the width over 0.04, both in eye distances. The nearest one is seen.
_OPENING, _WIDTH = 0.1, 0.04
_SHAPES = {"open": (1.1, 0.0), "spread": (0.3, 0.5), "rounded": (0.2, -0.9), "closed": (0.0, 0.0)}


@dataclass(frozen=True)
class Timed:
    """A syllable and when it is heard."""

    syllable: Syllable
    start_s: float
    end_s: float


def viseme_events(film: Film, head: Head, syllables: Sequence[Syllable]) -> list[Event]:
    """What the lips of a film did on each sound that has a shape; none without sound."""
    if film.speech is None or not len(syllables):
        return []
    lips = lips_of(head)
    rest_width = rest_width_of(lips, is_silent(loudness_db(film.speech, film.num_frames, film.fps), film.fps))
    events: list[Event] = []
    for timed in time_syllables(film.speech, syllables):
        for asked, start_s, end_s in _windows(timed):
            frames = _frames(start_s, end_s, film.fps, film.num_frames)
            seen = _seen(lips, rest_width, frames, asked)
            if seen is not None:
                events.append(Event(film.path.stem, timed.syllable.text, asked, seen, (start_s + end_s) / 2))
    return events


def rest_width_of(lips: Lips, silent: np.ndarray) -> float:
    """The width of the mouth at rest: closed in silence, or else just closed, or else usual; `silent` [N]."""
    known = np.isfinite(lips.width)
    closed = known & (lips.opening <= CLOSED)
    for where in (closed & silent, closed, known):
        if where.sum() >= 3:
            return float(np.median(lips.width[where]))
    return float(np.nanmedian(lips.width))


def time_syllables(speech: np.ndarray, syllables: Sequence[Syllable]) -> list[Timed]:
    """When each syllable is heard in `speech` [T]: cut where it is quietest, so that lengths stay alike.

    The cuts are the best path: the loudness at the cuts plus the squared departure of the lengths (in logarithms) from
    the mean length. A single syllable is what is loud.
    """
    window = np.ones(4 * _HOP) / (4 * _HOP)
    loudness = np.sqrt(np.maximum(np.convolve(speech.astype(np.float64) ** 2, window, "same"), 0))[::_HOP]
    loud = np.flatnonzero(loudness > _LOUD * max(float(loudness.max()), 1e-9))
    if not len(loud):
        return []
    first, last = int(loud[0]), int(loud[-1]) + 1
    cuts = [first, *_cut(loudness[first:last] / loudness.max(), len(syllables)) + first, last]
    step = _HOP / SPEECH_RATE_HZ
    spans = pairwise(cuts)
    return [Timed(syllable, start * step, end * step) for syllable, (start, end) in zip(syllables, spans, strict=True)]


def _cut(loudness: np.ndarray, count: int) -> np.ndarray:
    """The `count` - 1 places where `loudness` [L] is cut."""
    length = len(loudness)
    if count < 2 or length < 2 * count:
        return np.linspace(0, length, count + 1)[1:-1].round().astype(int)
    mean = length / count
    steps = np.arange(max(1, int(_LENGTHS[0] * mean)), int(_LENGTHS[1] * mean) + 2)
    departures = np.log(steps / mean) ** 2
    price = 2.0 * np.append(loudness, 0.0)  # of a cut; the end costs nothing
    best = np.full(length + 1, np.inf)
    best[0] = 0.0
    back = []
    for _ in range(count):
        before = np.concatenate([np.full(steps[-1], np.inf), best])
        # row e: the costs of starting steps[-1] … steps[0] before e
        starts = np.lib.stride_tricks.sliding_window_view(before, len(steps))[: length + 1]
        costs = starts + departures[::-1]
        choice = costs.argmin(axis=1)
        back.append(np.arange(length + 1) - steps[::-1][choice])
        best = costs[np.arange(length + 1), choice] + price
    cuts = [length]
    for starts_of in back[::-1]:
        cuts.append(int(starts_of[cuts[-1]]))
    return np.array(cuts[-2:0:-1], int)


def _windows(timed: Timed) -> list[tuple[str, float, float]]:
    """Class asked for, and from when to when the lips are looked at."""
    syllable, start = timed.syllable, timed.start_s
    windows = []
    if syllable.initial in BILABIALS:
        early, late = _HUM_S if syllable.initial == "m" else _CLOSURE_S
        windows.append(("closed", start + early, start + late))
    elif syllable.initial and syllable.initial != "f":
        windows.append(("apart", start + _APART_S[0], start + _APART_S[1]))
    onset = min(syllable.consonant_s, _MAX_CONSONANT * (timed.end_s - start))
    length = timed.end_s - start - onset
    for part in syllable.parts:
        # The middle half of the part: its edges belong to its neighbours.
        quarter = (part.end - part.start) / 4
        early, late = part.start + quarter, part.end - quarter
        windows.append((part.asked, start + onset + early * length - _LEAD_S, start + onset + late * length - _LEAD_S))
    return windows


def _frames(start_s: float, end_s: float, fps: float, num_frames: int) -> slice:
    """The frames shown between two times; one at least."""
    first = int(np.clip(np.floor(start_s * fps), 0, num_frames - 1))
    return slice(first, max(first + 1, min(num_frames, int(np.ceil(end_s * fps)))))


def _seen(lips: Lips, rest_width: float, frames: slice, asked: str) -> str | None:
    """The class of the lips in some frames; None where no face is seen. A closure may be as short as one frame."""
    opening, width = lips.opening[frames], lips.width[frames] - rest_width
    known = np.isfinite(opening)
    if not known.any():
        return None
    if asked == "closed":
        least = int(np.nanargmin(opening))
        return classify(float(opening[least]), float(width[least]), is_onset=True)
    return classify(float(np.median(opening[known])), float(np.median(width[known])), is_onset=asked == "apart")


def classify(opening: float, width_change: float, is_onset: bool = False) -> str:
    """The class of `SEEN` nearest to an opening and a change of the width against rest, in eye distances.

    Lips that do not touch are never closed. At the onset of a syllable those that touch always are; in a vowel they may be
    rounded or spread all the same, since the mesh hardly sees the small opening of u.
    """
    is_touching = opening <= CLOSED
    if is_touching and is_onset:
        return "closed"
    place = np.array([opening / _OPENING, width_change / _WIDTH])
    near = {name: float(np.sum((place - shape) ** 2)) for name, shape in _SHAPES.items() if name != "closed" or is_touching}
    return min(near, key=near.__getitem__)
