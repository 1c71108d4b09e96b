"""From what was measured of clips to the numbers of the report.

The opening of the lips is taken with the head held still; "normalised" means 0 at its 5th and 1 at its 95th percentile of the
clip. Axes: F frames, K mesh points.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from joyhallo.conditioning.lip_sync import MAX_OFFSET, LipSync, correlation, lip_measures
from joyhallo.data.preparation.lip_sync_fit import SHIFTS
from joyhallo.evaluation.head import hold_still
from joyhallo.evaluation.lip_timing import at_times
from joyhallo.evaluation.lips import lips_of
from mini_report.sayings import Saying
from mini_report.traces import Trace

CLOSED_AT_ONSET, CLOSED_AT_REST = 0.15, 0.1  # of the normalised opening
_BEFORE, _AFTER = 3, 2  # frames around an onset in which lips may close
_FEWEST_FRAMES = 12  # of speech that a correlation is taken over
_MIN_SEEN = 0.9  # share of frames with a face


@dataclass(frozen=True, eq=False)
class ClipScores:
    """One clip in numbers; the name is its file's."""

    name: str
    kind: str  # of the saying
    sync: float  # lip-sync score over the frames with speech
    offset_frames: int  # at which the score of the whole clip is best
    shifted: tuple[float, ...]  # the same score with the sound moved by 5 to 15 frames
    bilabials: tuple[bool, ...]  # whether the lips close, at each b, p, m
    others: tuple[bool, ...]  # likewise at the other onsets
    num_silent: int
    num_at_rest: int  # of the silent frames
    amplitude: float  # of the opening, in eye distances
    psnr_db: float | None
    flicker: float | None
    spent_s: float  # processor time for each second of video


def score_clip(name: str, saying: Saying, trace: Trace, model: LipSync) -> ClipScores | None:
    """The numbers of a clip; None when its face is lost."""
    seen = np.isfinite(trace.points[:, 0, 0])
    if seen.mean() < _MIN_SEEN:
        return None
    points = at_times(trace.points, np.arange(len(trace.points), dtype=np.float64))
    predicted, measures = model.predict(saying.speech, len(points)), lip_measures(points)
    sync, shifted = spoken_scores(model, predicted, measures, saying.spoken)
    opening = lips_of(hold_still(points)).opening
    share = normalised(opening)
    is_closed = [(onset, closes_at(share, onset.frame)) for onset in saying.onsets]
    silent, flicker = saying.silent, trace.flicker[np.isfinite(trace.flicker)]
    return ClipScores(
        name=name,
        kind=saying.kind,
        sync=sync,
        offset_frames=model.compare(predicted, measures).offset_frames,
        shifted=shifted,
        bilabials=tuple(closed for onset, closed in is_closed if onset.is_bilabial),
        others=tuple(closed for onset, closed in is_closed if not onset.is_bilabial),
        num_silent=int(silent.sum()),
        num_at_rest=int((share[silent] < CLOSED_AT_REST).sum()),
        amplitude=amplitude(points, saying),
        psnr_db=psnr_db(trace.squared_error),
        flicker=float(flicker.mean()) if len(flicker) else None,
        spent_s=float(trace.spent_s[0]) / (len(points) / 25),
    )


def spoken_scores(
    model: LipSync, predicted: np.ndarray, seen: np.ndarray, spoken: np.ndarray
) -> tuple[float, tuple[float, ...]]:
    """The score over the frames with speech, and those with the lips taken 5 to 15 frames earlier or later."""

    def at(offset: int) -> float:
        places = spoken[(spoken + offset >= 0) & (spoken + offset < len(seen))]
        if len(places) < _FEWEST_FRAMES:
            return float("nan")
        return float(correlation(predicted[places], seen[places + offset]) @ model.measure_weights)

    shifted = (at(shift) for shift in SHIFTS if abs(shift) <= MAX_OFFSET)
    return at(0), tuple(value for value in shifted if np.isfinite(value))


def normalised(opening: np.ndarray) -> np.ndarray:
    """[F]: 0 at the 5th percentile, 1 at the 95th."""
    low, high = np.percentile(opening, [5, 95])
    return (opening - low) / max(float(high - low), 1e-6)


def closes_at(share: np.ndarray, frame: int) -> bool:
    """Whether the normalised opening falls under 0.15 from three frames before an onset to two after."""
    return bool(share[max(0, frame - _BEFORE) : frame + _AFTER + 1].min() < CLOSED_AT_ONSET)


def amplitude(points: np.ndarray, saying: Saying) -> float:
    """From the 5th to the 95th percentile of the lips' opening in speech, in eye distances; NaN where the face is lost."""
    if not np.isfinite(points[:, 0, 0]).all():
        return float("nan")
    opening = lips_of(hold_still(points)).opening[saying.spoken]
    low, high = np.percentile(opening, [5, 95])
    return float(high - low)


def psnr_db(squared_error: np.ndarray) -> float | None:
    """Of the mean squared error over frames; grey levels squared."""
    return None if not len(squared_error) else float(10 * np.log10(255**2 / max(float(squared_error.mean()), 1e-9)))


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean of those that are there."""
    known = [value for value in values if value is not None and np.isfinite(value)]
    return float(np.mean(known)) if known else None


def share_of(values: Sequence[bool]) -> float | None:
    """The share that is true."""
    return float(np.mean(values)) if len(values) else None
