"""When nobody speaks: lips that nothing is heard of rest, whatever networks make of the silence. 25 frames a second."""

import numpy as np

from joyhallo.easing import smooth_step

_UNDER_LOUD_DB = 22.0  # silence is this far under the loudest frame around,
_AROUND = 62  # frames before and after,
_SOFTEST_DB = 12.0  # or this far under the recording's loud parts where all around is softer still
_LOUD = 95  # percentile of the frames' levels
_ON_THEIR_WAY = 3  # frames from speech to silence or back, in which lips move as they are read
_SETTLES = 3  # frames that they take from there to rest


def freedom(power: np.ndarray) -> np.ndarray:
    """How far lips may leave rest, [F] in 0 to 1, from the mean square of the sound in every frame [F].

    Silence is 22 dB and more under what is loud within two and a half seconds, so that somebody who goes on in a low voice is
    still heard. Lips are free up to 0.12 s from anything else, and at rest from 0.24 s on.
    """
    level_db = 10 * np.log10(power + 1e-10)
    padded = np.pad(level_db, _AROUND, constant_values=-np.inf)
    loud = np.lib.stride_tricks.sliding_window_view(padded, 2 * _AROUND + 1).max(1)
    loud = np.maximum(loud, np.percentile(level_db, _LOUD) - _SOFTEST_DB)
    frames, sounds = np.arange(len(power)), np.flatnonzero(level_db > loud - _UNDER_LOUD_DB)
    after = np.searchsorted(sounds, frames)
    next_to = (sounds[np.maximum(after - 1, 0)], sounds[np.minimum(after, len(sounds) - 1)])
    away = np.min([np.abs(frames - one) for one in next_to], 0)
    return 1 - smooth_step(away, _ON_THEIR_WAY, _ON_THEIR_WAY + _SETTLES)
