"""What the published system takes from others and leaves as it is: the autoencoder and the Mandarin speech encoder."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from joyhallo.weights import hub
from joyhallo.weights.checkpoint import build_and_load, today_name
from joyhallo.weights.tensor_files import CheckpointError, open_tensors

_VAE, _SPEECH = "sd-vae-ft-mse", "chinese-wav2vec2-base"
_WEIGHTS = tuple(
    f"{stem}{end}" for stem in ("diffusion_pytorch_model", "model", "pytorch_model") for end in (".safetensors", ".bin")
)


def encoder_names(names: Iterable[str]) -> dict[str, str]:
    """Today's names of a speech encoder's tensors, by those in its file; heads for other purposes are left out."""
    listed = list(names)
    prefix = "wav2vec2." if any(name.startswith("wav2vec2.") for name in listed) else ""
    return {name: today_name(name.removeprefix(prefix)) for name in listed if name.startswith(prefix)}


def load_companions(folder: Path) -> dict[str, Any]:
    """Autoencoder and speech encoder for networks that begin as Stable Diffusion 1.5, in float32.

    Looked for in `folder`, beside it and among the fetched weights; the folder's own autoencoder if the published is not there.

    Raises:
        CheckpointError: one is not there, or is not what it should be.
    """
    vae = _find(_VAE, folder) or _find("vae", folder)
    speech = _find(_SPEECH, folder)
    if vae is None or speech is None:
        lacking = _VAE if vae is None else _SPEECH
        raise CheckpointError(
            f"{lacking} is neither in {folder}, nor beside it, nor fetched: `joyhallo models pull joyhallo-v1`"
        )
    parts = {"vae": _load_vae(vae), "speech_encoder": _load_speech_encoder(speech), "identity_encoder": None}
    for part in parts.values():
        if part is not None:
            part.eval().requires_grad_(False)
    return parts


def _find(name: str, folder: Path) -> Path | None:
    """The weights file of a companion; its configuration is beside it."""
    places = [base / name / file for base in (folder, folder.resolve().parent) for file in _WEIGHTS]
    found = next((place for place in places if place.is_file() and (place.parent / "config.json").is_file()), None)
    if found is None and name in (_VAE, _SPEECH):
        known = f"{name}/diffusion_pytorch_model.safetensors" if name == _VAE else f"{name}/pytorch_model.bin"
        fetched = hub.find(known)
        return fetched if fetched is not None and hub.find(f"{name}/config.json") is not None else None
    return found


def _load_vae(weights: Path) -> nn.Module:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    config = _config_beside(weights)
    build: Any = lambda: AutoencoderKL.from_config(config)  # noqa: E731 (diffusers types it as a pair too)
    return build_and_load(build, open_tensors(weights), dtype=torch.float32).to(memory_format=torch.channels_last)


def _load_speech_encoder(weights: Path) -> nn.Module:
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    tensors = open_tensors(weights)
    named = {ours: tensors[name] for name, ours in encoder_names(tensors).items()}
    config = Wav2Vec2Config.from_dict(_config_beside(weights))
    with torch.random.fork_rng(devices=[]):  # transformers draws even what will be replaced
        return build_and_load(lambda: Wav2Vec2Model(config), named, dtype=torch.float32)


def _config_beside(weights: Path) -> dict[str, Any]:
    path = weights.parent / "config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: fetch it again") from error
