"""Pretraining of the speech encoder of `mini`: the shape of the lips from the sound, on videos of speakers.

The head that predicts the shape is dropped afterwards. The sound is changed at random (filter, noise, speed with pitch), so
that the encoder does not learn one voice in one room.
"""

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from joyhallo.data import heldout, mandarin, motion
from joyhallo.data.canonical import read_canonical_mesh
from joyhallo.data.gestures import read_gesture
from joyhallo.models.speech_encoder import SAMPLES_PER_FRAME, MelSpeechNetwork
from joyhallo.training.budget import Budget
from joyhallo.training.muon import Optimizers

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


def read_lip_clips(faces: Path, template: np.ndarray, syllables: Path | None = None, num_frames: int = 75) -> LipClips:
    """Lip shapes of all prepared videos of that length, the held-out ones first; then, given syllables, of made-up Mandarin."""
    speech, gestures, num_held_out = [], [], 0
    split = heldout.split_videos((faces / "videos").glob("*.npz"))
    for path in split.held_out + split.known:
        with np.load(path) as file:
            if len(file["points"]) == num_frames:
                num_held_out += path in split.held_out
                gestures.append(read_gesture(file["points"], template))
                speech.append(file["speech"] / file["speech"].std())
    if syllables:
        filmed = gestures[num_held_out:]
        basis, random = mandarin.fit_lip_basis(filmed[:40]), np.random.default_rng(0)
        paths = mandarin.read_syllables(syllables)[False]
        for donor in filmed:
            sentence = mandarin.speak(paths, num_frames, random)
            gestures.append(mandarin.act(sentence, basis, donor))
            speech.append(sentence.speech)
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


class SoundChanger:
    """Random changes of a recording that the lips do not show."""

    def __init__(self, others: np.ndarray, seed: int = 0) -> None:
        """`others` [N, T]: recordings to mix in as a distant voice."""
        self._others = others
        self._random = np.random.default_rng(seed)

    def speed(self, speech: np.ndarray, components: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Play [T] faster or slower by up to a quarter (the pitch and the formants move too) with its lip shapes [F, C]."""
        factor = float(np.exp(self._random.uniform(-0.25, 0.25)))
        times = np.arange(len(speech)) * factor
        start = self._random.uniform(0, max(0.0, len(speech) - times[-1] - 1)) if factor < 1 else 0.0
        sound = np.interp(times + start, np.arange(len(speech)), speech, right=0.0)
        # Frame i is shown for 640 samples; its shape is that at the middle of them.
        frames = (np.arange(len(components)) + 0.5) * factor + start / SAMPLES_PER_FRAME - 0.5
        last = np.clip(frames, 0, len(components) - 1)
        shapes = np.stack([np.interp(last, np.arange(len(components)), column) for column in components.T], 1)
        return sound.astype(np.float32), shapes.astype(np.float32)

    def colour(self, speech: np.ndarray) -> np.ndarray:
        """A random smooth filter of up to 12 dB, noise 5 to 40 dB below, sometimes another voice; unit variance at the end."""
        random = self._random
        spectrum = np.fft.rfft(speech)
        knots = random.normal(0, 6, 7)
        places = np.log2(np.linspace(1, 200, len(spectrum)))
        curve_db = np.interp(places, np.linspace(0, places[-1], len(knots)), knots)
        speech = np.fft.irfft(spectrum * 10 ** (np.clip(curve_db, -12, 12) / 20), len(speech))
        level = speech.std() + 1e-6
        noise = np.fft.rfft(random.normal(size=len(speech)))
        noise *= np.linspace(1, 100, len(noise)) ** -random.uniform(0, 0.7)
        noise = np.fft.irfft(noise, len(speech))
        speech = speech + noise / noise.std() * level * 10 ** (-random.uniform(5, 40) / 20)
        if random.random() < 0.3:
            other = np.roll(self._others[random.integers(len(self._others))], int(random.integers(len(speech))))
            speech = speech + other / (other.std() + 1e-6) * level * 10 ** (-random.uniform(8, 25) / 20)
        return ((speech - speech.mean()) / (speech.std() + 1e-6)).astype(np.float32)


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
    parser.add_argument("--faces", type=Path, required=True, help="output folder of joyhallo.data.faces")
    parser.add_argument("--face-models", type=Path, required=True, help="face_landmarker_v2_with_blendshapes.task")
    parser.add_argument("--mandarin", type=Path, help="a folder of recorded syllables (niu4.opus)")
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    clips = read_lip_clips(arguments.faces, read_canonical_mesh(arguments.face_models).vertices, arguments.mandarin)
    train_speech(clips, arguments.minutes).save_pretrained(arguments.output)


if __name__ == "__main__":
    main()
