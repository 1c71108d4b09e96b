"""Pretraining of the speech encoder of `mini`: the shape of the lips from the sound, on films and synthetic clips.

The head that predicts the shape is dropped afterwards. The sound is changed at random (filter, noise, speed with pitch), so
that the encoder does not learn one voice in one room.
"""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from joyhallo.data.dataset import open_datasets
from joyhallo.data.synthesis import motion
from joyhallo.data.synthesis.canonical import read_canonical_mesh
from joyhallo.data.synthesis.gestures import read_gesture
from joyhallo.data.synthesis.voices import SoundChanger
from joyhallo.errors import UserError
from joyhallo.models.speech_encoder import SAMPLES_PER_FRAME, MelSpeechNetwork
from joyhallo.training.budget import Budget
from joyhallo.training.muon import Optimizers
from joyhallo.weights.hub import face_models_path

logger = logging.getLogger(__name__)
_NUM_COMPONENTS = 8
_WINDOW = 2  # video frames on either side that the head, like the audio projector later, sees


@dataclass(frozen=True, eq=False)
class LipClips:
    """Speech [N, F·640], lip-shape components [N, F, 8] of unit variance, the true opening [N, F], and the way back."""

    speech: np.ndarray
    components: np.ndarray
    opening: np.ndarray
    component_scales: np.ndarray  # [8] centimetres
    opening_basis: np.ndarray  # [8]: opening ≈ mean + components @ basis
    num_held_out: int  # the first ones


