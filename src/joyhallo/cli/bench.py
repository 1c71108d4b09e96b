"""`joyhallo bench`: what one clip costs on this machine, JoyHallo beside Hallo, part by part (the paper's Table 3)."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from joyhallo.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import nn

    from joyhallo.cli.bench_clip import ClipCost
    from joyhallo.presets import Sampling

_PUBLISHED = ("joyhallo", "hallo")
_SMALL = {"height": 128, "width": 128, "clip_length": 8}  # what a CPU is given unless it is asked for more


@dataclass(frozen=True)
class _Wish:
    """What was asked for."""

    size: str | None
    frames: int | None
    steps: int | None
    device: str
    dtype: str

    def arguments(self) -> list[str]:
        """The same wish on a command line."""
        return [part for name, value in vars(self).items() if value is not None for part in (f"--{name}", str(value))]


def bench(
    *,
    model: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    size: str | None = None,
    frames: int | None = None,
    steps: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Time and memory of one clip: 16 frames of 512x512 in 40 steps, part by part, JoyHallo beside Hallo.

    On a CPU the clip is 8 frames of 128x128 unless --size and --frames ask for more. Networks named joyhallo and hallo have the
    published sizes and random weights: time and memory do not depend on them.

    Parameters
    ----------
    model
        joyhallo, hallo, mini or folders of weights, beside each other; joyhallo and hallo when not given.
    size
        HEIGHTxWIDTH of the animated frame in pixels.
    frames
        Frames of a clip.
    steps
        Denoising steps of a clip; those that do not fit into 30 seconds count as equal to the measured ones.
    device
        auto, cpu, cuda, cuda:1 or mps.
    dtype
        auto, fp32, bf16 or fp16.
    as_json
        Print one JSON object on standard output instead of text.
    """
    models = model or list(_PUBLISHED)
    wish = _Wish(size, frames, steps, device, dtype)
    if len(models) == 1:
        found = _measure(models[0], wish)
    else:
        _check(wish)
        found = {}
        for name in models:  # a process each: the memory of one is not that of the other
            print(f"measuring {name}", file=sys.stderr, flush=True)
            command = [sys.executable, "-m", "joyhallo", "bench", "--model", name, "--json", *wish.arguments()]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                return done.returncode  # it has said why
            answer = json.loads(done.stdout)
            found = {**answer, "models": [*found.get("models", []), *answer["models"]]}
    print(json.dumps(found) if as_json else describe(found))
    return 0


def _check(wish: _Wish) -> None:
    """Raise UserError for what no model could be measured with, before any is loaded."""
    from joyhallo.device import choose_device, choose_dtype

    choose_dtype(wish.dtype, choose_device(wish.device))
    for name, value in (("--frames", wish.frames), ("--steps", wish.steps)):
        if value is not None and value < 1:
            raise UserError(f"{name} {value} is too few: give 1 or more.")
    if wish.size is not None:
        height, _, width = wish.size.partition("x")
        if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
            raise UserError(f"--size {wish.size!r} is no size: give HEIGHTxWIDTH in pixels, like 512x512.")


def _measure(model: str, wish: _Wish) -> dict[str, Any]:
    """Where it ran, and the costs of one model, as plain values."""
    import torch

    from joyhallo.cli.bench_clip import measure
    from joyhallo.device import choose_device, choose_dtype, dtype_name
    from joyhallo.models.kernels import choose_linear_kernel

    _check(wish)
    place = choose_device(wish.device)
    numbers = choose_dtype(wish.dtype, place).value
    where = f"{torch.cuda.get_device_name(place) if place.type == 'cuda' else place.type}, {dtype_name(numbers)}"
    if place.type == "cpu":
        where += f", {torch.get_num_threads()} threads, linear layers by {choose_linear_kernel().name}"
    networks, sampling = _load(model, place, numbers)
    is_small = place.type == "cpu" and model in _PUBLISHED and wish.size is None
    sampling = _adjust(replace(sampling, **_SMALL) if is_small else sampling, networks["vae"], wish)
    cost = measure(networks, sampling, model, "random" if model in _PUBLISHED else "loaded")
    derived = {name: getattr(cost, name) for name in ("clip_s", "num_guided_steps", "step_gflop", "share_of_peak")}
    return {"device": where, "is_reduced": is_small, "models": [{**asdict(cost), **derived}]}


def _adjust(sampling: Sampling, vae: nn.Module, wish: _Wish) -> Sampling:
    from joyhallo.models.latents import downscale_factor

    if wish.size is not None:
        height, _, width = wish.size.partition("x")
        factor = downscale_factor(vae)
        if int(height) % factor or int(width) % factor:
            raise UserError(f"--size {wish.size} is not divisible by {factor}, as these weights need: give another size.")
        sampling = replace(sampling, height=int(height), width=int(width))
    return replace(sampling, clip_length=wish.frames or sampling.clip_length, num_steps=wish.steps or sampling.num_steps)


