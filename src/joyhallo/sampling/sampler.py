"""From noise to a clip's latents.

Axes: B samples, C channels, F frames, H and W the latent place.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from joyhallo.sampling.guidance import combine
from joyhallo.sampling.schedule import NUM_TIMESTEPS

Velocity = Callable[[Tensor, Tensor], Tensor]


def guided_velocity(velocity: Velocity, scale: float) -> Velocity:
    """A velocity of two halves as a velocity of one."""

    def guided(latents: Tensor, timestep: Tensor) -> Tensor:
        return combine(velocity(torch.cat([latents, latents]), timestep), scale)

    return guided


def alike_velocity(conditional: Velocity, frame: Velocity, scale: float, otherwise: Velocity) -> Velocity:
    """A guided velocity for clips that begin with the same noise in all frames: there the unconditional half is the same too,
    but for the place in the clip, and `frame` computes it for one. Frames that differ go the other way."""

    def guided(latents: Tensor, timestep: Tensor) -> Tensor:
        first = latents[:, :, :1]
        if not torch.equal(latents, first.expand_as(latents)):
            return otherwise(latents, timestep)
        return combine(torch.cat([frame(first, timestep).expand_as(latents), conditional(latents, timestep)]), scale)

    return guided


def switched_velocity(first: Velocity, then: Velocity, end: float) -> Velocity:
    """The first velocity for a share `end` of the way from noise (timestep 1000) to picture (0), then the other."""

    def switched(latents: Tensor, timestep: Tensor) -> Tensor:
        return (first if timestep >= (1 - end) * NUM_TIMESTEPS else then)(latents, timestep)

    return switched


def sample(velocity: Velocity, scheduler: Any, num_steps: int, noise: Tensor) -> Iterator[Tensor]:  # noqa: ANN401
    """The latents [B,C,F,H,W] after each step of a scheduler, from noise of unit variance.

    The scheduler's arithmetic runs in the precision of the noise (float32), whatever the network's.
    """
    scheduler.set_timesteps(num_steps, device=noise.device)
    latents = noise * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        model_input = scheduler.scale_model_input(latents, timestep)
        prediction = velocity(model_input, timestep.reshape(1))
        latents = scheduler.step(prediction.to(noise.dtype), timestep, latents).prev_sample
        yield latents