def read_lip_clips(folders: Sequence[Path], template: np.ndarray, num_frames: int = 48) -> LipClips:
    """Lip shapes and speech of all clips of datasets, the held-out ones first; of longer clips several parts.

    Shorter clips are left out. Raises UserError when none is left, or nothing is held out.
    """
    dataset = open_datasets(folders)
    gestures, speech, is_held_out = [], [], []
    for i, facts in enumerate(dataset.facts):
        annotations = dataset.annotations(i)
        if facts.num_frames < num_frames or not np.isfinite(annotations.points).all():
            continue
        gesture, sound = read_gesture(annotations.points, template), annotations.speech.astype(np.float32)
        num_parts = -(-facts.num_frames // num_frames)
        for start in np.linspace(0, facts.num_frames - num_frames, num_parts).round().astype(int).tolist():
            part = sound[start * SAMPLES_PER_FRAME : (start + num_frames) * SAMPLES_PER_FRAME]
            if part.std() > 0:
                gestures.append(gesture.part(start, num_frames))
                speech.append(part / part.std())
                is_held_out.append(facts.is_held_out)
    num_held_out = sum(is_held_out)
    if not 0 < num_held_out < len(gestures):
        raise UserError(
            f"of {len(gestures)} clips of {num_frames} frames and more {num_held_out} are held out: training needs both kinds; "
            "give datasets with more people or videos, or fewer --frames"
        )
    order = np.argsort(~np.array(is_held_out), kind="stable").tolist()
    gestures, speech = [gestures[index] for index in order], [speech[index] for index in order]
    shape = np.stack([gesture.shape[:, list(motion.LIPS_AND_CHIN)].reshape(num_frames, -1) for gesture in gestures])
    centred = (shape - shape.mean((0, 1))).reshape(-1, shape.shape[-1])
    _, values, vectors = np.linalg.svd(centred[:: max(1, len(centred) // 8000)], full_matrices=False)
    projected = centred @ vectors[:_NUM_COMPONENTS].T
    scales = projected.std(0)
    components = (projected / scales).reshape(len(shape), num_frames, -1).astype(np.float32)
    opening = np.stack([gesture.gap[:, 3:8].mean(1) for gesture in gestures]).astype(np.float32)
    basis = np.linalg.lstsq(components.reshape(-1, _NUM_COMPONENTS), (opening - opening.mean()).ravel(), rcond=None)[0]
    logger.info("%d clips, shares of the variance %s", len(shape), (values[:8] ** 2 / (values**2).sum()).round(3))
    return LipClips(np.stack(speech), components, opening, scales, basis, num_held_out)


class LipHead(nn.Module):
    """Features [B, S, blocks, C] of the frames around → lip-shape components [B, S, 8]."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        wide = num_features * (2 * _WINDOW + 1)
        self.layers = nn.Sequential(
            nn.Dropout(0.1), nn.Linear(wide, 128), nn.SiLU(), nn.Dropout(0.2), nn.Linear(128, _NUM_COMPONENTS)
        )

    def forward(self, features: Tensor) -> Tensor:
        flat = features.flatten(2).transpose(1, 2)
        padded = functional.pad(flat, (_WINDOW, _WINDOW), mode="replicate")
        windows = padded.unfold(2, 2 * _WINDOW + 1, 1).permute(0, 2, 3, 1)
        return self.layers(windows.flatten(2))


def normalised(speech: np.ndarray) -> Tensor:
    """Recordings [N, T] → zero mean and unit variance each."""
    tensor = torch.from_numpy(np.ascontiguousarray(speech)).float()
    return (tensor - tensor.mean(-1, keepdim=True)) / (tensor.std(-1, keepdim=True) + 1e-6)


@torch.no_grad()
def measure(encoder: MelSpeechNetwork, head: LipHead, clips: LipClips, speech: Tensor) -> float:
    """Mean over the held-out clips of the correlation between predicted and true lip opening."""
    encoder.eval()
    head.eval()
    predicted = head(encoder(speech)).numpy() @ clips.opening_basis
    encoder.train()
    head.train()
    return float(np.mean([np.corrcoef(mine, true)[0, 1] for mine, true in zip(predicted, clips.opening, strict=False)]))


def train_speech(clips: LipClips, minutes: float, batch_size: int = 16) -> MelSpeechNetwork:
    """Train on the clips after the held-out ones."""
    torch.manual_seed(0)
    first = clips.num_held_out
    encoder = MelSpeechNetwork()
    head = LipHead(encoder.config["num_blocks"] * encoder.config["channels"])
    changer, random = SoundChanger(clips.speech[first:]), np.random.default_rng(1)
    with torch.no_grad():
        sample = torch.from_numpy(np.stack([changer.colour(sound) for sound in clips.speech[first::5]]))
        bands = encoder.log_mel(sample)
        encoder.band_mean.copy_(bands.mean((0, 2)))
        encoder.band_std.copy_(bands.std((0, 2)))
    optimizers = Optimizers(nn.ModuleList([encoder, head]), 0.01, 1e-3)
    weights = torch.from_numpy(clips.component_scales / clips.component_scales[0]).float()
    held = normalised(clips.speech[:first])
    noisy = torch.from_numpy(np.stack([SoundChanger(clips.speech[first:], 7).colour(sound) for sound in clips.speech[:first]]))
    budget = Budget(minutes, warmup_steps=50, report_every_s=6 * minutes)
    for step in budget:
        chosen = random.integers(first, len(clips.speech), batch_size)
        changed = [changer.speed(clips.speech[index], clips.components[index]) for index in chosen]
        sound = torch.from_numpy(np.stack([changer.colour(sound) for sound, _ in changed]))
        target = torch.from_numpy(np.stack([shape for _, shape in changed]))
        loss = ((head(encoder(sound)) - target) * weights).square().mean()
        optimizers.step(loss, budget.factor)
        if budget.is_report_due():
            clean, hard = (measure(encoder, head, clips, speech) for speech in (held, noisy))
            logger.info("step %d loss %.4f opening correlation %.3f, changed sound %.3f", step, loss.item(), clean, hard)
    logger.info(
        "final: opening correlation %.3f, changed sound %.3f", *(measure(encoder, head, clips, x) for x in (held, noisy))
    )
    return encoder.eval()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="datasets of `joyhallo data synth` and `prepare`")
    parser.add_argument(
        "--face-models", type=Path, help="face_landmarker_v2_with_blendshapes.task; else JOYHALLO_WEIGHTS has it"
    )
    parser.add_argument("--frames", type=int, default=48, help="length of what is learned at a time, at 25 a second")
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    template = read_canonical_mesh(arguments.face_models or face_models_path()).vertices
    clips = read_lip_clips(arguments.data, template, arguments.frames)
    train_speech(clips, arguments.minutes).save_pretrained(arguments.output)


if __name__ == "__main__":
    main()
