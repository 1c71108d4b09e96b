"""Published checkpoints turned into folders that `JoyHalloPipeline.from_pretrained` reads.

The published `net.pth` is one pickle of five networks. It is opened without being read, and each tensor goes straight into the
safetensors file of its network, so memory holds one tensor at a time and the file may be larger than it.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import nn

from joyhallo import presets
from joyhallo.weights import hub
from joyhallo.weights.checkpoint import check_fits, today_name
from joyhallo.weights.companions import encoder_names
from joyhallo.weights.hub import FetchProgress, OnFetch
from joyhallo.weights.keymaps import KEYMAPS
from joyhallo.weights.tensor_files import CheckpointError, TensorEntry, TensorFile, open_tensors, write_tensors

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Variant = Literal["joyhallo", "hallo"]

NETWORKS = ("reference_network", "denoising_network", "face_projector", "audio_projector", "face_locator")
_DIFFUSERS_FILE, _TRANSFORMERS_FILE = "diffusion_pytorch_model.safetensors", "model.safetensors"
_VAE_FILES = ("sd-vae-ft-mse/config.json", "sd-vae-ft-mse/diffusion_pytorch_model.safetensors")
_SPEECH_FILES = {
    "joyhallo": ("chinese-wav2vec2-base/config.json", "chinese-wav2vec2-base/pytorch_model.bin"),
    "hallo": ("wav2vec/wav2vec2-base-960h/config.json", "wav2vec/wav2vec2-base-960h/model.safetensors"),
}
_SETS = {"joyhallo": "joyhallo-v1", "hallo": "hallo"}

# What the published inference runs with. Its beta schedule is linear although training used scaled_linear: a property of these
# checkpoints, kept in their folder.
_SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "linear",
    "steps_offset": 1,
    "clip_sample": False,
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "prediction_type": "v_prediction",
}


@dataclass(frozen=True)
class _Plan:
    """What does not change while one checkpoint is converted."""

    variant: Variant
    preset: presets.Preset
    dtype: torch.dtype | None
    progress: OnFetch | None


@dataclass(frozen=True)
class _Move:
    """One tensor on its way: where it is, and what it becomes."""

    published: str
    ours: str
    shape: tuple[int, ...]


def convert(
    source: Path,
    out: Path,
    variant: Variant,
    *,
    dtype: torch.dtype | None = None,
    preset: presets.Preset | None = None,
    progress: OnFetch | None = None,
) -> Path:
    """Write the published weights as a folder of components.

    Args:
        source: `net.pth`, or a folder like the published `pretrained_models`. The VAE and the speech encoder are looked for
            beside it, then among the fetched weights.
        out: the folder to write; it must not exist yet, and it appears when it is whole.
        variant: whose names the checkpoint uses.
        dtype: of the written floating-point tensors; None keeps the stored one (fp16 in the published files).
        preset: the networks' configurations; None for the published ones of the variant.
        progress: called after every tensor.

    Returns:
        `out`.

    Raises:
        CheckpointError: a missing, unknown or misshapen tensor, a file that is not weights, a companion that is not there.
    """
    if out.exists():
        raise CheckpointError(f"{out} exists already: give the name of a new folder, or remove it first.")
    if variant not in KEYMAPS:
        raise CheckpointError(f"variant {variant!r} is not known: use one of {', '.join(KEYMAPS)}.")
    net = _net_of(source, variant)
    vae = [_companion(name, net, variant) for name in _VAE_FILES]
    speech = [_companion(name, net, variant) for name in _SPEECH_FILES[variant]]
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # what an interrupted conversion left
    partial.mkdir()
    try:
        plan = _Plan(variant, preset or getattr(presets, variant)(), dtype, progress)
        index: dict[str, object] = {"_class_name": "JoyHalloPipeline", "identity_encoder": [None, None]}
        index["sampling"] = asdict(plan.preset.sampling)
        index |= _write_networks(open_tensors(net), partial, plan)
        index["vae"] = _write_vae(vae[0], vae[1], partial / "vae", plan)
        index["speech_encoder"] = _write_speech_encoder(speech[0], speech[1], partial / "speech_encoder", plan)
        index["scheduler"] = _write_scheduler(partial / "scheduler")
        (partial / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def network_classes() -> dict[str, type[nn.Module]]:
    """The class of every network that a published checkpoint holds, by component."""
    from joyhallo.models.face_locator import FaceLocator
    from joyhallo.models.projectors import AudioProjector, FaceProjector
    from joyhallo.models.unet import DenoisingNetwork, ReferenceNetwork

    return dict(zip(NETWORKS, (ReferenceNetwork, DenoisingNetwork, FaceProjector, AudioProjector, FaceLocator), strict=True))


def _net_of(source: Path, variant: Variant) -> Path:
    if source.is_dir():
        for place in (source / variant / "net.pth", source / "net.pth"):
            if place.is_file():
                return place
        raise CheckpointError(
            f"{source} holds no {variant}/net.pth: give the checkpoint, or `joyhallo models pull {_SETS[variant]}`."
        )
    return source


def _companion(name: str, net: Path, variant: Variant) -> Path:
    beside = [folder / name for folder in (net.parent, net.parent.parent)]
    found = next((place for place in beside if place.is_file()), None) or hub.find(name)
    if found is None:
        raise CheckpointError(f"{name} is neither beside {net} nor fetched: `joyhallo models pull {_SETS[variant]}` brings it.")
    return found


def _write_networks(tensors: TensorFile, folder: Path, plan: _Plan) -> dict[str, object]:
    """Split the published tensors over our networks; returns the index entries."""
    keymap = KEYMAPS[plan.variant]
    moves: dict[str, list[_Move]] = {component: [] for component in NETWORKS}
    for name in tensors:
        target = keymap.to_ours(name)
        if target is not None:
            moves[target.component].append(_Move(name, target.name, target.shape(tensors.shape(name))))
    modules: dict[str, nn.Module] = {}
    for component, build in network_classes().items():
        with torch.device("meta"):
            modules[component] = build(**getattr(plan.preset, component))
        ours = modules[component].state_dict()
        needed = {keymap.to_published(component, name): tuple(value.shape) for name, value in ours.items()}
        check_fits(needed, {move.published: move.shape for move in moves[component]})
    return {
        component: _write_module(module, moves[component], tensors, folder / component, plan)
        for component, module in modules.items()
    }


def _write_module(module: nn.Module, moves: list[_Move], tensors: TensorFile, folder: Path, plan: _Plan) -> list[str]:
    """Write one component's config.json and tensors; returns its index entry (library, class)."""
    folder.mkdir()
    save_config = getattr(module, "save_config", None)
    if save_config is not None:
        save_config(folder)
    else:
        cast("PretrainedConfig", module.config).save_pretrained(folder)
    counter = _Counter(folder.name, plan.progress)
    entries = [
        TensorEntry(
            move.ours,
            move.shape,
            _stored(tensors.dtype(move.published), plan.dtype),
            _reader(tensors, move, plan.dtype, counter),
        )
        for move in moves
    ]
    counter.total_bytes = sum(entry.num_bytes for entry in entries)
    write_tensors(folder / (_TRANSFORMERS_FILE if save_config is None else _DIFFUSERS_FILE), entries)
    library = type(module).__module__
    return [library if library.startswith("joyhallo.") else library.partition(".")[0], type(module).__name__]


