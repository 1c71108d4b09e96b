"""One portrait and one speech recording become frames, clip by clip.

Axes: B = 1 sample (2 under guidance), F frames of a clip, P past frames, C channels, H and W the picture, h and w its latents.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from joyhallo.conditioning.anatomy import speaking_box
from joyhallo.conditioning.face import FaceMesh
from joyhallo.conditioning.identity import IdentityEncoder, MiniIdentity
from joyhallo.conditioning.portrait import Framing, Portrait, prepare_portrait
from joyhallo.conditioning.speech import MelSpeech, SpeechFeatures, Wav2Vec2Speech, prepare_speech
from joyhallo.errors import UserError
from joyhallo.idle.curves import loudness_of_levels
from joyhallo.idle.motion import IdleMotion, draw_idle_motion
from joyhallo.media.image import read_image
from joyhallo.models.autoencoder import PatchAutoencoder
from joyhallo.models.conditions import ClipInputs
from joyhallo.models.latents import (
    LatentSpace,
    cells_of,
    decode_changes,
    decode_latents,
    downscale_factor,
    encode_pixels,
    to_frames,
)
from joyhallo.models.lip_reader import LipReader
from joyhallo.models.speech_encoder import MelSpeechNetwork
from joyhallo.models.unet import Conditioning
from joyhallo.mouth.rest import Rest
from joyhallo.presets import Sampling
from joyhallo.sampling.guidance import conditional_half, unconditional_frame, with_unconditional
from joyhallo.sampling.noise import clip_noise
from joyhallo.sampling.options import DEFAULTS, Options
from joyhallo.sampling.sampler import Velocity, alike_velocity, guided_velocity, sample, switched_velocity
from joyhallo.weights.lora import merge_lora
from joyhallo.weights.pipeline_folder import load_components


@dataclass(frozen=True, eq=False)
class Clip:
    """Finished frames, and what the next clip needs of them."""

    index: int
    frames: np.ndarray  # [F,H,W,3] uint8; the last clip of a video may be shorter
    past: Tensor  # [P,3,H,W] float32 in [-1,1], on the CPU


@dataclass(eq=False, kw_only=True)
class Animator:
    """The components of a pipeline at work: `portrait` and `speech` prepare what is given, `stream` makes the clips.

    `identity_encoder` is None where the identity comes from InsightFace, `lip_reader` for weights that take portraits with
    parted lips as they are, and whose frames are shown as drawn. The `scheduler` is any of diffusers' that knows velocity
    prediction with zero terminal SNR. `sampling` is how the weights were trained to be sampled. `JoyHalloPipeline` is the same
    for users of diffusers, whose own base class takes as long to import as all of this.
    """

    vae: Any
    reference_network: Any
    denoising_network: Any
    face_projector: Any
    audio_projector: Any
    face_locator: Any
    speech_encoder: Any
    scheduler: Any
    identity_encoder: Any = None
    lip_reader: LipReader | None = None
    sampling: Sampling

    def __post_init__(self) -> None:
        self.latent_space = LatentSpace(self.sampling.latent_form, self.sampling.latent_scale)  # type: ignore[arg-type]
        self.face_mesh: FaceMesh | None = None  # found on first use
        self.identity: IdentityEncoder | None = None if self.identity_encoder is None else MiniIdentity(self.identity_encoder)

    @classmethod
    def from_pretrained(cls, source: str | Path, *, torch_dtype: torch.dtype = torch.float32) -> Self:
        """Load "mini", a folder written by `save_pretrained` or `joyhallo models convert`, or a hub id.

        Raises:
            UserError: there are no such weights, or a tensor is missing, unknown or misshapen.
        """
        components = load_components(source, torch_dtype)
        sampling = Sampling.from_config(components.pop("sampling"))
        return cls(**components, sampling=sampling)

    @property
    def components(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "sampling"}

    @property
    def device(self) -> torch.device:
        return next(self.denoising_network.parameters()).device

    def to(self, device: torch.device) -> Self:
        """Move all networks."""
        for part in self.components.values():
            if isinstance(part, nn.Module):
                nn.Module.to(part, device)  # diffusers' own would load PyTorch's compiler
        return self

    def load_lora(self, path: str | Path, strength: float = 1.0) -> None:
        """Add a LoRA file (`joyhallo train --lora`) to the weights for good; 1 is as strong as trained.

        Raises:
            UserError: the file is no LoRA, or one for other weights. Nothing changes then.
        """
        networks = {name: part for name, part in self.components.items() if isinstance(part, nn.Module)}
        merge_lora(networks, Path(path).expanduser(), strength)

    def portrait(
        self, picture: str | Path | np.ndarray, size: tuple[int, int] | None = None, face_index: int | None = None
    ) -> Portrait:
        """Find the person in a picture. `size` is the (height, width) of the animated frame in pixels."""
        framing = Framing(
            size=size or (self.sampling.height, self.sampling.width),
            latent_factor=downscale_factor(self.vae),
            face_share=self.sampling.face_share,
            num_depths=len(self.denoising_network.config["widths"]),
        )
        if self.face_mesh is None:
            from joyhallo.weights.hub import face_models_path

            self.face_mesh = FaceMesh.from_path(face_models_path())
        if self.identity is None:
            from joyhallo.conditioning.identity import InsightFaceIdentity
            from joyhallo.weights.hub import fetch
            from joyhallo.weights.registry import IDENTITY_FILES

            for name in IDENTITY_FILES:
                path = fetch(name)
            self.identity = InsightFaceIdentity(path.parents[1])
        reader = self.lip_reader if self.sampling.latent_form == "residual" else None
        image = read_image(picture)
        return prepare_portrait(image, self.face_mesh, self.identity, framing, face_index=face_index, lip_reader=reader)

    def speech(self, recording: str | Path | np.ndarray, separate_vocals: bool = False) -> SpeechFeatures:
        """Prepare a recording: a file, or a waveform [T] at 16 kHz."""
        is_mini = isinstance(self.speech_encoder, MelSpeechNetwork)
        encoder = MelSpeech(self.speech_encoder) if is_mini else Wav2Vec2Speech(self.speech_encoder)
        separator = None
        if separate_vocals:
            from joyhallo.conditioning.vocals import VocalSeparator
            from joyhallo.weights.hub import fetch
            from joyhallo.weights.registry import VOCALS_FILE

            separator = VocalSeparator(fetch(VOCALS_FILE))
        return prepare_speech(
            recording, encoder, fps=self.sampling.fps, clip_length=self.sampling.clip_length, separator=separator
        )

    @torch.no_grad()
    def still(self, portrait: Portrait) -> np.ndarray | None:
        """What the autoencoder makes of the unmoved portrait, [H,W,3] uint8; None for weights that do not predict changes."""
        if self.sampling.latent_form != "residual":
            return None
        return to_frames(decode_latents(self.vae, encode_pixels(self.vae, portrait.pixels[None])))[0]

    def rest(self, portrait: Portrait, speech: SpeechFeatures) -> Rest | None:
        """None where frames are shown as drawn: for weights without changes or a lip reader, and landmarks that are NaN."""
        reader = self.lip_reader if np.isfinite(portrait.landmarks).all() else None
        still = None if reader is None else self.still(portrait)
        return None if reader is None or still is None else Rest.of_speech(still, reader, speech, self.sampling.fps)

    def idle_motion(self, speech: SpeechFeatures, seed: int = DEFAULTS.seed) -> IdleMotion | None:
        """How head and eyes move by themselves while somebody speaks, for weights that hold them still; None for others."""
        return draw_idle_motion(loudness_of_levels(speech.levels_db()), seed) if self.sampling.idle_motion else None

    def num_clips(self, speech: SpeechFeatures) -> int:
        return -(-speech.num_frames // self.sampling.clip_length)

    def stream(
        self, portrait: Portrait, speech: SpeechFeatures, options: Options = DEFAULTS, resume: Clip | None = None
    ) -> Iterator[Clip]:
        """Yield the clips of a video, or those after `resume`, with the same frames either way.

        Raises UserError when the latents of a clip are not finite.
        """
        run = _Run(self, portrait, speech, options)
        past = run.first_past() if resume is None else resume.past
        for index in range(0 if resume is None else resume.index + 1, self.num_clips(speech)):
            clip = run.clip(index, past)
            past = clip.past
            yield clip


class _Run:
    """What one video needs in every clip."""

    def __init__(self, pipe: Animator, portrait: Portrait, speech: SpeechFeatures, options: Options) -> None:
        self.pipe, self.speech, self.options = pipe, speech, options
        self.sampling = pipe.sampling
        parameter = next(pipe.denoising_network.parameters())
        self.like = {"device": parameter.device, "dtype": parameter.dtype}
        self.num_steps = options.num_steps or self.sampling.num_steps
        scale = options.guidance_scale
        self.guidance_scale = self.sampling.guidance_scale if scale is None else scale
        self.is_guided = self.guidance_scale > 1
        self.pixels = portrait.pixels
        self.masks = portrait.masks.to(**self.like)
        with torch.no_grad():
            self.portrait_latents = encode_pixels(pipe.vae, portrait.pixels[None]).to(**self.like)  # [1,C,h,w]
            decodes_changes = pipe.latent_space.form == "residual" and isinstance(pipe.vae, PatchAutoencoder)
            self.still = decode_latents(pipe.vae, self.portrait_latents) if decodes_changes else None  # [1,3,H,W]
            self.speaking = cells_of(speaking_box(portrait.landmarks), downscale_factor(pipe.vae), self.portrait_latents)
            self.location = pipe.face_locator(portrait.face_region[None].to(**self.like))
            embedding = portrait.face_embedding[None].to(**self.like)
            self.face_tokens = pipe.face_projector(embedding)
            self.no_face = pipe.face_projector(torch.zeros_like(embedding))

    def first_past(self) -> Tensor:
        """A video begins as if the portrait had been seen before."""
        return self.pixels.expand(self.sampling.num_past_frames, -1, -1, -1)

    @torch.no_grad()
    def clip(self, index: int, past: Tensor) -> Clip:
        start = index * self.sampling.clip_length
        latents = self.sample(index, self.velocity(self.inputs(start, past)))
        latents = self.pipe.latent_space.from_sampled(latents[0].transpose(0, 1), self.portrait_latents)  # [F,C,h,w]
        pixels = self.decode(latents).cpu()
        kept = min(self.sampling.clip_length, self.speech.num_frames - start)
        past = torch.cat([past, pixels])[len(pixels) :]  # a clip may be shorter than the past
        return Clip(index, to_frames(pixels[:kept]), past)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [F,C,h,w] → pixels [F,3,H,W]; of weights that predict changes, what speaks of a face."""
        if self.still is None:
            return decode_latents(self.pipe.vae, latents)
        return decode_changes(self.pipe.vae, latents, self.portrait_latents, self.still, self.speaking)

    def inputs(self, start: int, past: Tensor) -> ClipInputs:
        """The clip's conditions, with the unconditional half where there is guidance."""
        pipe, drops = self.pipe, self.sampling.unconditional_drops
        references = self.reference_latents(past)
        tokens = self.face_tokens
        if self.is_guided and pipe.reference_network.config["row_order"] == "interleaved":
            # The published reference network sees both halves, and mixes their face tokens among the rows.
            references, tokens = references.expand(2, -1, -1, -1, -1), torch.cat([self.no_face, tokens])
        space, takes_portrait = pipe.latent_space, pipe.denoising_network.config["portrait_in_input"]
        window = self.speech.window(start, self.sampling.clip_length)[None].to(**self.like)
        inputs = ClipInputs(
            reference=pipe.reference_network(references, tokens),
            face_tokens=self.face_tokens,
            audio_tokens=pipe.audio_projector(window),
            location=self.location,
            masks=self.masks,
            portrait_latents=space.of_reference(self.portrait_latents) if takes_portrait else None,
        )
        return with_unconditional(inputs, drops, self.no_face) if self.is_guided else inputs

    def reference_latents(self, past: Tensor) -> Tensor:
        """The portrait and the past frames as the reference network sees them, [1,1+P,C,h,w]."""
        latents = encode_pixels(self.pipe.vae, past).to(**self.like) if len(past) else self.portrait_latents[:0]
        return self.pipe.latent_space.of_reference(torch.cat([self.portrait_latents, latents]))[None]

    def velocity(self, inputs: ClipInputs) -> Velocity:
        if not self.is_guided:
            return self.prediction(inputs)
        conditional = self.prediction(conditional_half(inputs))
        guided = guided_velocity(self.prediction(inputs), self.guidance_scale)
        if self.sampling.begins_alike:
            guided = alike_velocity(conditional, self.prediction(unconditional_frame(inputs)), self.guidance_scale, guided)
        return switched_velocity(guided, conditional, self.sampling.guidance_end)

    def prediction(self, inputs: ClipInputs) -> Velocity:
        network = self.pipe.denoising_network

        @cache  # not before it is known whether a step goes this way
        def conditioning() -> Conditioning:
            return network.condition(inputs, self.options.region_scale)

        def predict(latents: Tensor, timestep: Tensor) -> Tensor:
            return network(latents.to(**self.like), timestep, conditioning())

        return predict

    def sample(self, index: int, velocity: Velocity) -> Tensor:
        channels, height, width = self.portrait_latents.shape[1:]
        shape = (channels, self.sampling.clip_length, height, width)
        noise = clip_noise(self.options.seed, index, shape, self.sampling.shared_noise) * self.sampling.noise_scale
        latents = noise = noise.to(self.like["device"])
        for step, latents in enumerate(sample(velocity, self.pipe.scheduler, self.num_steps, noise)):
            if not torch.isfinite(latents).all():
                is_full = self.like["dtype"] == torch.float32
                remedy = ("" if is_full else "--dtype fp32, or with ") + "a lower --guidance"
                remedy += ", or fetch the weights again" if is_full else ""
                place = f"clip {index + 1} of {self.pipe.num_clips(self.speech)}"
                found = f"{place}, step {step + 1} of {self.num_steps}: the latents are not finite"
                raise UserError(f"{found} in {str(self.like['dtype']).removeprefix('torch.')}: run again with {remedy}")
        return latents
