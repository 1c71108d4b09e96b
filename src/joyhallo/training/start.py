"""What a run starts from, ready to be trained: every weight frozen, in float32, on the training's device."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from joyhallo.errors import UserError
from joyhallo.models.networks import Networks
from joyhallo.pipeline import JoyHalloPipeline
from joyhallo.training.recipes import Recipe, preset_of
from joyhallo.weights.pipeline_folder import load_component, read_json
from joyhallo.weights.start import start_networks

ENCODERS = ("vae", "speech_encoder", "identity_encoder", "lip_reader")


@dataclass(frozen=True)
class Start:
    """The pipeline that will be trained."""

    pipe: JoyHalloPipeline
    networks: Networks
    report: str  # where the weights come from


def load_start(recipe: Recipe, init: str, device: torch.device, encoders: Path | None = None) -> Start:
    """Build or load what a run starts from (see `weights.start.start_networks` for `init`).

    `encoders`: a folder with one or more of `vae`, `speech_encoder`, `identity_encoder` and `lip_reader`, which take the place
    of those that come with `init`. A recipe with a reading weight needs a lip reader.

    Raises:
        UserError: no such weights, or a recipe that has to be given some, or the lip reader.
    """
    if not init:
        raise UserError(
            f"the {recipe.name} recipe does not start from nothing: give --init a folder of Stable Diffusion 1.5, of a "
            "converted checkpoint, or of a finished run"
        )
    found = start_networks(preset_of(recipe.preset), init, recipe.seed)
    given = load_encoders(encoders) if encoders else {}
    wants_reader = recipe.objective.reading_weight or recipe.objective.closed_weight
    pipe = JoyHalloPipeline(**found.components | given)
    if wants_reader and pipe.lip_reader is None:
        raise UserError(
            "objective.reading_weight and closed_weight need a lip reader: give --encoders a folder with the "
            "lip_reader that `python -m joyhallo.training.lip_reader` makes, or set them to 0"
        )
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            nn.Module.to(part, device).requires_grad_(False).eval()
    for network in (found.networks.reference_network, found.networks.denoising_network):
        network.register_to_config(row_order=recipe.row_order)
    return Start(pipe, found.networks, found.report)


def load_encoders(folder: Path) -> dict[str, Any]:
    """The encoders in a folder, by component.

    Raises:
        UserError: there is none, or one that cannot be loaded.
    """
    found = {}
    for name in ENCODERS:
        if (folder / name).is_dir():
            kind = read_json(folder / name / "config.json").get("_class_name", "")
            found[name] = load_component(folder / name, str(kind), torch.float32)
    if not found:
        raise UserError(f"{folder} holds no encoders: give a folder with some of {', '.join(ENCODERS)} in it")
    return found