def _load(model: str, device: torch.device, dtype: torch.dtype) -> tuple[dict[str, Any], Sampling]:
    from torch import nn

    from joyhallo import presets
    from joyhallo.cli.bench_networks import draw_networks
    from joyhallo.weights.pipeline_folder import load_components

    if model in _PUBLISHED:
        preset = getattr(presets, model)()
        return draw_networks(preset, device, dtype), preset.sampling
    components = load_components(model, dtype)
    modules = {name: part for name, part in components.items() if isinstance(part, nn.Module)}
    sampling = presets.Sampling.from_config(components["sampling"])
    return {name: nn.Module.to(part, device) for name, part in modules.items()}, sampling


def describe(found: dict[str, Any]) -> str:
    """The table: a column for each model, and with two their ratio."""
    from joyhallo.cli.bench_clip import PRODUCT_SIDE, ClipCost

    fields = ClipCost.__dataclass_fields__
    costs = [ClipCost(**{name: value for name, value in plain.items() if name in fields}) for plain in found["models"]]
    lines = [f"{_shape(cost)}; {cost.model}: {_weights(cost)}" for cost in costs]
    if len({_shape(cost) for cost in costs}) == 1:
        lines = [_shape(costs[0]), *(f"{cost.model}: {_weights(cost)}" for cost in costs)]
    if found["is_reduced"]:
        lines.append("made small for a CPU; the paper's clip: --size 512x512 --frames 16")
    lines += [f"on {found['device']}", ""]
    names = [cost.model for cost in costs]
    heading = [*names, f"{names[1]} / {names[0]}"] if len(costs) == 2 else names
    width = max(14, *(len(name) + 2 for name in heading))
    lines.append(" " * 40 + "".join(name.rjust(width) for name in heading))
    lines += [_row(title, values, width) for title, values in _rows(costs)]
    measured = ", ".join(str(cost.num_measured_steps) for cost in costs)
    lines += [
        "",
        f"{measured} of {costs[0].num_steps} steps measured, the median counts; peak: a {PRODUCT_SIDE}³ matrix product",
    ]
    return "\n".join(lines)


def _shape(cost: ClipCost) -> str:
    guided = "guided" if cost.num_guided_steps == cost.num_steps else f"{cost.num_guided_steps or 'none'} of them guided"
    return f"{cost.frames} frames of {cost.height}x{cost.width}, {cost.num_steps} steps, {guided}"


def _weights(cost: ClipCost) -> str:
    return "random weights, on which time and memory do not depend" if cost.weights == "random" else "its own weights"


def _rows(costs: Sequence[ClipCost]) -> list[tuple[str, list[float]]]:
    """Titles and a number for each model."""
    rows: list[tuple[str, list[float]]] = [(f"{name}, s", [c.parts_s[name] for c in costs]) for name in costs[0].parts_s]
    rows.append(("one step, s", [c.step_s for c in costs]))
    if any(c.num_guided_steps < c.num_steps for c in costs):
        rows.append(("one step without guidance, s", [c.plain_step_s for c in costs]))
    for name in costs[0].step_parts_s:
        rows.append((f"  {name}, ms", [1000 * c.step_parts_s[name] for c in costs]))
    return [
        *rows,
        ("whole clip, s", [c.clip_s for c in costs]),
        ("a second of video, s", [c.clip_s * c.fps / c.frames for c in costs]),
        ("arithmetic of a step, TFLOP", [c.step_gflop / 1e3 for c in costs]),
        *((f"  {name}", [c.step_parts_gflop[name] / 1e3 for c in costs]) for name in costs[0].step_parts_gflop),
        ("arithmetic rate, TFLOP/s", [c.step_gflop / c.step_s / 1e3 for c in costs]),
        ("measured peak, TFLOP/s", [c.product_gflop_per_s / 1e3 for c in costs]),
        ("share of the peak, %", [100 * c.share_of_peak for c in costs]),
        ("memory at most, GB", [c.memory_gb for c in costs]),
        ("weights, GB", [c.weights_gb for c in costs]),
    ]


def _row(title: str, values: Sequence[float], width: int) -> str:
    cells = [_number(value) for value in values]
    if len(values) == 2:
        cells.append(f"{values[1] / values[0]:.2f}" if values[0] else "–")
    return title.ljust(40) + "".join(cell.rjust(width) for cell in cells)


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.4g}" if value >= 1 else f"{value:.3f}"
