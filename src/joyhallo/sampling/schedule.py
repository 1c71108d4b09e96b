"""The noise schedules of the published system."""

from typing import Any

from diffusers import DDIMScheduler

NUM_TIMESTEPS = 1000
SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": NUM_TIMESTEPS,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
    "clip_sample": False,
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "prediction_type": "v_prediction",
}


def training_schedule() -> DDIMScheduler:
    """Scaled-linear betas, as the published checkpoints were trained; our own weights are also sampled with it."""
    return DDIMScheduler(**SCHEDULE, beta_schedule="scaled_linear")


def published_schedule() -> DDIMScheduler:
    """Linear betas, as the published checkpoints are sampled."""
    return DDIMScheduler(**SCHEDULE, beta_schedule="linear")
