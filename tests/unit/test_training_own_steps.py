"""Training through the steps of sampling: each begins where the one before ended, and all are held to the true latents."""

from dataclasses import replace

import pytest
import torch

from joyhallo.sampling.sampler import sample
from joyhallo.sampling.schedule import training_schedule
from joyhallo.training.stages import Draws, Objective, clip_inputs, sampled_timesteps, velocity_loss
from tiny import drawn_batch, drawn_networks, normal, tiny_preset

NOBODY = torch.zeros(2, dtype=torch.bool)
BATCH = drawn_batch()
PLAIN = Objective(snr_gamma=0)


@pytest.fixture(scope="module")
def networks():
    return drawn_networks(tiny_preset())


def draws(timestep: int = 5, scale: float = 1.0) -> Draws:
    return Draws(torch.tensor([timestep, timestep]), scale * normal(8, 2, 4, 3, 4, 4), 0, NOBODY, NOBODY)


class Recorder:
    """Looks at mouths, and keeps what it was shown."""

    def __init__(self) -> None:
        self.clean: list[torch.Tensor] = []

    def difference(self, clean, wanted, _portrait, _lip_mask):
        assert torch.equal(wanted, BATCH.latents)
        self.clean.append(clean)
        return (clean - wanted).abs().mean((1, 2, 3, 4))


def test_one_step_from_noise_is_the_loss_at_the_last_timestep(networks):
    with torch.no_grad():
        own = velocity_loss(networks, BATCH, replace(PLAIN, own_steps=1, noise_scale=0.8), draws())
        plain = velocity_loss(networks, BATCH, PLAIN, draws(999, 0.8))
    assert torch.allclose(own, plain, rtol=1e-5)


@pytest.mark.parametrize("num_steps", [2, 4])
def test_the_steps_are_those_of_sampling(networks, num_steps):
    objective, seen = replace(PLAIN, own_steps=num_steps, noise_scale=0.8, mouth_weight=1.0), Recorder()
    with torch.no_grad():
        losses = velocity_loss(networks, BATCH, objective, draws(), mouths=seen)
        conditioning = networks.denoising_network.condition(clip_inputs(networks, BATCH, objective, draws()))

        def velocity(latents, timestep):
            return networks.denoising_network(latents, timestep.expand(2), conditioning)

        *_, last = sample(velocity, training_schedule(), num_steps, 0.8 * draws().noise)
    assert len(seen.clean) == num_steps
    assert torch.allclose(seen.clean[-1], last, rtol=1e-4, atol=1e-4)
    errors = [(clean - BATCH.latents).square().mean((1, 2, 3, 4)) for clean in seen.clean]
    amounts = [1 - training_schedule().alphas_cumprod[step] for step in sampled_timesteps(num_steps)]
    differences = [(clean - BATCH.latents).abs().mean((1, 2, 3, 4)) for clean in seen.clean]
    by_hand = sum(error / amount for error, amount in zip(errors, amounts, strict=True)) + sum(differences)
    assert torch.allclose(losses, by_hand / num_steps, rtol=1e-3)


def test_a_step_does_not_teach_the_one_before(networks):
    """Otherwise the first could be wrong for the second to be right."""
    network = networks.denoising_network.requires_grad_(True)
    try:
        both = gradient(networks, network, replace(PLAIN, own_steps=2))
        seen = Recorder()
        with torch.no_grad():
            velocity_loss(networks, BATCH, replace(PLAIN, own_steps=2, mouth_weight=1.0), draws(), mouths=seen)
        first = gradient(networks, network, PLAIN, draws(999))
        signal = training_schedule().alphas_cumprod[499]
        noisy = signal.sqrt() * seen.clean[0] + (1 - signal).sqrt() * draws().noise
        missing = (noisy - signal.sqrt() * BATCH.latents) / (1 - signal).sqrt()
        second = gradient(networks, network, PLAIN, replace(draws(499), noise=missing))
    finally:
        network.requires_grad_(False)
    assert torch.allclose(both, (first + second) / 2, rtol=1e-3, atol=1e-5 * both.abs().max().item())


def gradient(networks, network, objective: Objective, given: Draws | None = None) -> torch.Tensor:
    loss = velocity_loss(networks, BATCH, objective, given or draws()).mean()
    gradients = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
    return torch.cat([part.flatten() for part in gradients if part is not None])


def test_still_pictures_go_through_the_steps_too(networks):
    given = replace(draws(), timesteps=torch.full((2, 3), 5))
    with torch.no_grad():
        found = velocity_loss(networks, BATCH, replace(PLAIN, own_steps=2, still=True), given)
        with_motion = velocity_loss(networks, BATCH, replace(PLAIN, own_steps=2), draws())
    assert found.shape == (2,)
    assert not torch.allclose(found, with_motion)
