"""What a run starts from: weights in a folder, or networks that know nothing yet with encoders that do."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from joyhallo.errors import UserError
from joyhallo.models.networks import Networks, build_networks
from joyhallo.pipeline import JoyHalloPipeline
from joyhallo.sampling.schedule import training_schedule
from joyhallo.training.recipes import Recipe, preset_of
from joyhallo.weights.pipeline_folder import load_components

NOTHING = "none"


@dataclass(frozen=True)
class Start:
    """The pipeline that will be trained, in float32, on the training's device."""

    pipe: JoyHalloPipeline
    networks: Networks


def load_start(recipe: Recipe, init: str, device: torch.device) -> Start:
    """Build or load what a run starts from.

    `init`: "mini", a folder of a pipeline (of a finished run, or converted), or "none": untrained networks of the recipe's
    preset, with the encoders of mini.

    Raises:
        UserError: no such weights, or a recipe that has to be given some.
    """
    if not init:
        raise UserError(
            f"the {recipe.name} recipe does not start from nothing: give --init a folder of Stable Diffusion 1.5, of a "
            "converted checkpoint, or of a finished run"
        )
    components = untrained(recipe) if init == NOTHING else load_components(init, torch.float32)
    pipe = JoyHalloPipeline(**components)
    names = Networks.__dataclass_fields__
    networks = Networks(**{name: components[name] for name in names})
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            nn.Module.to(part, device).requires_grad_(False).eval()
    for network in (networks.reference_network, networks.denoising_network):
        network.register_to_config(row_order=recipe.row_order)
    return Start(pipe, networks)


def untrained(recipe: Recipe) -> dict[str, Any]:
    """The components of a pipeline whose networks know nothing; the recipe's seed decides their first weights."""
    preset = preset_of(recipe.preset)
    if recipe.preset == "joyhallo":
        raise UserError("networks of this size are not trained from nothing: give --init a folder of Stable Diffusion 1.5")
    components = load_components("mini", torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        networks = build_networks(preset)
    for module in networks.modules().values():
        nn.Module.to(module, memory_format=torch.channels_last)
    return components | networks.modules() | {"scheduler": training_schedule(), "sampling": preset.sampling}
