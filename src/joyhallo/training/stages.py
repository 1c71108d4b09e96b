"""The training objective: a batch in, a loss per sample out.

Velocity prediction with zero terminal SNR, offset noise and min-SNR weights, as published; every habit of the published
scripts that changes the numbers is an option. The loop that calls it knows nothing of it.

Axes: B samples, F frames, P past frames, C channels, H and W the latent place.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from joyhallo.data.batches import Batch
from joyhallo.data.randomness import stream
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
    own_steps: int = 0  # so many steps are run as in sampling, each on what the one before made; 0: noise hides true latents
    noise_scale: float = 1.0  # of the noise that own steps begin with
    still: bool = False  # F independent pictures with a timestep each; the motion modules do not run


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
    for number in coins.numbers:
        random = stream(seed, "noise", number)
        timesteps.append(random.integers(NUM_TIMESTEPS, size=num_frames if objective.still else ()))
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

    With the published reduction every sample has the mean error of all, times its own weight. With `own_steps` it is the mean
    over the steps. `mouths`: what looks at the mouths, needed where the objective has a weight for them.
    """
    inputs = clip_inputs(networks, batch, objective, draws, checkpointing)
    conditioning = networks.denoising_network.condition(inputs, checkpointing=checkpointing)

    def judged(noisy: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """The velocity predicted for latents with this noise, and its loss [B]."""
        # PyTorch 2.13 on the CPU crashes in the backward pass of a channels_last group normalisation that trains on an input
        # without gradient: the first audio module behind frozen convolutions. Asking for one here costs a few convolutions.
        noisy.requires_grad_(torch.is_grad_enabled())
        velocity = networks.denoising_network(noisy, timesteps.flatten().to(noisy.device), conditioning, checkpointing)
        signal = signal_at(timesteps, noisy)
        return velocity, _loss(velocity, noisy, noise, signal, batch, objective, mouths)

    latents, noise = batch.latents, draws.noise.to(batch.latents)
    if objective.own_steps:
        return _own_steps_loss(judged, latents, noise, draws.timesteps, objective)
    signal = signal_at(draws.timesteps, latents)
    return judged(signal.sqrt() * latents + (1 - signal).sqrt() * noise, noise, draws.timesteps)[1]


def _own_steps_loss(
    judged: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
    latents: Tensor,
    noise: Tensor,
    shape: Tensor,
    objective: Objective,
) -> Tensor:
    """The mean loss [B] over the steps of sampling from noise, each on what the one before made; `shape`: of timesteps."""
    losses, clean, noise = [], torch.zeros_like(latents), objective.noise_scale * noise
    for step in sampled_timesteps(objective.own_steps):
        timesteps = torch.full_like(shape, step)
        signal = signal_at(timesteps, latents)
        noisy = signal.sqrt() * clean + (1 - signal).sqrt() * noise
        # As if the noise were what is not the true latents here, so that the right answer is these.
        missing = (noisy - signal.sqrt() * latents) / (1 - signal).sqrt()
        velocity, loss = judged(noisy, missing, timesteps)
        losses.append(loss)
        clean = (signal.sqrt() * noisy - (1 - signal).sqrt() * velocity).detach()
        noise = (signal.sqrt() * velocity + (1 - signal).sqrt() * noisy).detach()
    return torch.stack(losses).mean(0)


def signal_at(timesteps: Tensor, latents: Tensor) -> Tensor:
    """How much of the variance is signal at timesteps [B] or, of still pictures, [B,F]: [B,1,1 or F,1,1]."""
    alphas = training_schedule().alphas_cumprod.to(latents)
    return alphas[timesteps.to(latents.device)].reshape(len(latents), 1, -1, 1, 1)


def sampled_timesteps(num_steps: int) -> list[int]:
    """Where so many steps of sampling stand, from noise on."""
    schedule = training_schedule()
    schedule.set_timesteps(num_steps)
    return [int(step) for step in schedule.timesteps]


def _loss(
    velocity: Tensor, noisy: Tensor, noise: Tensor, signal: Tensor, batch: Batch, objective: Objective, mouths: Mouths | None
) -> Tensor:
    """Of one predicted velocity, [B]; `noisy` is the batch's latents with this noise."""
    latents = batch.latents
    target = signal.sqrt() * noise - (1 - signal).sqrt() * latents
    error = (velocity.float() - target.float()) ** 2
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
    clean = signal.sqrt() * noisy - (1 - signal).sqrt() * velocity
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
