"""A speech encoder takes another's place: the audio projector is fitted to it, so that training goes on from what it knew.

Its first layer alone is: ridge regression from windows of the new features to what the layer made of the former ones.
Axes: F frames of a recording, I numbers in a window of features, H of the layer's output.
"""

import argparse
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from joyhallo.conditioning.speech import MelSpeech, prepare_speech
from joyhallo.data.dataset import open_datasets
from joyhallo.data.frames import FPS, waveform_of
from joyhallo.errors import UserError, run_as_command
from joyhallo.models.projectors import AudioProjector
from joyhallo.models.speech_encoder import MelSpeechNetwork
from joyhallo.pipeline import JoyHalloPipeline
from joyhallo.training.start import load_encoders

logger = logging.getLogger(__name__)
_PENALTY = 30.0  # of the squared size of the weights
_TRIED_OF = 10  # one of so many recordings is not fitted to, and tells how well it went


def fit_to_encoder(
    projector: AudioProjector, former: MelSpeechNetwork, encoder: MelSpeechNetwork, speech: Iterable[np.ndarray]
) -> float:
    """Fit the projector to `encoder` on recordings [T] int16; returns the share of the variance that it keeps on others.

    Raises UserError where both are not alike in their features' shape, or fewer than ten recordings are given.
    """
    shapes = [[network.config[name] for name in ("num_blocks", "channels")] for network in (former, encoder)]
    if shapes[0] != shapes[1]:
        raise UserError(f"the encoder has {shapes[1]} blocks and channels, the former one {shapes[0]}: give one that is alike")
    num_inputs, num_outputs = projector.proj1.in_features + 1, projector.proj1.out_features
    products = _PENALTY * torch.eye(num_inputs, dtype=torch.float64)
    answers, tried = torch.zeros(num_inputs, num_outputs, dtype=torch.float64), []
    for number, (asked, wanted) in enumerate(_pairs(projector, former, encoder, speech)):
        if number % _TRIED_OF == _TRIED_OF - 1:
            tried.append((asked, wanted))
        else:
            products += asked.T @ asked
            answers += asked.T @ wanted
    if not tried:
        raise UserError(f"the audio projector is fitted on {_TRIED_OF} recordings and more: give a larger dataset")
    solution = torch.linalg.solve(products, answers)
    asked, wanted = (torch.cat(parts) for parts in zip(*tried, strict=True))
    error = (asked @ solution - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum()
    with torch.no_grad():
        projector.proj1.weight.copy_(solution[:-1].T)
        projector.proj1.bias.copy_(solution[-1])
    return 1 - float(error)


@torch.no_grad()
def _pairs(
    projector: AudioProjector, former: MelSpeechNetwork, encoder: MelSpeechNetwork, speech: Iterable[np.ndarray]
) -> Iterator[tuple[Tensor, Tensor]]:
    """For every recording windows of the new features with a one at their end, [F, I+1], and the layer's output [F, H]."""
    listeners = MelSpeech(former), MelSpeech(encoder)
    for recording in speech:
        if recording.min() == recording.max():
            continue
        heard = (prepare_speech(waveform_of(recording), listener, fps=FPS, clip_length=1) for listener in listeners)
        old, new = (features.window(0, features.num_frames).flatten(1) for features in heard)
        yield torch.cat([new, torch.ones(len(new), 1)], 1).double(), projector.proj1(old).double()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--init", default="mini", help="the weights whose encoder is replaced")
    parser.add_argument("--encoders", type=Path, required=True, help="a folder with a speech_encoder")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="datasets, for their speech")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a new folder, for `joyhallo train --init`")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    pipe = JoyHalloPipeline.from_pretrained(given.init)
    encoder = load_encoders(given.encoders).get("speech_encoder")
    if not isinstance(encoder, MelSpeechNetwork) or not isinstance(pipe.speech_encoder, MelSpeechNetwork):
        raise UserError("both speech encoders must be of mini's kind: give --encoders a folder with such a speech_encoder")
    dataset = open_datasets(given.data)
    speech = (dataset.annotations(i).speech for i in range(len(dataset)) if not dataset.facts[i].is_held_out)
    kept = fit_to_encoder(pipe.audio_projector, pipe.speech_encoder, encoder, speech)
    logger.info("the fitted layer keeps %.1f %% of the variance on recordings that it was not fitted to", 100 * kept)
    pipe.register_modules(speech_encoder=encoder)
    pipe.save_pretrained(given.output)


if __name__ == "__main__":
    run_as_command(main)
