"""What the tests of the service share: weights drawn from a seed, the example's portrait, a short recording."""

import wave
from pathlib import Path

import numpy as np

from joyhallo.media.audio import read_speech
from joyhallo.models.autoencoder import PatchAutoencoder
from joyhallo.models.identity_encoder import IdentityNetwork
from joyhallo.models.networks import build_networks
from joyhallo.models.speech_encoder import MelSpeechNetwork
from joyhallo.pipeline import JoyHalloPipeline
from joyhallo.presets import Preset, Sampling
from joyhallo.sampling.schedule import training_schedule
from tiny import TINY, draw_weights

EXAMPLES = Path(__file__).parents[1] / "examples"
PORTRAIT = EXAMPLES / "portrait.png"


def write_weights(folder: Path) -> Path:
    """A tiny pipeline whose networks are small enough that a clip takes a moment."""
    preset = Preset(
        reference_network=TINY.reference_network,
        denoising_network=TINY.denoising_network,
        face_projector=TINY.face_projector | {"embedding_size": 128},
        audio_projector=TINY.audio_projector,
        face_locator={"out_channels": 8, "widths": (4, 4, 4, 4, 4)},
    )
    parts = {
        **build_networks(preset).modules(),
        "vae": PatchAutoencoder(latent_channels=4),
        "speech_encoder": MelSpeechNetwork(num_bands=20, channels=8),
        "identity_encoder": IdentityNetwork(),
    }
    for index, module in enumerate(parts.values()):
        draw_weights(module, index)
    sampling = Sampling(height=32, width=32, clip_length=4, num_past_frames=2, num_steps=2, unconditional_drops=("audio",))
    JoyHalloPipeline(**parts, scheduler=training_schedule(), sampling=sampling).save_pretrained(folder)
    return folder


def write_speech(path: Path, duration_s: float = 0.5, start_s: float = 0.3) -> Path:
    """A piece of the example, 16 kHz."""
    samples = read_speech(EXAMPLES / "speech_zh.wav", 16_000)
    start = int(start_s * 16_000)
    samples = np.resize(samples[start:], int(duration_s * 16_000))
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes((samples * 32_767).astype(np.int16).tobytes())
    return path
