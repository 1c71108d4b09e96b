"""The pipeline as diffusers knows pipelines: saved, loaded, moved and called like theirs."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import nn

from joyhallo.animator import Animator
from joyhallo.conditioning.portrait import Portrait
from joyhallo.conditioning.speech import SpeechFeatures
from joyhallo.models.lip_reader import LipReader
from joyhallo.presets import Sampling
from joyhallo.sampling.options import Options, changed
from joyhallo.video import Video
from joyhallo.weights.pipeline_folder import load_components


class JoyHalloPipeline(DiffusionPipeline, Animator):
    """The talking-portrait pipeline. `pipe(portrait, speech)` makes a video, `pipe.stream(portrait, speech)` its clips.

    Its components are those of `Animator`, and so is what it can do besides.
    """

    _optional_components = ["identity_encoder", "lip_reader"]  # noqa: RUF012 (diffusers' way to say so)

    def __init__(
        self,
        vae: nn.Module,
        reference_network: nn.Module,
        denoising_network: nn.Module,
        face_projector: nn.Module,
        audio_projector: nn.Module,
        face_locator: nn.Module,
        speech_encoder: nn.Module,
        scheduler: Any,  # noqa: ANN401 (any of diffusers' schedulers)
        identity_encoder: nn.Module | None = None,
        lip_reader: LipReader | None = None,
        sampling: Sampling | Mapping[str, Any] = Sampling(),  # noqa: B008
    ) -> None:
        components: dict[str, Any] = {
            "vae": vae,
            "reference_network": reference_network,
            "denoising_network": denoising_network,
            "face_projector": face_projector,
            "audio_projector": audio_projector,
            "face_locator": face_locator,
            "speech_encoder": speech_encoder,
            "identity_encoder": identity_encoder,
            "lip_reader": lip_reader,
            "scheduler": scheduler,
        }
        self.register_modules(**components)
        sampling = sampling if isinstance(sampling, Sampling) else Sampling.from_config(sampling)
        self.register_to_config(sampling=asdict(sampling))
        Animator.__init__(self, **components, sampling=sampling)

    @classmethod
    def from_pretrained(cls, source: str | Path, *, torch_dtype: torch.dtype = torch.float32) -> "JoyHalloPipeline":
        """Load "mini", a folder written by `save_pretrained` or `joyhallo models convert`, or a hub id.

        Raises:
            UserError: there are no such weights, or a tensor is missing, unknown or misshapen.
        """
        return cls(**load_components(source, torch_dtype))

    def __call__(
        self,
        portrait: str | Path | np.ndarray | Portrait,
        speech: str | Path | np.ndarray | SpeechFeatures,
        options: Options | None = None,
        **changes: Any,  # noqa: ANN401 (the fields of Options)
    ) -> Video:
        """Make a whole video in memory; `stream` makes it clip by clip.

        Options are given as `Options(...)` or by name: `num_steps`, `guidance_scale`, `region_scale`, `seed`; names win.

        Raises UserError for an unknown option, and when the latents of a clip are not finite.
        """
        person = portrait if isinstance(portrait, Portrait) else self.portrait(portrait)
        features = speech if isinstance(speech, SpeechFeatures) else self.speech(speech)
        bar: Any = self.progress_bar  # diffusers puts it there untyped
        wanted = changed(options, changes)
        clips = bar(self.stream(person, features, wanted), total=self.num_clips(features))
        frames = np.concatenate([clip.frames for clip in clips])
        sound = None if isinstance(speech, SpeechFeatures) else speech
        rest, idle = self.rest(person, features), self.idle_motion(features, wanted.seed)
        return Video(frames, self.sampling.fps, person, sound, rest, idle)
