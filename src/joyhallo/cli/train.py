"""`joyhallo train`: datasets become weights."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

from joyhallo.cli import EXIT_INTERRUPTED
from joyhallo.cli.progress import Bar, shown, time_left
from joyhallo.errors import UserError

if TYPE_CHECKING:
    from joyhallo.training.loop import StepReport
    from joyhallo.training.request import Outcome, TrainRequest

_RECIPE, _LORA, _RUN = Group("Recipe", sort_key=1), Group("Adapters", sort_key=2), Group("Running", sort_key=3)
_LINE_EVERY = 25  # steps, where there is no terminal


@Parameter(name="*", group=_RECIPE)
@dataclass(frozen=True)
class Choice:
    """What is trained."""

    recipe: str | None = None
    "mini, published or smoke (a few steps, to see that everything runs); mini by default."
    init: str | None = None
    "Weights to start from: mini, none, a folder of a run, of a converted checkpoint or of Stable Diffusion 1.5."
    encoders: Path | None = None
    "Folder with other encoders: some of vae, speech_encoder, identity_encoder, lip_reader."
    set: Annotated[list[str], Parameter(name="--set", consume_multiple=True, negative="")] | None = None
    "Change numbers of the recipe: objective.noise_offset=0.1 schedule.num_steps=500 and so on."
    resume: Annotated[bool, Parameter(negative="")] = False
    "Go on with the run in the folder, from its last checkpoint, as if it had never stopped."


@Parameter(name="*", group=_LORA)
@dataclass(frozen=True)
class Lora:
    """Fine-tuning on one speaker."""

    lora: Annotated[bool, Parameter(negative="")] = False
    "Train low-rank adapters and nothing else; they become lora.safetensors in the folder."
    lora_rank: int = 16
    "Their rank."
    lora_alpha: float | None = None
    "Their scale times the rank; the rank by default."
    lora_targets: Annotated[list[str], Parameter(consume_multiple=True, negative="")] | None = None
    "Which layers are adapted, by a part of their path: to_q, audio, motion.ff …; all of attention by default."


@Parameter(name="*", group=_RUN)
@dataclass(frozen=True)
class Running:
    """Where and how it runs."""

    device: str = "auto"
    "auto, cpu, cuda or mps; under torchrun every process takes its own GPU."
    dtype: str = "auto"
    "What is computed in: auto, bf16 or fp32. Weights and their averages are always fp32."
    spread: Literal["ddp", "fsdp"] = "ddp"
    "Several processes: the whole weights on each (ddp), or a part of them (fsdp)."


def train(
    stage: Literal["stage1", "stage2"],
    /,
    *,
    data: Annotated[list[Path], Parameter(name=["--data", "-d"], consume_multiple=True, negative="")],
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    choice: Choice = Choice(),
    lora: Lora = Lora(),
    running: Running = Running(),
) -> int:
    """Train the networks: stage1 on single pictures, stage2 on clips.

    The folder then holds a pipeline that `joyhallo animate --model FOLDER` takes, and in `training/` the recipe, the losses
    and the checkpoints. Several GPUs: torchrun --nproc_per_node 8 -m joyhallo train … . Ctrl-C saves and stops; the same
    command with --resume goes on.

    Parameters
    ----------
    stage
        stage1 (single pictures: the person) or stage2 (clips: speech and motion).
    data
        Datasets: folders made by `joyhallo data prepare`, `synth` or `import`.
    output
        The folder of the run.
    """
    request = _request(stage, tuple(data), output, choice, lora, running)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("joyhallo").setLevel(logging.INFO)
    from joyhallo.training.run import train as run

    with shown(_bar, _line) as show:
        outcome = run(request, show)
    if outcome.is_first:
        _say(outcome)
    return 0 if outcome.is_finished else EXIT_INTERRUPTED


def _say(outcome: Outcome) -> None:
    if outcome.is_finished:
        print(f"{outcome.folder}: {outcome.step} steps done; try them: joyhallo animate … --model {outcome.folder}")
    else:
        where = f"stopped after step {outcome.step} of {outcome.num_steps}"
        print(f"{where}; the same command with --resume goes on", file=sys.stderr)


def _request(stage: str, data: tuple[Path, ...], output: Path, choice: Choice, lora: Lora, running: Running) -> TrainRequest:
    from joyhallo.training.adapters import Adapters
    from joyhallo.training.overrides import with_changes
    from joyhallo.training.recipes import find_recipe
    from joyhallo.training.request import TrainRequest
    from joyhallo.training.run_folder import RunFolder

    changes = choice.set or []
    if choice.resume and choice.recipe is None:
        recipe = RunFolder(output).read()[0]
    else:
        recipe = find_recipe(choice.recipe or "mini", stage)
    if recipe.stage != stage:
        raise UserError(f"the run in {output} is of {recipe.stage}, not {stage}: give the same stage, or another folder")
    adapters = None
    if lora.lora:
        given = {"targets": tuple(lora.lora_targets)} if lora.lora_targets else {}
        adapters = Adapters(lora.lora_rank, lora.lora_alpha, **given)
    return TrainRequest(
        recipe=with_changes(recipe, changes),
        data=data,
        output=output,
        init=choice.init,
        encoders=choice.encoders,
        is_resumed=choice.resume,
        device=running.device,
        dtype=running.dtype,
        spread=running.spread,
        adapters=adapters,
    )


def _bar(report: StepReport) -> Bar:
    return Bar(f"step {report.step}/{report.num_steps}", report.step, report.num_steps, _text(report))


def _line(report: StepReport) -> str | None:
    """Now and then."""
    is_said = report.step % _LINE_EVERY == 0 or report.step in (1, report.num_steps)
    return f"step {report.step}/{report.num_steps}: {_text(report)}" if is_said else None


def _text(report: StepReport) -> str:
    memory = f", {report.memory_bytes / 2**30:.1f} GiB" if report.memory_bytes else ""
    rate = f"{report.samples_per_s:.2f} samples/s, {report.frames_per_s:.1f} frames/s"
    return f"loss {report.loss:.4f}, {rate}{memory}{time_left(report.left_s)}"
