"""Tiny systems drawn from a seed, for the tests of the networks, the sampling, the training and the pipeline."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from joyhallo.conditioning.portrait import Portrait
from joyhallo.data.batches import Batch
from joyhallo.models.autoencoder import PatchAutoencoder
from joyhallo.models.conditions import ClipInputs, RegionMasks
from joyhallo.models.identity_encoder import IdentityNetwork
from joyhallo.models.networks import Networks, build_networks
from joyhallo.models.speech_encoder import MelSpeechNetwork
from joyhallo.pipeline import JoyHalloPipeline
from joyhallo.presets import Preset, Sampling
from joyhallo.sampling.schedule import training_schedule

LATENT_FACTOR = 8
MAX_LENGTH = 10  # of the tiny system's motion modules

SHAPE = {
    "in_channels": 4,
    "widths": (8, 16),
    "attention_levels": (True, True),
    "layers_per_level": 1,
    "num_heads": 2,
    "num_groups": 4,
    "face_dim": 12,
}
TINY = Preset(
    reference_network=SHAPE,
    denoising_network=SHAPE | {"audio_dim": 10, "motion_heads": 2, "max_motion_length": MAX_LENGTH},
    face_projector={"embedding_size": 8, "num_tokens": 3, "token_dim": 12},
    audio_projector={"num_blocks": 2, "channels": 8, "hidden_dim": 8, "num_tokens": 2, "token_dim": 10},
    face_locator={"out_channels": 8, "widths": (4, 4, 4, 4)},
    sampling=Sampling(height=32, width=32, clip_length=4, num_past_frames=2, num_steps=2),
)


def normal(seed: int, *shape: int) -> Tensor:
    """Standard normal numbers that are the same in every version of torch and numpy."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))


def draw_weights(module: nn.Module, seed: int) -> None:
    """Fill a module with weights of sensible size, none of them zero: also those that training would start from zero."""
    stream = np.random.RandomState(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            drawn = torch.from_numpy(stream.standard_normal(tuple(parameter.shape)).astype(np.float32))
            if parameter.ndim > 1:
                parameter.copy_(drawn / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(0.1 * drawn + (1.0 if "norm" in name and name.endswith("weight") else 0.0))


def tiny_preset(row_order: str = "aligned", audio_attention: str = "semi_decoupled", **denoising: object) -> Preset:
    changes = {"row_order": row_order, "audio_attention": audio_attention, **denoising}
    reference = TINY.reference_network | {"row_order": row_order}
    return replace(TINY, reference_network=reference, denoising_network=TINY.denoising_network | changes)


def drawn_networks(preset: Preset, seed: int = 0) -> Networks:
    networks = build_networks(preset)
    for index, module in enumerate(networks.modules().values()):
        draw_weights(module, 100 * seed + index)
        module.eval().requires_grad_(False)
    return networks


def drawn_masks(
    seed: int, size: tuple[int, int], num_samples: int = 1, num_frames: int = 1, num_depths: int = 2
) -> RegionMasks:
    """Values in [0, 1] for a latent size (height, width)."""
    regions = []
    for region in range(3):
        sizes = [(-(-size[0] // 2**depth), -(-size[1] // 2**depth)) for depth in range(num_depths)]
        drawn = [normal(seed + 10 * region + i, num_samples, num_frames, *s) for i, s in enumerate(sizes)]
        regions.append(tuple(d.sigmoid() for d in drawn))
    return RegionMasks(*regions)


def drawn_inputs(
    networks: Networks, size: tuple[int, int], num_frames: int, num_past: int = 2, num_samples: int = 1, seed: int = 7
) -> ClipInputs:
    """The conditions of clips at a latent size (height, width)."""
    face = networks.face_projector(normal(seed, num_samples, 8))
    channels = networks.denoising_network.config["out_channels"]
    reference = networks.reference_network(normal(seed + 1, num_samples, 1 + num_past, channels, *size), face)
    audio = networks.audio_projector(normal(seed + 2, num_samples, num_frames, 5, 2, 8))
    pixels = (num_samples, 3, size[0] * LATENT_FACTOR, size[1] * LATENT_FACTOR)
    location = networks.face_locator((normal(seed + 3, *pixels) > 0).float())
    return ClipInputs(reference, face, audio, location, drawn_masks(seed + 4, size))


def drawn_batch() -> Batch:
    """Two clips of three frames for the tiny system, as training sees them."""
    return Batch(
        latents=normal(1, 2, 4, 3, 4, 4),
        reference_latents=normal(2, 2, 3, 4, 4, 4),
        face_embedding=normal(3, 2, 8),
        audio_window=normal(4, 2, 3, 5, 2, 8),
        face_region=(normal(5, 2, 3, 32, 32) > 0).float(),
        masks=drawn_masks(6, (4, 4), num_samples=2),
    )


def forward(networks: Networks, inputs: ClipInputs, latents: Tensor, timestep: int = 601) -> Tensor:
    network = networks.denoising_network
    with torch.no_grad():
        return network(latents, torch.tensor([timestep]), network.condition(inputs))


def drawn_pipeline(row_order: str = "aligned", **sampling: object) -> JoyHalloPipeline:
    """All components of a pipeline, untrained, for sides that are multiples of 8; fields of `Sampling` can be changed."""
    networks = drawn_networks(tiny_preset(row_order))
    vae = PatchAutoencoder(4, widths=(8, 8, 8), num_encoder_blocks=(1, 1, 1), num_decoder_blocks=(1, 1, 1))
    speech_encoder = MelSpeechNetwork(num_bands=8, channels=8, num_blocks=2, num_fine_blocks=1)
    identity_encoder = IdentityNetwork(embedding_size=8, widths=(8, 8, 8, 8), narrow_channels=4)
    for seed, module in enumerate((vae, speech_encoder, identity_encoder)):
        draw_weights(module, 50 + seed)
        module.eval().requires_grad_(False)
    return JoyHalloPipeline(
        vae=vae,
        speech_encoder=speech_encoder,
        identity_encoder=identity_encoder,
        scheduler=training_schedule(),
        sampling=replace(TINY.sampling, **{"latent_scale": 1.0} | sampling),
        **networks.modules(),
    )


def drawn_portrait(size: tuple[int, int]) -> Portrait:
    """A person made of numbers; `size` is the (height, width) of the frame, the picture is 96 × 128."""
    region = torch.zeros(3, *size)
    region[:, size[0] // 4 : -size[0] // 4, size[1] // 4 : -size[1] // 4] = 1
    return Portrait(
        pixels=normal(3, 3, *size).tanh(),
        face_embedding=normal(4, 8),
        face_region=region,
        masks=drawn_masks(5, (size[0] // LATENT_FACTOR, size[1] // LATENT_FACTOR)),
        picture=np.random.RandomState(6).randint(0, 256, (96, 128, 3)).astype(np.uint8),
        crop=None,
        landmarks=np.abs(normal(7, 478, 3).numpy()) * 8,
    )


def drawn_speech(num_frames: int) -> np.ndarray:
    """A waveform at 16 kHz of exactly so many video frames."""
    return 0.1 * normal(8, 640 * num_frames).numpy()
