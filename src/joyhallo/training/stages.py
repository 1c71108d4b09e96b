"""The training objective: a batch in, a loss per sample out.

Velocity prediction with zero terminal SNR, offset noise and min-SNR weights (the published objective, weighted per sample as
in its stage 1). The loop that calls it knows nothing of it.

Axes: B samples, F frames, P past frames, K frames of a speech window, C channels, H and W the latent place.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from joyhallo.models.conditions import ClipInputs, ReferenceFeatures, RegionMasks
from joyhallo.models.networks import Networks
from joyhallo.sampling.schedule import training_schedule

NUM_TIMESTEPS = 1000


@dataclass(frozen=True)
class Batch:
    """Clips with their conditions; every sample has its own portrait."""

    latents: Tensor  # [B,C,F,H,W] in the form the denoising network predicts
    reference_latents: Tensor  # [B,1+P,C,H,W] the portrait, then the past frames
    face_embedding: Tensor  # [B,E]
    audio_window: Tensor | None  # [B,F,K,blocks,channels]
    face_region: Tensor  # [B,3,height,width] in {0,1}
    masks: RegionMasks


@dataclass(frozen=True)
class Objective:
    """What a stage minimises."""

    noise_offset: float = 0.05
    shared_noise: float = 0.0  # part of the noise's variance that all frames of a clip have in common
    snr_gamma: float = 5.0  # 0: no min-SNR weights
    portrait_dropout: float = 0.05
    audio_dropout: float = 0.05
    start_dropout: float = 0.05  # the past frames become the portrait, as in a video's first clip
    lip_weight: float = 0.0  # how much more an error counts inside the lip mask
    still: bool = False  # F independent pictures with a timestep each; the motion modules do not run


@dataclass(frozen=True)
class Draws:
    """The random part of one loss."""

    timesteps: Tensor  # [B], or [B,F] for still pictures
    noise: Tensor  # [B,C,F,H,W]
    num_blind: int  # the first samples do not see their portrait
    deaf: Tensor  # [B] bool: hears nothing
    starts: Tensor  # [B] bool: has no past


def draw(batch: Batch, objective: Objective, generator: torch.Generator) -> Draws:
    """Draw timesteps, noise and dropped conditions on the CPU, so that a seed means the same everywhere."""
    num_samples, channels, num_frames, height, width = batch.latents.shape
    noise = torch.randn(batch.latents.shape, generator=generator)
    if objective.shared_noise:
        common = torch.randn((num_samples, channels, 1, height, width), generator=generator)
        noise = objective.shared_noise**0.5 * common + (1 - objective.shared_noise) ** 0.5 * noise
    offset = torch.randn((num_samples, channels, 1, 1, 1), generator=generator)
    coins = torch.rand((3, num_samples), generator=generator)
    shape = (num_samples, num_frames) if objective.still else (num_samples,)
    return Draws(
        timesteps=torch.randint(NUM_TIMESTEPS, shape, generator=generator),
        noise=noise + objective.noise_offset * offset,
        num_blind=int((coins[0] < objective.portrait_dropout).sum()),  # samples are exchangeable: blind ones go first
        deaf=coins[1] < objective.audio_dropout,
        starts=coins[2] < objective.start_dropout,
    )


def velocity_loss(networks: Networks, batch: Batch, objective: Objective, draws: Draws) -> Tensor:
    """The weighted squared error of the predicted velocity, per sample [B]."""
    latents = batch.latents
    alphas = training_schedule().alphas_cumprod.to(latents)
    signal = alphas[draws.timesteps.to(latents.device)].reshape(len(latents), 1, -1, 1, 1)  # one per clip, or per still frame
    noise = draws.noise.to(latents)
    noisy = signal.sqrt() * latents + (1 - signal).sqrt() * noise
    target = signal.sqrt() * noise - (1 - signal).sqrt() * latents
    # PyTorch 2.13 on the CPU crashes in the backward pass of a channels_last group normalisation that trains on an input
    # without gradient: the first audio module behind frozen convolutions. Asking for one here costs a few convolutions.
    noisy.requires_grad_(torch.is_grad_enabled())
    conditioning = networks.denoising_network.condition(clip_inputs(networks, batch, objective, draws))
    predicted = networks.denoising_network(noisy, draws.timesteps.flatten().to(latents.device), conditioning)
    error = (predicted.float() - target.float()) ** 2 * min_snr_weight(signal.float(), objective.snr_gamma)
    if objective.lip_weight:
        error = error * (1 + objective.lip_weight * batch.masks.lip[0][:, None])
    return error.mean(dim=(1, 2, 3, 4))


def min_snr_weight(signal: Tensor, gamma: float) -> Tensor:
    """min(s, γ) / s with s = snr + 1, for velocity prediction; 1 at the last timestep, where there is no signal."""
    if not gamma:
        return torch.ones_like(signal)
    snr = signal / (1 - signal) + 1
    return snr.clamp(max=gamma) / snr


def clip_inputs(networks: Networks, batch: Batch, objective: Objective, draws: Draws) -> ClipInputs:
    """The batch's conditions with the drawn ones left out."""
    face_tokens = networks.face_projector(batch.face_embedding)
    references = batch.reference_latents
    portrait = references[:, :1]
    starts = draws.starts.to(references.device)[:, None, None, None, None]
    references = torch.cat([portrait, torch.where(starts, portrait, references[:, 1:])], dim=1)
    features = networks.reference_network(references, face_tokens)
    audio_tokens = None
    if batch.audio_window is not None:
        audio_tokens = networks.audio_projector(batch.audio_window)
        audio_tokens = audio_tokens * ~draws.deaf.to(audio_tokens.device)[:, None, None, None]
    takes_portrait = networks.denoising_network.config["portrait_in_input"]
    return ClipInputs(
        reference=blinded(features, draws.num_blind),
        face_tokens=face_tokens,
        audio_tokens=audio_tokens,
        location=networks.face_locator(batch.face_region),
        masks=batch.masks,
        portrait_latents=portrait[:, 0] if takes_portrait else None,
        num_blind=draws.num_blind,
        still=objective.still,
    )


def blinded(features: ReferenceFeatures, num_blind: int) -> ReferenceFeatures:
    """The features with those of the first samples zeroed: a blind sample has no past either."""
    if not num_blind:
        return features
    sees = torch.arange(len(features.sites[0]), device=features.sites[0].device)[:, None, None, None] >= num_blind
    return replace(features, sites=tuple(site * sees for site in features.sites))
