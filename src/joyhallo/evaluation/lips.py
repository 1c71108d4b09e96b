"""What the lips do: their opening in silence and in speech. Lengths are in eye distances (about 9 cm).

Axes: N frames, T samples.
"""

from dataclasses import dataclass

import numpy as np

from joyhallo.conditioning import anatomy
from joyhallo.evaluation.film import SPEECH_RATE_HZ, Film
from joyhallo.evaluation.head import Head
from joyhallo.evaluation.measures import Measure, missing

CLOSED = 0.012  # an opening up to this is closed: the points of the inner lips never meet exactly
_INNER_PAIRS = slice(3, 8)  # of the 11 pairs from corner to corner: the middle five
_SILENCE_DB = -22.0  # against the loud parts (the 95th percentile); quieter breath counts as silence
_ABSOLUTE_SILENCE_DB = -60.0  # against full scale
_SETTLE_S = 0.16  # lips need this long to close after speech, and open this long before it
_NO_SOUND = "the video has no sound: give it with --speech"


@dataclass(frozen=True, eq=False)
class Lips:
    """The shape of the lips over time, with the head's movement taken out; NaN where no face was found."""

    opening: np.ndarray  # [N] between the inner lips
    width: np.ndarray  # [N] from corner to corner
    pout: np.ndarray  # [N] how far the lips are in front of the line between the cheeks
    jaw: np.ndarray  # [N] from the nose's tip down to the chin


def lips_of(head: Head) -> Lips:
    """The lips of a face that is held still."""
    shape = head.shape
    upper, lower = (list(line[_INNER_PAIRS]) for line in (anatomy.INNER_UPPER_LIP, anatomy.INNER_LOWER_LIP))
    opening = (shape[:, lower, 1] - shape[:, upper, 1]).mean(1)
    corners = shape[:, anatomy.LEFT_MOUTH_CORNER] - shape[:, anatomy.RIGHT_MOUTH_CORNER]
    cheeks = (shape[:, anatomy.LEFT_CHEEK, 2] + shape[:, anatomy.RIGHT_CHEEK, 2]) / 2
    pout = cheeks - shape[:, list(anatomy.LIPS), 2].mean(1)
    jaw = shape[:, anatomy.CHIN, 1] - shape[:, anatomy.NOSE_TIP, 1]
    return Lips(opening, np.linalg.norm(corners, axis=1), pout, jaw)


def loudness_db(speech: np.ndarray, num_frames: int, fps: float) -> np.ndarray:
    """Root mean square [num_frames] of `speech` [T] while each frame is shown, in dB against full scale."""
    edges = np.round(np.arange(num_frames + 1) / fps * SPEECH_RATE_HZ).astype(int)
    power = np.concatenate([[0.0], np.cumsum(np.pad(speech.astype(np.float64), (0, max(0, edges[-1] - len(speech)))) ** 2)])
    return 10 * np.log10((power[edges[1:]] - power[edges[:-1]]) / np.maximum(np.diff(edges), 1) + 1e-12)


def is_silent(loudness: np.ndarray, fps: float) -> np.ndarray:
    """[N] bool: far below the loud parts, and not within 0.16 s of them, when lips are on their way."""
    limit = max(np.percentile(loudness, 95) + _SILENCE_DB, _ABSOLUTE_SILENCE_DB)
    reach = round(_SETTLE_S * fps)
    loud = np.convolve(loudness > limit, np.ones(2 * reach + 1), "same") > 0
    return ~loud


def lip_measures(film: Film, head: Head) -> list[Measure]:
    """How much the lips move in speech, and how often they are closed in silence."""
    lips = lips_of(head)
    if film.speech is None:
        return missing(("lip_amplitude", "lips_closed_in_silence"), _NO_SOUND)
    silent = is_silent(loudness_db(film.speech, film.num_frames, film.fps), film.fps)
    seen = np.isfinite(lips.opening)
    return [_amplitude(lips, seen & ~silent), _closed(lips, seen & silent, film.fps)]


def _amplitude(lips: Lips, where: np.ndarray) -> Measure:
    if where.sum() < 5:
        return Measure("lip_amplitude", None, note="there are fewer than 5 frames with speech and a face")
    low, high = np.percentile(lips.opening[where], [5, 95])
    return Measure("lip_amplitude", float(high - low), "eye distances", curve=lips.opening)


def _closed(lips: Lips, where: np.ndarray, fps: float) -> Measure:
    if where.sum() < max(2, 0.1 * fps):
        return Measure("lips_closed_in_silence", None, note="there is no silence of 0.1 s in which a face is seen")
    return Measure("lips_closed_in_silence", float((lips.opening[where] <= CLOSED).mean()), "share", weight=float(where.sum()))
