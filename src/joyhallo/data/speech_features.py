"""The speech features of a clip: made by an encoder, and told from those of another encoder.

Axes: F frames, blocks of the encoder (its layers), channels of a block.
"""

import numpy as np
import torch

from joyhallo.conditioning.speech import WINDOW_RADIUS, SpeechEncoder, prepare_speech
from joyhallo.data.frames import FPS, SAMPLES_PER_FRAME, waveform_of

# Between encoders of 12 layers with drawn weights 0.02 at most on three seconds of speech; of one of them with itself 0.97
# where the clip was part of a longer recording, 0.46 under noise at -20 dB (published features are of separated vocals).
_SAME_ENCODER = 0.3


def encode_clip(speech: np.ndarray, encoder: SpeechEncoder) -> np.ndarray:
    """Features [F, blocks, channels] float16 of `speech` [F·640] int16, normalised over the clip."""
    num_frames = len(speech) // SAMPLES_PER_FRAME
    if speech.min() == speech.max():  # silence cannot be normalised: it has the features of silence
        return encoder.encode(torch.zeros(len(speech)), num_frames).half().cpu().numpy()
    features = prepare_speech(waveform_of(speech), encoder, fps=FPS, clip_length=1)
    return features.window(0, num_frames)[:, WINDOW_RADIUS].half().cpu().numpy()


def are_of_one_encoder(stored: np.ndarray, made: np.ndarray) -> bool:
    """Whether two features [F, blocks, channels] of the same speech are the same encoder's.

    By what they do over time in every channel, and for the block that agrees least: names and sizes do not tell, as the
    Mandarin and the English wav2vec2 have the same shape.
    """
    if stored.shape != made.shape:
        return False
    one, other = (values - values.mean(0) for values in (stored.astype(np.float32), made.astype(np.float32)))
    norms = np.sqrt(np.square(one).sum(0) * np.square(other).sum(0))
    correlations = (one * other).sum(0) / np.maximum(norms, 1e-12)  # [blocks, channels]
    return bool(correlations.mean(1).min() >= _SAME_ENCODER)
