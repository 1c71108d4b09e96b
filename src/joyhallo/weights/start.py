"""What training starts from: networks that know nothing, those of a pipeline's folder, or Stable Diffusion 1.5.

Stable Diffusion 1.5 fills both networks, AnimateDiff's motion weights the motion modules; the names in both files are the
published ones without their prefix. What has no weights yet (speech, face tokens, the face's place) begins so that the networks
compute what Stable Diffusion computes: every path of it ends in zeros.

Memory: the networks, and one tensor at a time of the files (9.1 GB at most for the full size, whose weights are 8.8 GB).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from joyhallo.errors import UserError
from joyhallo.models.networks import Networks, build_networks
from joyhallo.presets import Preset
from joyhallo.sampling.schedule import training_schedule
from joyhallo.weights.checkpoint import CheckpointError, check_fits, put_tensor
from joyhallo.weights.companions import load_companions
from joyhallo.weights.keymaps import KEYMAPS, KeyMap, Target
from joyhallo.weights.pipeline_folder import INDEX, load_components
from joyhallo.weights.tensor_files import open_tensors

NOTHING = "none"
SD15 = "stable-diffusion-v1-5"
MOTION = "mm_sd_v15_v2.ckpt"
_UNET = tuple(f"unet/diffusion_pytorch_model{end}" for end in (".safetensors", ".fp16.safetensors", ".bin"))
_NEW = ("face_projector.", "audio_projector.", "face_locator.", ".audio.")  # no other weights have these
_ZERO = (".audio.branches.", ".audio.proj_out.", "face_locator.conv_out.")
_ONLY_DENOISING = ("conv_norm_out.", "conv_out.")  # the reference network's output is never a picture


@dataclass(frozen=True, eq=False)
class Start:
    """Networks to train, in float32 on the CPU, and one line about where they come from."""

    networks: Networks
    report: str
    companions: Mapping[str, Any]  # the other arguments of a `JoyHalloPipeline`: autoencoder, speech encoder, scheduler, …

    @property
    def components(self) -> dict[str, Any]:
        """All arguments of a `JoyHalloPipeline`."""
        return {**self.companions, **self.networks.modules()}


def start_networks(preset: Preset, init: str | Path, seed: int = 42) -> Start:
    """Build or load what a run starts from, and what stands beside it in a pipeline.

    Args:
        preset: the networks' configuration; that of a pipeline's folder wins.
        init: "none" (drawn from the seed, with the encoders of mini), "mini", a pipeline's folder (converted, or of a
            finished run), a hub id, or a folder of Stable Diffusion 1.5 with AnimateDiff's motion weights in or beside it.

    Raises:
        UserError: no such weights, or weights of another size.
    """
    if str(init) == NOTHING:
        return _from_nothing(preset, seed)
    folder = Path(init).expanduser()
    if folder.is_file():
        raise UserError(f"{folder} is a file: convert it first (`joyhallo models convert`) and give the folder")
    if is_stable_diffusion(folder):
        return _from_stable_diffusion(preset, folder, seed)
    components = load_components(init, torch.float32)
    networks = Networks(**{name: components.pop(name) for name in Networks.__dataclass_fields__})
    return Start(networks, f"all networks from {init}", components)


def is_stable_diffusion(folder: Path) -> bool:
    """Whether a folder holds Stable Diffusion's U-Net and is no pipeline of ours."""
    index = folder / INDEX  # Stable Diffusion has one too
    is_ours = index.is_file() and "denoising_network" in index.read_text(encoding="utf-8")
    return _find_unet(folder) is not None and not is_ours


def _find_unet(folder: Path) -> Path | None:
    places = [base / name for base in (folder, folder / SD15) for name in _UNET]
    return next((place for place in places if place.is_file()), None)


def find_motion(folder: Path) -> Path:
    """AnimateDiff's motion weights in or beside a folder of Stable Diffusion.

    Raises:
        CheckpointError: they are not there.
    """
    bases = (folder, folder.resolve().parent)
    places = [base / inner / MOTION for base in bases for inner in ("", "motion_module", "animatediff")]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise CheckpointError(f"{folder} has no {MOTION} in or beside it: put AnimateDiff's motion weights there")
    return found