class _Counter:
    """Bytes of one component that were read so far."""

    def __init__(self, name: str, progress: OnFetch | None) -> None:
        self.name, self.progress, self.done_bytes, self.total_bytes = name, progress, 0, 0

    def add(self, num_bytes: int) -> None:
        self.done_bytes += num_bytes
        if self.progress is not None:
            self.progress(FetchProgress(self.name, self.done_bytes, self.total_bytes))


def _reader(tensors: TensorFile, move: _Move, dtype: torch.dtype | None, counter: _Counter) -> Callable[[], torch.Tensor]:
    def read() -> torch.Tensor:
        tensor = tensors[move.published].reshape(move.shape)
        tensor = tensor.to(_stored(tensor.dtype, dtype))
        counter.add(tensor.nbytes)
        return tensor

    return read


def _stored(found: torch.dtype, wanted: torch.dtype | None) -> torch.dtype:
    return wanted if wanted is not None and found.is_floating_point else found


def _write_vae(config: Path, weights: Path, folder: Path, plan: _Plan) -> list[str]:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    with torch.device("meta"):
        module = cast("nn.Module", AutoencoderKL.from_config(_read_json(config)))
    return _write_foreign(module, open_tensors(weights), today_name, folder, plan)


def _write_speech_encoder(config: Path, weights: Path, folder: Path, plan: _Plan) -> list[str]:
    """The encoder alone: the heads of the published files (transcription, pretraining) are left out."""
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    with torch.device("meta"):
        module = Wav2Vec2Model(Wav2Vec2Config.from_dict(_read_json(config)))
    tensors = open_tensors(weights)
    names = encoder_names(tensors)
    return _write_foreign(module, tensors, names.get, folder, plan)


def _write_foreign(
    module: nn.Module, tensors: TensorFile, rename: Callable[[str], str | None], folder: Path, plan: _Plan
) -> list[str]:
    named = ((name, rename(name)) for name in tensors)
    moves = [_Move(name, ours, tensors.shape(name)) for name, ours in named if ours is not None]
    check_fits({name: tuple(t.shape) for name, t in module.state_dict().items()}, {move.ours: move.shape for move in moves})
    return _write_module(module, moves, tensors, folder, plan)


def _write_scheduler(folder: Path) -> list[str]:
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    DDIMScheduler(**_SCHEDULER).save_config(folder)
    return ["diffusers", "DDIMScheduler"]


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: fetch it again.") from error
