"""What a run starts from, ready to be trained: every weight frozen, in float32, on the training's device."""

from dataclasses import dataclass

import torch
from torch import nn

from joyhallo.errors import UserError
from joyhallo.models.networks import Networks
from joyhallo.pipeline import JoyHalloPipeline
from joyhallo.training.recipes import Recipe, preset_of
from joyhallo.weights.start import start_networks


@dataclass(frozen=True)
class Start:
    """The pipeline that will be trained."""

    pipe: JoyHalloPipeline
    networks: Networks
    report: str  # where the weights come from


def load_start(recipe: Recipe, init: str, device: torch.device) -> Start:
    """Build or load what a run starts from (see `weights.start.start_networks` for `init`).

    Raises:
        UserError: no such weights, or a recipe that has to be given some.
    """
    if not init:
        raise UserError(
            f"the {recipe.name} recipe does not start from nothing: give --init a folder of Stable Diffusion 1.5, of a "
            "converted checkpoint, or of a finished run"
        )
    found = start_networks(preset_of(recipe.preset), init, recipe.seed)
    pipe = JoyHalloPipeline(**found.components)
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            nn.Module.to(part, device).requires_grad_(False).eval()
    for network in (found.networks.reference_network, found.networks.denoising_network):
        network.register_to_config(row_order=recipe.row_order)
    return Start(pipe, found.networks, found.report)