def _from_nothing(preset: Preset, seed: int) -> Start:
    components = load_components("mini", torch.float32)
    companions = {name: part for name, part in components.items() if name not in Networks.__dataclass_fields__}
    theirs, wanted = companions["vae"].config["latent_channels"], preset.denoising_network.get("out_channels", 4)
    if theirs != wanted:
        raise UserError(
            f"networks with {wanted} latent channels are not trained from nothing (mini's autoencoder has {theirs}): "
            "give --init a folder of Stable Diffusion 1.5"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        networks = build_networks(preset)
    lay_out(networks)
    companions |= {"scheduler": training_schedule(), "sampling": preset.sampling}
    return Start(networks, f"networks drawn from seed {seed}", companions)


def lay_out(networks: Networks) -> None:
    """Keep the weights of convolutions as the networks keep their hidden states (see `models.blocks`)."""
    for module in networks.modules().values():
        network: Any = module  # torch declares no such argument
        network.to(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Filling:
    """Which tensor of which file fills one of ours."""

    file: str  # "unet" or "motion"
    name: str
    target: Target


@dataclass(frozen=True)
class Plan:
    """Where every tensor of the networks comes from, by `component.name`."""

    filled: Mapping[str, Filling]
    drawn: tuple[str, ...]  # new, drawn as their layers begin
    zero: tuple[str, ...]  # new, zeros
    unused: tuple[str, ...]  # of the motion weights: modules of levels without attention, which never run


Shapes = Mapping[str, tuple[int, ...]]


def plan_start(networks: Networks, unet: Shapes, motion: Shapes) -> Plan:
    """Decide where every tensor comes from; none of the networks' and none of the files' is left over silently.

    Raises:
        CheckpointError: a tensor that is missing, unknown or misshapen.
    """
    keymap = KEYMAPS["joyhallo"]  # both variants have the same names but those that are new
    filled: dict[str, Filling] = {}
    found: dict[str, tuple[int, ...]] = {}
    unused = []
    for name, shape in (*_in_both(unet), *_in_motion(motion)):
        target = _target(keymap, name)
        source = name.partition(".")[2]
        if target is None:
            unused.append(source)
            continue
        ours = f"{target.component}.{target.name}"
        filled[ours] = Filling("motion" if source in motion else "unet", source, target)
        found[ours] = target.shape(shape)
    needed = {
        f"{component}.{name}": tuple(tensor.shape)
        for component, module in networks.modules().items()
        for name, tensor in module.state_dict(keep_vars=True).items()
    }
    new = [name for name in needed if any(part in name for part in _NEW)]
    check_fits({name: shape for name, shape in needed.items() if name not in new}, found)
    zero = [name for name in new if any(part in name for part in _ZERO)]
    return Plan(filled, tuple(sorted(set(new) - set(zero))), tuple(zero), tuple(unused))


def _in_both(unet: Shapes) -> list[tuple[str, tuple[int, ...]]]:
    """The tensors of a U-Net under the published names, for both networks."""
    reference = [(f"reference_unet.{n}", shape) for n, shape in unet.items() if not n.startswith(_ONLY_DENOISING)]
    return reference + [(f"denoising_unet.{n}", shape) for n, shape in unet.items()]


def _in_motion(motion: Shapes) -> list[tuple[str, tuple[int, ...]]]:
    return [(f"denoising_unet.{name}", shape) for name, shape in motion.items()]


def _target(keymap: KeyMap, name: str) -> Target | None:
    try:
        return keymap.to_ours(name)
    except UserError as error:
        raise CheckpointError(
            f"tensor {name.partition('.')[2]!r} is not of Stable Diffusion 1.5 or {MOTION}: give those files"
        ) from error


class _Source:
    """An opened file under the published names: older motion weights carry the prefix `module.`."""

    def __init__(self, path: Path) -> None:
        self.path, self.tensors = path, open_tensors(path)
        self.names = {name.removeprefix("module."): name for name in self.tensors}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: self.tensors.shape(stored) for name, stored in self.names.items()}

    def read(self, name: str) -> Tensor:
        return self.tensors[self.names[name]]


def _from_stable_diffusion(preset: Preset, folder: Path, seed: int) -> Start:
    unet_path = _find_unet(folder)
    assert unet_path is not None
    files = {"unet": _Source(unet_path), "motion": _Source(find_motion(folder))}
    with torch.device("meta"):
        networks = build_networks(preset)
    try:
        plan = plan_start(networks, files["unet"].shapes(), files["motion"].shapes())
    except CheckpointError as error:
        raise CheckpointError(f"{folder} does not fill these networks: {error}") from error
    draw_new(networks, plan, seed)
    modules = networks.modules()
    for filling in plan.filled.values():
        tensor = filling.target.from_published(files[filling.file].read(filling.name))
        # a copy: both networks train, and neither shares the file's memory
        put_tensor(modules[filling.target.component], filling.target.name, tensor.to(torch.float32, copy=True))
    lay_out(networks)
    companions = load_companions(folder) | {"scheduler": training_schedule(), "sampling": preset.sampling}
    return Start(networks, describe(plan, files["unet"].path, files["motion"].path), companions)


@torch.no_grad()
def draw_new(networks: Networks, plan: Plan, seed: int) -> None:
    """Make the new layers of networks on the meta device real, as their layers begin, those of `plan.zero` with zeros."""
    new = {*plan.drawn, *plan.zero}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for component, module in networks.modules().items():
            for path, layer in module.named_modules():
                names = {f"{component}.{path}.{name}" for name, _ in layer.named_parameters(recurse=False)}
                if not names & new:
                    continue
                reset: Any = getattr(layer, "reset_parameters", None)
                assert names <= new, f"{component}.{path} is new in part"
                assert reset is not None, f"{component}.{path} cannot be drawn alone"
                layer.to_empty(device="cpu", recurse=False)
                reset()
                if names <= set(plan.zero):
                    for parameter in layer.parameters(recurse=False):
                        parameter.zero_()


def describe(plan: Plan, unet: Path, motion: Path) -> str:
    """One line: what was filled from where, what is new, what was left out."""
    count = {file: sum(filling.file == file for filling in plan.filled.values()) for file in ("unet", "motion")}
    return (
        f"{count['unet']} tensors from {unet}, {count['motion']} from {motion.name} ({len(plan.unused)} of its modules that "
        f"never run left out), {len(plan.drawn)} new for speech and face, {len(plan.zero)} of them end in zeros"
    )
