"""The training objective: a batch in, a loss per sample out.

Velocity prediction with zero terminal SNR, offset noise and min-SNR weights, as published; every habit of the published
scripts that changes the numbers is an option. The loop that calls it knows nothing of it.

Axes: B samples, F frames, P past frames, C channels, H and W the latent place.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from joyhallo.data.batches import Batch
from joyhallo.data.randomness import stream
from joyhallo.errors import UserError
from joyhallo.models.conditions import ClipInputs, ReferenceFeatures
from joyhallo.models.networks import Networks
from joyhallo.sampling.schedule import NUM_TIMESTEPS, training_schedule
from joyhallo.training.mouth import Mouths


@dataclass(frozen=True)
class Objective:
    """What a stage minimises."""

    noise_offset: float = 0.05
    shared_noise: float = 0.0  # part of the noise's variance that all frames of a clip have in common
    snr_gamma: float = 5.0  # 0: no min-SNR weights
    reduction: Literal["per_sample", "published"] = "per_sample"  # "published": the mean error times the mean weight
    portrait_dropout: float = 0.05
    audio_dropout: float = 0.05
    start_dropout: float = 0.05  # the past frames are what stands before a video's first clip
    coins: Literal["per_sample", "per_batch"] = "per_sample"  # "per_batch": all samples computed at once drop the same
    drops_face: bool = False  # whoever does not see the portrait has no face embedding either
    lip_weight: float = 0.0  # how much more an error counts inside the lip mask
    mouth_weight: float = 0.0  # of the difference of decoded mouths, see `training.mouth`
    reading_weight: float = 0.0  # within it, of how far lips are read from their places, see `training.lip_reader`
    closed_weight: float = 0.0  # within it, how much more a mouth counts that is to be shut; needs a lip reader too
    critic_weight: float = 0.0  # within it, how hard a critic of mouths pulls against the rest, see `training.critic`
    timesteps: tuple[int, ...] = ()  # only these are drawn; none: all
    still: bool = False  # F independent pictures with a timestep each; the motion modules do not run

    def __post_init__(self) -> None:
        """Raises UserError for timesteps that there are not."""
        for step in self.timesteps:
            if not 0 <= step < NUM_TIMESTEPS:
                raise UserError(f"objective.timesteps={step} is not possible: they are numbers from 0 to {NUM_TIMESTEPS - 1}")


@dataclass(frozen=True)
class Coins:
    """Which conditions the samples of a batch go without; those who do not see their portrait stand first."""

    numbers: tuple[int, ...]  # of the samples, counted over the whole run
    num_blind: int
    deaf: Tensor  # [B] bool: hears nothing
    starts: Tensor  # [B] bool: has no past


@dataclass(frozen=True)
class Draws:
    """The random part of one loss."""

    timesteps: Tensor  # [B], or [B,F] for still pictures
    noise: Tensor  # [B,C,F,H,W]
    num_blind: int  # the first samples do not see their portrait
    deaf: Tensor  # [B] bool: hears nothing
    starts: Tensor  # [B] bool: has no past


def toss(numbers: Sequence[int], objective: Objective, seed: int) -> Coins:
    """Decide for samples what they go without, and order them; a sample's coins are its own, or its batch's."""
    thresholds = np.array([objective.portrait_dropout, objective.audio_dropout, objective.start_dropout])
    owners = [numbers[0]] * len(numbers) if objective.coins == "per_batch" else numbers
    drops = np.array([stream(seed, "coins", owner).random(3) < thresholds for owner in owners])  # [B,3]
    order = np.argsort(~drops[:, 0], kind="stable")
    deaf, starts = (torch.from_numpy(drops[order, column]) for column in (1, 2))
    return Coins(tuple(numbers[i] for i in order), int(drops[:, 0].sum()), deaf, starts)


def draw(coins: Coins, shape: Sequence[int], objective: Objective, seed: int) -> Draws:
    """Timesteps and noise of the samples; `shape` [C,F,H,W]. On the CPU, so that a seed means the same everywhere."""
    timesteps, noise = [], []
    channels, num_frames, height, width = shape
    choices = np.array(objective.timesteps or range(NUM_TIMESTEPS))
    for number in coins.numbers:
        random = stream(seed, "noise", number)
        timesteps.append(choices[random.integers(len(choices), size=num_frames if objective.still else ())])
        own = random.standard_normal((channels, num_frames, height, width), np.float32)
        if objective.shared_noise:
            common = random.standard_normal((channels, 1, height, width), np.float32)
            own = objective.shared_noise**0.5 * common + (1 - objective.shared_noise) ** 0.5 * own
        noise.append(own + np.float32(objective.noise_offset) * random.standard_normal((channels, 1, 1, 1), np.float32))
    steps = torch.from_numpy(np.stack(timesteps).astype(np.int64))
    return Draws(steps, torch.from_numpy(np.stack(noise).astype(np.float32)), coins.num_blind, coins.deaf, coins.starts)


def velocity_loss(
    networks: Networks,
    batch: Batch,
    objective: Objective,
    draws: Draws,
    checkpointing: bool = False,
    mouths: Mouths | None = None,
) -> Tensor:
    """The weighted squared error of the predicted velocity, per sample [B]; a step minimises the mean.

    With the published reduction every sample has the mean error of all, times its own weight. `mouths`: what looks at the
    mouths, needed where the objective has a weight for them.
    """
    latents = batch.latents
    alphas = training_schedule().alphas_cumprod.to(latents)
    signal = alphas[draws.timesteps.to(latents.device)].reshape(len(latents), 1, -1, 1, 1)  # one per clip, or per still frame
    noise = draws.noise.to(latents)
    noisy = signal.sqrt() * latents + (1 - signal).sqrt() * noise
    target = signal.sqrt() * noise - (1 - signal).sqrt() * latents
    # PyTorch 2.13 on the CPU crashes in the backward pass of a channels_last group normalisation that trains on an input
    # without gradient: the first audio module behind frozen convolutions. Asking for one here costs a few convolutions.
    noisy.requires_grad_(torch.is_grad_enabled())
    inputs = clip_inputs(networks, batch, objective, draws, checkpointing)
    conditioning = networks.denoising_network.condition(inputs, checkpointing=checkpointing)
    predicted = networks.denoising_network(noisy, draws.timesteps.flatten().to(latents.device), conditioning, checkpointing)
    error = (predicted.float() - target.float()) ** 2
    weight = min_snr_weight(signal.float(), objective.snr_gamma)
    if objective.lip_weight:
        error = error * (1 + objective.lip_weight * batch.masks.lip[0][:, None])
    if objective.reduction == "published":
        loss = error.mean() * weight.mean(dim=(1, 2, 3, 4))
    else:
        loss = (error * weight).mean(dim=(1, 2, 3, 4))
    if not objective.mouth_weight:
        return loss
    assert mouths is not None, "what looks at mouths is given where they count"
    clean = signal.sqrt() * noisy - (1 - signal).sqrt() * predicted
    seen = mouths.difference(clean, latents, batch.reference_latents[:, 0], batch.masks.lip[0])
    return loss + objective.mouth_weight * seen


def min_snr_weight(signal: Tensor, gamma: float) -> Tensor:
    """min(s, γ) / s with s = snr + 1, for velocity prediction; 1 at the last timestep, where there is no signal."""
    if not gamma:
        return torch.ones_like(signal)
    snr = signal / (1 - signal) + 1
    return snr.clamp(max=gamma) / snr


def clip_inputs(
    networks: Networks, batch: Batch, objective: Objective, draws: Draws, checkpointing: bool = False
) -> ClipInputs:
    """The batch's conditions with the drawn ones left out."""
    embedding = batch.face_embedding
    if objective.drops_face and draws.num_blind:
        embedding = torch.cat([torch.zeros_like(embedding[: draws.num_blind]), embedding[draws.num_blind :]])
    face_tokens = networks.face_projector(embedding)
    audio_tokens = None
    if batch.audio_window is not None:
        audio_tokens = networks.audio_projector(batch.audio_window)
        audio_tokens = audio_tokens * ~draws.deaf.to(audio_tokens.device)[:, None, None, None]
    is_blind = draws.num_blind == len(batch.latents) and objective.coins == "per_batch"
    takes_portrait = networks.denoising_network.config["portrait_in_input"]
    return ClipInputs(
        # A whole batch that is blind has no reference at all, as published: four frames of zeros stand for the past.
        reference=None if is_blind else see(networks, batch, draws, face_tokens, checkpointing),
        face_tokens=face_tokens,
        audio_tokens=audio_tokens,
        location=networks.face_locator(batch.face_region),
        masks=batch.masks,
        portrait_latents=batch.reference_latents[:, 0] if takes_portrait else None,
        num_blind=0 if is_blind else draws.num_blind,
        still=objective.still,
    )


def see(networks: Networks, batch: Batch, draws: Draws, face_tokens: Tensor, checkpointing: bool = False) -> ReferenceFeatures:
    """What the reference network makes of the portraits and the past frames; zeros for the blind samples."""
    portrait, past = batch.reference_latents[:, :1], batch.reference_latents[:, 1:]
    before = portrait if batch.start_latents is None else batch.start_latents
    starts = draws.starts.to(portrait.device)[:, None, None, None, None]
    references = torch.cat([portrait, torch.where(starts, before, past)], dim=1)
    return blinded(networks.reference_network(references, face_tokens, checkpointing), draws.num_blind)


def blinded(features: ReferenceFeatures, num_blind: int) -> ReferenceFeatures:
    """The features with those of the first samples zeroed: a blind sample has no past either."""
    if not num_blind:
        return features
    sees = torch.arange(len(features.sites[0]), device=features.sites[0].device)[:, None, None, None] >= num_blind
    return replace(features, sites=tuple(site * sees for site in features.sites))
