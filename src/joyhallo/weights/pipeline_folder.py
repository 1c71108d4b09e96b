"""A pipeline's folder: one folder per component with its configuration and safetensors, and `model_index.json`."""

import difflib
import importlib
import inspect
import json
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import nn

from joyhallo.errors import UserError
from joyhallo.weights.checkpoint import CheckpointError, build_and_load, open_tensors
from joyhallo.weights.hub import bundled_folder

INDEX = "model_index.json"
OUR_CLASSES = {
    "ReferenceNetwork": "joyhallo.models.unet",
    "DenoisingNetwork": "joyhallo.models.unet",
    "FaceProjector": "joyhallo.models.projectors",
    "AudioProjector": "joyhallo.models.projectors",
    "FaceLocator": "joyhallo.models.face_locator",
    "PatchAutoencoder": "joyhallo.models.autoencoder",
    "MelSpeechNetwork": "joyhallo.models.speech_encoder",
    "IdentityNetwork": "joyhallo.models.identity_encoder",
    "LipReader": "joyhallo.models.lip_reader",
}
COMPONENTS = ("vae", "reference_network", "denoising_network", "face_projector", "audio_projector", "face_locator")
COMPONENTS += ("speech_encoder", "scheduler")
OPTIONAL_COMPONENTS = ("identity_encoder", "lip_reader")
FOREIGN_CLASSES = {"AutoencoderKL": "diffusers", "Wav2Vec2Model": "transformers"}


def find_folder(source: str | Path) -> Path:
    """The folder of "mini", of a path, or of a hub id (fetched).

    Raises:
        UserError: there is none.
    """
    if str(source) == "mini":
        return bundled_folder("mini")
    folder = Path(source).expanduser()
    if folder.is_dir():
        if not (folder / INDEX).is_file():
            raise UserError(
                f"{folder} has no {INDEX}: give a folder written by `joyhallo models convert` or by save_pretrained, or mini"
            )
        return folder
    if folder.exists() or len(folder.parts) != 2:
        raise UserError(f"there are no weights '{source}': give mini, a folder, or a hub id like owner/name")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return find_folder(snapshot_download(str(source)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"the weights '{source}' are no folder here and cannot be fetched from the hub: give mini, a folder, or a hub id "
            f"that exists ({type(error).__name__}: {reason})"
        ) from error


def weights_stamp(folder: Path) -> dict[str, list[int]]:
    """Size and time of every file of the weights and their settings: enough to notice others without reading gigabytes."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".safetensors", ".json"))
    return {path.relative_to(folder).as_posix(): [path.stat().st_size, path.stat().st_mtime_ns] for path in files}


def load_components(source: str | Path, dtype: torch.dtype) -> dict[str, Any]:
    """The arguments of `JoyHalloPipeline`: its components, loaded strictly, and its sampling fields.

    Raises:
        UserError: no such weights, an unknown class or option, a tensor that is missing, unknown or misshapen.
    """
    folder = find_folder(source)
    index = read_json(folder / INDEX)
    arguments: dict[str, Any] = {"sampling": index.pop("sampling", {})}
    for name, value in index.items():
        if name.startswith("_") or value == [None, None]:
            continue
        if name not in (*COMPONENTS, *OPTIONAL_COMPONENTS) or not (isinstance(value, list) and len(value) == 2):
            raise UserError(f"{folder / INDEX}: {name!r} is no component: fetch or convert the weights again")
        if name == "scheduler":
            arguments[name] = load_scheduler(folder / name, value[1])
        else:
            arguments[name] = load_component(folder / name, value[1], _dtype_of(value[1], dtype))
    missing = [name for name in COMPONENTS if name not in arguments]
    if missing:
        raise CheckpointError(f"{folder / INDEX} names no {', no '.join(missing)}: fetch or convert the weights again")
    return arguments


def _dtype_of(class_name: str, dtype: torch.dtype) -> torch.dtype:
    """A component's element type: a lip reader measures fractions of a pixel and is small, so it stays float32 beside bf16."""
    return torch.float32 if class_name == "LipReader" and dtype == torch.bfloat16 else dtype


def load_scheduler(folder: Path, class_name: str) -> Any:  # noqa: ANN401
    """Any of diffusers' schedulers."""
    kind: Any = getattr(importlib.import_module("diffusers"), class_name, None)
    if not (isinstance(kind, type) and issubclass(kind, SchedulerMixin)):
        raise UserError(f"{folder}: diffusers has no scheduler {class_name!r}: use one of its own, like DDIMScheduler")
    config = read_json(folder / "scheduler_config.json")
    options = {name: value for name, value in config.items() if not name.startswith("_")}
    if config.get("_class_name") == class_name and options.keys() <= inspect.signature(kind.__init__).parameters.keys():
        return kind(**options)
    # The settings of another scheduler: to translate them diffusers loads all that it has, and SciPy, which takes seconds.
    return cast("Any", kind).from_config(config)


def check_config(config: dict[str, Any], kind: type, path: Path) -> None:
    """An option that the class does not have would be ignored without a word."""
    written_for = config.get("_class_name", kind.__name__)
    if written_for != kind.__name__:
        raise CheckpointError(f"{path} is of {written_for}, but {kind.__name__} is needed: fetch or convert the weights again")
    known = list(inspect.signature(kind.__init__).parameters)[1:]
    for name in config:
        if name not in known and not name.startswith("_"):
            nearest = (*difflib.get_close_matches(name, known, n=1), *known)[0]
            raise CheckpointError(f"{path}: option {name!r} is not known to {kind.__name__}; the nearest is {nearest!r}")


def load_component(folder: Path, class_name: str, dtype: torch.dtype) -> nn.Module:
    """One network, strictly, in evaluation mode and without gradients."""
    module_name = OUR_CLASSES.get(class_name) or FOREIGN_CLASSES.get(class_name)
    if module_name is None:
        raise UserError(f"{folder}: the class {class_name!r} is not known: these weights need a newer version, or are not ours")
    kind = getattr(importlib.import_module(module_name), class_name)
    config = read_json(folder / "config.json")
    config.pop("_name_or_path", None)  # where somebody once loaded it from; it would be saved again
    if class_name in OUR_CLASSES:
        check_config(config, kind, folder / "config.json")
    files = [path for path in sorted(folder.glob("*.safetensors")) if not path.name.startswith(".")]
    if len(files) != 1:
        raise CheckpointError(f"{folder} holds {len(files)} safetensors files, needed 1: fetch or convert the weights again")
    if module_name == "transformers":
        from transformers import Wav2Vec2Config

        network = build_and_load(lambda: kind(Wav2Vec2Config.from_dict(config)), open_tensors(files[0]), dtype=dtype)
    else:
        network = build_and_load(lambda: kind.from_config(config), open_tensors(files[0]), dtype=dtype)
    network = network.eval().requires_grad_(False)
    if class_name == "Wav2Vec2Model":
        return network
    move: Any = nn.Module.to  # not the network's own: that of diffusers loads PyTorch's compiler
    return move(network, memory_format=torch.channels_last)


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: fetch or convert the weights again") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: fetch or convert the weights again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no table of names: fetch or convert the weights again")
    return content
