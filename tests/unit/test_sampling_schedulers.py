"""Sampling with diffusers' schedulers, on a model whose exact solution is known."""

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, UniPCMultistepScheduler

from joyhallo.sampling.sampler import sample
from joyhallo.sampling.schedule import SCHEDULE, published_schedule, training_schedule
from tiny import normal

NOISE = normal(1, 1, 4, 3, 2, 2)
TARGET = normal(2, 1, 4, 3, 2, 2)
SPREAD = 0.3
ZERO_SNR = {key: SCHEDULE[key] for key in ("num_train_timesteps", "beta_start", "beta_end", "rescale_betas_zero_snr")}
ZERO_SNR |= {"beta_schedule": "scaled_linear", "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
SCHEDULERS = {
    "ddim": lambda: training_schedule(),
    "dpm": lambda: DPMSolverMultistepScheduler(**ZERO_SNR),
    "euler": lambda: EulerDiscreteScheduler(**ZERO_SNR),
    "unipc": lambda: UniPCMultistepScheduler(**ZERO_SNR),
}


def gaussian_velocity(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """The exact velocity when the data are TARGET plus SPREAD times unit noise.

    x_t = √a·x0 + √(1-a)·n has mean √a·TARGET and variance a·SPREAD² + 1 - a; E[n|x] and E[x0|x] are linear in x, and so is
    v = √a·n - √(1-a)·x0. The exact end of the flow from x_T is TARGET + SPREAD·x_T.
    """
    alphas = training_schedule().alphas_cumprod
    a = alphas[timestep.round().long()].reshape(())
    variance = a * SPREAD**2 + 1 - a
    rest = latents - a.sqrt() * TARGET
    noise = (1 - a).sqrt() / variance * rest
    data = TARGET + a.sqrt() * SPREAD**2 / variance * rest
    return a.sqrt() * noise - (1 - a).sqrt() * data


def last(name: str, num_steps: int, velocity=gaussian_velocity) -> torch.Tensor:
    return list(sample(velocity, SCHEDULERS[name](), num_steps, NOISE))[-1]


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_flow_ends_at_the_exact_solution(name):
    def euler_units(latents, timestep):  # Euler's own variance-exploding scale is undone by `scale_model_input`
        return gaussian_velocity(latents, timestep)

    found = last(name, 200, euler_units)
    assert found.isfinite().all()
    assert (found - (TARGET + SPREAD * NOISE)).abs().max() < 0.05
    coarse = last(name, 10)
    assert (coarse - TARGET).abs().mean() < 0.5


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_can_be_used_again(name):
    """Multistep schedulers remember; every clip must begin anew."""
    scheduler = SCHEDULERS[name]()
    first, second = (list(sample(gaussian_velocity, scheduler, 5, NOISE)) for _ in range(2))
    assert len(first) == 5
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_ddim_by_hand():
    """One step of the published recurrence from each of four trailing timesteps."""
    scheduler, timesteps = training_schedule(), []
    alphas = scheduler.alphas_cumprod

    def velocity(latents, timestep):
        timesteps.append(int(timestep))
        return 0.5 * latents + 1

    steps = list(sample(velocity, scheduler, 4, NOISE))
    assert timesteps == [999, 749, 499, 249]
    x = NOISE
    for t, found in zip(timesteps, steps, strict=True):
        a, before = alphas[t], alphas[t - 250] if t >= 250 else torch.tensor(1.0)
        v = 0.5 * x + 1
        x0, noise = a.sqrt() * x - (1 - a).sqrt() * v, a.sqrt() * v + (1 - a).sqrt() * x
        x = before.sqrt() * x0 + (1 - before).sqrt() * noise
        assert torch.allclose(found, x, atol=1e-5)


def test_schedules_end_without_signal():
    for schedule, beta_schedule in ((training_schedule(), "scaled_linear"), (published_schedule(), "linear")):
        assert isinstance(schedule, DDIMScheduler)
        assert schedule.config["beta_schedule"] == beta_schedule
        assert schedule.alphas_cumprod[-1] == 0
        assert (schedule.alphas_cumprod.diff() < 0).all()
    published_schedule().set_timesteps(40)
    schedule = published_schedule()
    schedule.set_timesteps(40)
    assert schedule.timesteps.tolist() == list(range(999, 0, -25))


def test_the_arithmetic_stays_in_the_precision_of_the_noise():
    steps = list(sample(lambda x, t: gaussian_velocity(x, t).bfloat16(), training_schedule(), 5, NOISE))
    assert {step.dtype for step in steps} == {torch.float32}
    assert (steps[-1] - last("ddim", 5)).abs().max() < 0.05
