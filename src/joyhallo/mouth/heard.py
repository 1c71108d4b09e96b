"""What the sound alone says of lips, whatever networks make of it: when they rest, and when they are shut."""

import numpy as np

from joyhallo.easing import smooth_step

_UNDER_LOUD_DB = 22.0  # silence is this far under the loudest that is heard
_AROUND_S = 2.5  # before and after,
_FROM_USUAL_DB = 6.0  # which counts as no farther than this from what is usually loud in the recording
_LOUD_DB, _USUAL = 30.0, 95  # frames no farther than this under the loudest one are loud; this percentile of them is usual
_KNOCK = 5  # frames whose median is taken: what is louder for two of them is no voice
_ON_THEIR_WAY_S = 0.12  # from speech to silence or back, in which lips move as they are read
_SETTLES_S = 0.12  # that they take from there to rest
# Log-odds of being shut from which on lips begin to close and from which on they are shut: at a peak of theirs, as b, p and m
# are over within three frames and not always sure, and anywhere.
_AT_PEAK, _ANYWHERE = (-2.0, -1.0), (1.0, 2.0)
_UNDER_PEAK = 0.5  # a frame with so much less than a neighbour is no peak,
_RISE, _RISE_FRAMES = (0.5, 1.5), 3  # nor is one that rises by less than the first over what is so near
_BESIDE = 0.25  # of a peak's closing, in the frames before and after it


def freedom(levels_db: np.ndarray, fps: float) -> np.ndarray:
    """How far lips may leave rest, [F] in 0 to 1, from how loud it is in every frame [F] of so many a second.

    Silence is 22 dB and more under what is loud within two and a half seconds, or under 6 dB less than the recording's loud
    parts where all around is softer: a low voice after a pause is heard down to 28 dB under them. Lips are free up to 0.12 s
    from anything that is heard, and at rest from 0.24 s on.
    """
    steady = np.median(_windows(levels_db, _KNOCK // 2), axis=1)
    usual = np.percentile(steady[steady >= steady.max() - _LOUD_DB], _USUAL)
    loud = _windows(steady, round(_AROUND_S * fps)).max(1).clip(usual - _FROM_USUAL_DB, usual + _FROM_USUAL_DB)
    heard = np.flatnonzero(levels_db > loud - _UNDER_LOUD_DB)
    frames = np.arange(len(levels_db))
    after = np.searchsorted(heard, frames)
    next_to = (heard[np.maximum(after - 1, 0)], heard[np.minimum(after, len(heard) - 1)])
    away_s = np.min([np.abs(frames - one) for one in next_to], 0) / fps
    return 1 - smooth_step(away_s, _ON_THEIR_WAY_S, _ON_THEIR_WAY_S + _SETTLES_S)


def closing(shut_logits: np.ndarray) -> np.ndarray:
    """How far lips are closed, [F] in 0 to 1, from the log-odds that they are shut [F]."""
    is_highest = smooth_step(shut_logits - _windows(shut_logits, 1).max(1), -_UNDER_PEAK, 0)
    has_risen = smooth_step(shut_logits - _windows(shut_logits, _RISE_FRAMES).min(1), *_RISE)
    at_peak = smooth_step(shut_logits, *_AT_PEAK) * is_highest * has_risen
    beside = _BESIDE * _windows(at_peak, 1).max(1)
    return np.maximum.reduce([at_peak, beside, smooth_step(shut_logits, *_ANYWHERE)])


def _windows(values: np.ndarray, reach: int) -> np.ndarray:
    """The values [F] around each one, [F, 2 · reach + 1]; beyond the ends those go on."""
    return np.lib.stride_tricks.sliding_window_view(np.pad(values, reach, "edge"), 2 * reach + 1)
