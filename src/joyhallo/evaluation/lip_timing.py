"""Lip sync from the face mesh: does the mouth do what the speech asks for, and when (`conditioning.lip_sync`).

Axes: N frames of the film, F frames at 25 a second, K mesh points, T samples.
"""

import numpy as np

from joyhallo.conditioning.lip_sync import MIN_FRAMES, LipSync, LipSyncScore, lip_measures
from joyhallo.evaluation.film import SPEECH_RATE_HZ, Film
from joyhallo.evaluation.measures import Measure, missing

_NAMES = ("lip_sync", "lip_sync_offset", "lip_sync_confidence")
_CLOCK_FPS = 25.0
_PIECE_FRAMES = 1500  # a minute at a time: memory must not grow with the film
_MIN_SEEN = 0.8  # share of frames with a face; the others are filled in between


def lip_sync_measures(film: Film, model: LipSync) -> list[Measure]:
    """Score, offset and confidence of a film; of one longer than a minute, the mean (the offset: the median) of its pieces."""
    if film.speech is None:
        return missing(_NAMES, "the video has no sound: give it with --speech")
    if film.has_face.mean() < _MIN_SEEN:
        return missing(_NAMES, f"a face is seen in only {film.has_face.mean():.0%} of the frames, {_MIN_SEEN:.0%} are needed")
    num_frames = int(film.num_frames / film.fps * _CLOCK_FPS + 1e-6)
    if num_frames < MIN_FRAMES:
        return missing(_NAMES, f"the video lasts {film.duration_s:.1f} s, {MIN_FRAMES / _CLOCK_FPS:.0f} s are needed")
    scores, expected = [], []
    for frames in np.array_split(np.arange(num_frames), -(-num_frames // _PIECE_FRAMES)):
        seen = lip_measures(at_times(film.points, (frames + 0.5) / _CLOCK_FPS * film.fps - 0.5))
        first, last = (round(int(f) / _CLOCK_FPS * SPEECH_RATE_HZ) for f in (frames[0], frames[-1] + 1))
        predicted = model.predict(film.speech[first:last], len(frames))
        scores.append(model.compare(predicted, seen))
        expected.append(predicted[:, 0] * model.measure_scale[0] + seen[:, 0].mean())
    curve = np.interp(
        (np.arange(film.num_frames) + 0.5) / film.fps * _CLOCK_FPS - 0.5, np.arange(num_frames), np.concatenate(expected)
    )
    return _summed(scores, np.maximum(curve, 0))


def _summed(scores: list[LipSyncScore], expected_opening: np.ndarray) -> list[Measure]:
    values = np.array([(score.score, score.offset_frames, score.confidence) for score in scores])
    return [
        Measure("lip_sync", float(values[:, 0].mean()), "correlation", curve=expected_opening),
        Measure("lip_sync_offset", float(np.median(values[:, 1])), "frames"),
        Measure("lip_sync_confidence", float(values[:, 2].mean()), "correlation"),
    ]


def at_times(points: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Points [F, K, 3] at the fractional frame numbers `places` [F] of `points` [N, K, 3], across frames without a face too."""
    known = np.flatnonzero(np.isfinite(points[:, 0, 0]))
    after = np.clip(np.searchsorted(known, places), 1, len(known) - 1) if len(known) > 1 else np.zeros(len(places), int)
    low, high = known[np.maximum(after - 1, 0)], known[after]
    share = np.clip((places - low) / np.maximum(high - low, 1), 0, 1)[:, None, None]
    return points[low] * (1 - share) + points[high] * share
