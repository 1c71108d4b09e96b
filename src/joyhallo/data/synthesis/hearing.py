"""What lips do for a sound, read off films: ridge regression from log-mel bands to the controls of the lips.

It knows no language: whoever is filmed opens the mouth for a loud open vowel and rounds it for a dark one. What must close or
round is told by the spelling (`mandarin`).
Axes: F frames at 25 a second, T = F·640 samples at 16 kHz, 4 controls (see `mandarin.controls_of`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from joyhallo.conditioning.lip_sync import log_mel, ridge, with_context


@dataclass(frozen=True, eq=False)
class Hearing:
    """The fitted numbers."""

    weights: np.ndarray  # [13·26, 4] bands → controls, in centimetres
    mean: np.ndarray  # [4]

    def controls(self, speech: np.ndarray, num_frames: int) -> np.ndarray:
        """The controls [F, 4] for speech [T] of any level, as far from each other as filmed ones."""
        return with_context(log_mel(speech, num_frames)) @ self.weights + self.mean


def fit_hearing(clips: Sequence[tuple[np.ndarray, np.ndarray]]) -> Hearing:
    """Fit to filmed clips: pairs of speech [T] and controls [F, 4]."""
    bands = np.concatenate([with_context(log_mel(speech, len(controls))) for speech, controls in clips])
    controls = np.concatenate([part for _, part in clips])
    scale, mean = bands.std(0) + 1e-6, controls.mean(0)
    inputs = bands / scale
    weights = ridge(inputs, controls - mean)
    # A regression is timid: what it predicts is spread as widely as what was seen.
    spread = controls.std(0) / (inputs @ weights).std(0).clip(1e-6)
    return Hearing(weights * spread / scale[:, None], mean)
