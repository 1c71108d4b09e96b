"""Pretraining of the speech encoder of `mini`: the lips from the sound, on films and on Mandarin sentences.

It learns the shape of the lips, their opening, and whether they are shut: a squared error alone is content with lips half
open where it is not sure, and p, b, m last two frames. The part that tells shut lips stays in the encoder, the head that
predicts the rest is dropped afterwards. The sound is heard in several voices and changed at random (filter, noise, speed with
pitch), so that the encoder does not learn one voice in one room.
"""

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from joyhallo.data.preparation.lip_sync_fit import auc
from joyhallo.data.synthesis.canonical import read_canonical_mesh
from joyhallo.data.synthesis.voices import SoundChanger
from joyhallo.errors import run_as_command
from joyhallo.models.speech_encoder import NUM_AROUND, MelSpeechNetwork
from joyhallo.training.budget import Budget
from joyhallo.training.lip_clips import NUM_COMPONENTS, SHUT_CM, LipClips, LipSources, read_lip_clips
from joyhallo.training.muon import Optimizers
from joyhallo.weights.hub import face_models_path
from joyhallo.weights.pipeline_folder import load_component

logger = logging.getLogger(__name__)
_SHUT_WEIGHT = 0.5  # of the cross entropy of shut lips beside the squared errors
_RATE_NEW, _RATE_KNOWN = 0.01, 0.006  # of learning: encoders that begin, and those that go on
_MEASURED_AT_ONCE = 64  # clips


class LipListener(nn.Module):
    """An encoder with a head for what it is trained by: recordings [B,T] → what lips do, [B,S,10].

    Components of their shape, their opening, and the log-odds that they are shut.
    """

    def __init__(self, encoder: MelSpeechNetwork) -> None:
        super().__init__()
        self.encoder = encoder
        wide = encoder.config["num_blocks"] * encoder.config["channels"] * NUM_AROUND
        self.head = nn.Sequential(
            nn.Dropout(0.1), nn.Linear(wide, 160), nn.SiLU(), nn.Dropout(0.2), nn.Linear(160, NUM_COMPONENTS + 1)
        )

    def forward(self, speech: Tensor) -> Tensor:
        around = NUM_AROUND // 2
        features = self.encoder(speech).permute(0, 2, 3, 1)  # [B,blocks,C,S]
        padded = functional.pad(features, (around, around, 0, 0), mode="replicate")
        windows = padded.unfold(3, NUM_AROUND, 1).permute(0, 3, 4, 1, 2)
        return torch.cat([self.head(windows.flatten(2)), self.encoder.shut_logits(windows)[..., None]], 2)


def normalised(speech: np.ndarray) -> Tensor:
    """Recordings [N,T] → zero mean and unit variance each."""
    tensor = torch.from_numpy(np.ascontiguousarray(speech)).float()
    return (tensor - tensor.mean(-1, keepdim=True)) / (tensor.std(-1, keepdim=True) + 1e-6)


@dataclass(frozen=True)
class Heard:
    """How well lips are told from the sound of the held-out clips."""

    opening: float  # correlation with the true opening, the mean over clips
    shut: float  # how often of a shut and an open frame in speech the shut one is said to be it (AUC)

    def __str__(self) -> str:
        return f"opening {self.opening:.3f}, shut {self.shut:.3f}"


@torch.no_grad()
def measure(listener: nn.Module, clips: LipClips, speech: Tensor) -> Heard:
    """A `LipListener` on the held-out clips as `speech` [n,T]."""
    listener.eval()
    predicted = torch.cat([listener(part) for part in speech.split(_MEASURED_AT_ONCE)]).numpy()
    listener.train()
    openings = [(mine, true) for mine, true in zip(predicted[..., -2], clips.opening, strict=False) if true.std() > 0]
    spoken = np.concatenate([_in_speech(true) for true in clips.opening[: len(predicted)]])
    said, is_shut = predicted[..., -1].ravel()[spoken], clips.shut[: len(predicted)].ravel()[spoken] > 0
    opening = np.mean([np.corrcoef(mine, true)[0, 1] for mine, true in openings])
    return Heard(float(opening), auc(said[is_shut].tolist(), said[~is_shut].tolist()))


def _in_speech(opening: np.ndarray) -> np.ndarray:
    """Which frames [F] lie between the first and the last in which the lips are open."""
    is_open = np.flatnonzero(opening >= SHUT_CM)
    frames = np.arange(len(opening))
    return (frames >= is_open[0]) & (frames <= is_open[-1]) if len(is_open) else np.zeros(len(opening), bool)


