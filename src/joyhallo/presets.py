"""Named configurations: the arguments of every network of a system."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from joyhallo.errors import UserError

Config = dict[str, Any]


MOST_MOVEMENT = 2.0  # of a head that weights hold still, against the usual


@dataclass(frozen=True)
class Sampling:
    """How a checkpoint was trained to be sampled; written into the pipeline's folder."""

    height: int = 512
    width: int = 512
    fps: int = 25
    clip_length: int = 16  # frames sampled together
    num_past_frames: int = 2  # of the previous clip that a clip looks back at
    num_steps: int = 40
    guidance_scale: float = 3.5
    guidance_end: float = 1.0  # share of the way from noise to picture, from its beginning, on which there is guidance
    unconditional_drops: tuple[str, ...] = ("portrait", "face", "audio", "location")
    shared_noise: float = 0.0  # part of the noise's variance that all frames have in common
    noise_scale: float = 1.0  # of the initial noise; below 1 frames are nearer to the mean: plainer, steadier, fewer accidents
    latent_form: str = "absolute"  # "residual": what is sampled is the difference from the portrait's latents
    latent_scale: float = 0.18215  # brings what is sampled to unit variance
    face_share: float = 0.6  # of the frame's side
    idle_motion: bool = False  # the weights hold head and eyes still: they are moved in the finished picture

    @property
    def guided_until(self) -> float:
        """`guidance_end`, or 0 where the scale leaves guidance out."""
        return self.guidance_end if self.guidance_scale > 1 else 0.0

    @property
    def begins_alike(self) -> bool:
        """Whether nothing but what is heard tells the frames of a clip apart in the first step."""
        return self.shared_noise == 1 and self.unconditional_drops == ("audio",)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Sampling":
        """From a stored configuration.

        Raises:
            UserError: an option that is not known, with the nearest that is.
        """
        known = [field.name for field in fields(cls)]
        for name in config:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
                raise UserError(f"the sampling option {name!r} is not known: the nearest known one is {near!r}")
        drops = config.get("unconditional_drops", cls.unconditional_drops)
        return cls(**{**config, "unconditional_drops": tuple(drops)})


def num_guided_steps(num_steps: int, guidance_end: float) -> int:
    """How many of so many steps, at even distances from the noise on, begin on the share of the way that is guided."""
    return sum(step / num_steps < guidance_end for step in range(num_steps))


def time_of_steps(num_steps: int, guidance_end: float, first_s: float, guided_s: float, plain_s: float) -> float:
    """Seconds of so many steps: the first and the others that are guided, and those that are not."""
    guided = num_guided_steps(num_steps, guidance_end)
    return (first_s + (guided - 1) * guided_s if guided else 0.0) + (num_steps - guided) * plain_s


@dataclass(frozen=True)
class Preset:
    """The configurations of one system's networks, as keyword arguments of their classes, and how they are sampled."""

    reference_network: Config = field(default_factory=dict)
    denoising_network: Config = field(default_factory=dict)
    face_projector: Config = field(default_factory=dict)
    audio_projector: Config = field(default_factory=dict)
    face_locator: Config = field(default_factory=dict)
    sampling: Sampling = Sampling()


def joyhallo() -> Preset:
    """JoyHallo-v1 (arXiv 2409.13268): Stable Diffusion 1.5 widths, semi-decoupled audio attention."""
    quirk = {"row_order": "interleaved"}
    return Preset(reference_network=quirk, denoising_network=quirk)


def hallo() -> Preset:
    """Hallo: the same with decoupled audio attention."""
    published = joyhallo()
    return replace(published, denoising_network=published.denoising_network | {"audio_attention": "decoupled"})


def mini() -> Preset:
    """The weights inside the package: the same networks for 256×256 pictures in a 16×16×16 latent space."""
    shape: Config = {
        "in_channels": 16,
        "widths": (128, 160),
        "attention_levels": (False, True),
        "layers_per_level": 1,
        "num_heads": 4,
        "num_groups": 16,
        "face_dim": 128,
    }
    speech: Config = {"audio_dim": 128, "motion_heads": 4}
    return Preset(
        reference_network=shape,
        denoising_network=shape | speech | {"in_channels": 32, "out_channels": 16, "portrait_in_input": True},
        face_projector={"embedding_size": 128, "num_tokens": 4, "token_dim": 128},
        audio_projector={"num_blocks": 3, "channels": 160, "hidden_dim": 256, "num_tokens": 8, "token_dim": 128},
        face_locator={"out_channels": 128, "widths": (8, 16, 32, 48, 64)},
        sampling=Sampling(
            height=256,
            width=256,
            num_steps=1,
            guidance_scale=1.0,
            guidance_end=0.4,
            unconditional_drops=("audio",),
            shared_noise=1.0,
            noise_scale=0.8,
            latent_form="residual",
            latent_scale=3.2,
            face_share=0.65,
            idle_motion=True,
        ),
    )
