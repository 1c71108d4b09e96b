"""What a process needs to prepare videos: the face mesh, the identity and speech encoders, the vocal separator."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from joyhallo.conditioning.face import FaceMesh
from joyhallo.conditioning.identity import IdentityEncoder, InsightFaceIdentity, MiniIdentity
from joyhallo.conditioning.speech import MelSpeech, SpeechEncoder, Wav2Vec2Speech
from joyhallo.conditioning.vocals import VocalSeparator
from joyhallo.data.preparation.films import MANDARIN_ENCODER, mandarin_folder
from joyhallo.data.speech_features import encode_clip
from joyhallo.weights import hub
from joyhallo.weights.pipeline_folder import load_component
from joyhallo.weights.registry import IDENTITY_FILES, VOCALS_FILE


@dataclass(frozen=True, eq=False)
class Equipment:
    """Networks ready to use."""

    mesh: FaceMesh
    identity: IdentityEncoder
    identity_name: str  # "mini" or "glintr100"
    speech: SpeechEncoder | None
    speech_name: str | None  # "mini", "chinese-wav2vec2-base", or None: features are made when training starts
    separator: VocalSeparator | None

    def encode_speech(self, speech: np.ndarray) -> np.ndarray | None:
        """Features [F, blocks, channels] float16 of `speech` [F·640] int16, normalised over the clip; None without encoder."""
        return None if self.speech is None else encode_clip(speech, self.speech)


def open_equipment(preset: str, separate_vocals: bool) -> Equipment:
    """All that a preset needs; what has to be fetched is fetched once and kept.

    Raises UserError when a package or a model is missing, with what to install.
    """
    mesh = FaceMesh.from_path(hub.face_models_path())
    separator = VocalSeparator(hub.fetch(VOCALS_FILE)) if separate_vocals else None
    if preset == "mini":
        folder = hub.bundled_folder()
        identity = MiniIdentity(load_component(folder / "identity_encoder", "IdentityNetwork", torch.float32))
        speech = MelSpeech(load_component(folder / "speech_encoder", "MelSpeechNetwork", torch.float32))
        return Equipment(mesh, identity, "mini", speech, "mini", separator)
    encoder = mandarin_encoder()
    name = None if encoder is None else MANDARIN_ENCODER
    return Equipment(mesh, _glint_identity(), "glintr100", encoder, name, separator)


def _glint_identity() -> InsightFaceIdentity:
    if importlib.util.find_spec("insightface") is None:
        return InsightFaceIdentity(Path())  # says what to install, before anything large is fetched
    root = [hub.fetch(name) for name in IDENTITY_FILES][-1].parents[1]
    return InsightFaceIdentity(root)


def mandarin_encoder() -> SpeechEncoder | None:
    """The speech encoder of the published weights, when it is on this machine."""
    folder = mandarin_folder()
    if folder is None:
        return None
    from transformers import Wav2Vec2Model

    return Wav2Vec2Speech(Wav2Vec2Model.from_pretrained(str(folder)))