def train_speech(clips: LipClips, minutes: float, batch_size: int = 16, init: Path | None = None) -> MelSpeechNetwork:
    """Train on the clips after the held-out ones; a new encoder, or the one in the folder `init` on."""
    torch.manual_seed(0)
    first = clips.num_held_out
    changer, random = SoundChanger(clips.speech[first:]), np.random.default_rng(1)
    listener = LipListener(_new_encoder(clips, changer) if init is None else _known_encoder(init))
    rate = _RATE_NEW if init is None else _RATE_KNOWN
    optimizers = Optimizers(listener, rate, rate / 10)
    weights = torch.from_numpy(np.append(clips.component_scales / clips.component_scales[0], 1.0)).float()
    openings = clips.opening / clips.opening.std()
    targets = np.concatenate([clips.components, openings[..., None], clips.shut[..., None]], 2)
    held = normalised(clips.speech[:first])
    noisy = torch.from_numpy(np.stack([SoundChanger(clips.speech[first:], 7).colour(sound) for sound in clips.speech[:first]]))
    budget = Budget(minutes, warmup_steps=50, report_every_s=6 * minutes)
    for step in budget:
        chosen = random.integers(first, len(clips.speech), batch_size)
        heard = [changer.perhaps_faster(clips.speech[index], targets[index]) for index in chosen]
        sound = torch.from_numpy(np.stack([changer.colour(sound) for sound, _ in heard]))
        loss = lip_loss(listener(sound), torch.from_numpy(np.stack([target for _, target in heard])), weights)
        optimizers.step(loss, budget.factor)
        if budget.is_report_due():
            clean, hard = (measure(listener, clips, speech) for speech in (held, noisy))
            logger.info("step %d loss %.4f: %s; changed sound: %s", step, loss.item(), clean, hard)
    logger.info("final: %s; changed sound: %s", *(measure(listener, clips, speech) for speech in (held, noisy)))
    return listener.encoder.eval()


@torch.no_grad()
def _new_encoder(clips: LipClips, changer: SoundChanger) -> MelSpeechNetwork:
    """An untrained one that knows how loud the bands are."""
    encoder = MelSpeechNetwork(channels=160, num_blocks=3, num_fine_blocks=3, hears_shut_lips=True)
    sample = torch.from_numpy(np.stack([changer.colour(sound) for sound in clips.speech[clips.num_held_out :: 5]]))
    bands = encoder.log_mel(sample)
    encoder.band_mean.copy_(bands.mean((0, 2)))
    encoder.band_std.copy_(bands.std((0, 2)))
    return encoder


def _known_encoder(folder: Path) -> MelSpeechNetwork:
    """Raises UserError when there is none in the folder."""
    known = load_component(folder, "MelSpeechNetwork", torch.float32)
    encoder: Any = MelSpeechNetwork.from_config({**cast("dict[str, Any]", known.config), "hears_shut_lips": True})
    encoder.load_state_dict({**encoder.state_dict(), **known.state_dict()})
    return encoder.train()


def lip_loss(predicted: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Squared errors of shape and opening by their `weights` [9], and the cross entropy of shut lips; [B,S,10] both."""
    errors = ((predicted[..., :-1] - target[..., :-1]) * weights).square().mean()
    shut = functional.binary_cross_entropy_with_logits(predicted[..., -1], target[..., -1].clamp(0, 1))
    return errors + _SHUT_WEIGHT * shut


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=Path, nargs="+", required=True, help="folders of talking clips, or datasets")
    parser.add_argument("--syllables", type=Path, help="a folder of recorded Mandarin syllables (niu4.opus)")
    parser.add_argument("--words", type=Path, help="a folder of recorded Mandarin words (苹果.opus)")
    parser.add_argument("--espeak", type=float, default=0.25, help="share of the sentences that espeak-ng speaks, if installed")
    parser.add_argument(
        "--tracks",
        type=Path,
        required=True,
        help="where tracked videos are kept, as in .work/videos of `data synth`",
    )
    parser.add_argument("--num-videos", type=int, default=1000)
    parser.add_argument("--frames", type=int, default=72, help="length of what is learned at a time, at 25 a second")
    parser.add_argument("--minutes", type=float, default=13)
    parser.add_argument("--init", type=Path, help="a folder with an encoder to go on from; a new one by default")
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    sources = LipSources(
        videos=tuple(given.videos),
        tracks=given.tracks,
        face_models=face_models_path(),
        syllables=given.syllables,
        words=given.words,
        espeak_share=given.espeak,
        num_videos=given.num_videos,
        num_frames=given.frames,
    )
    clips = read_lip_clips(sources, read_canonical_mesh(sources.face_models).vertices)
    train_speech(clips, given.minutes, init=given.init).save_pretrained(given.output)


if __name__ == "__main__":
    run_as_command(main)
