"""A whole run: from a recipe, datasets and weights to start from, to a folder that speaks."""

import hashlib
import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from joyhallo.data.batches import Batches, Fit
from joyhallo.data.dataset import Dataset, open_datasets
from joyhallo.data.index import INDEX_NAME
from joyhallo.data.picking import Picker
from joyhallo.device import DTYPES, dtype_name
from joyhallo.errors import UserError
from joyhallo.training.adapters import Adapters, adapt, write_adapters
from joyhallo.training.distributed import Processes, Spread, join, spread_over
from joyhallo.training.loop import Loop, StepReport, Work
from joyhallo.training.optimizers import available_optimizer, build_optimizer
from joyhallo.training.overrides import recipe_text
from joyhallo.training.recipes import Recipe
from joyhallo.training.run_folder import RunFolder
from joyhallo.training.sources import latent_side, latent_source, speech_source
from joyhallo.training.stages import draw, toss
from joyhallo.training.start import Start, load_start
from joyhallo.training.state import TrainingState, checkpoints
from joyhallo.training.trainee import Trainee, finished_weights, freeze

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainRequest:
    """What to train, on what, and where."""

    recipe: Recipe | None  # None: that of the run that goes on
    data: tuple[Path, ...]
    output: Path
    init: str | None = None  # None: what the recipe starts from
    is_resumed: bool = False
    device: str = "auto"
    dtype: str = "auto"
    spread: Spread = "ddp"
    adapters: Adapters | None = None


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    step: int
    num_steps: int
    folder: Path

    @property
    def is_finished(self) -> bool:
        return self.step >= self.num_steps


def train(request: TrainRequest, show: Callable[[StepReport], None]) -> Outcome:
    """Train until the recipe's last step, or until a signal asks to stop; either way the folder is left complete.

    Raises:
        UserError: whatever does not fit: data, weights, recipe, device, an interrupted run.
    """
    processes = join(request.device, request.spread)
    try:
        if not processes.is_first:
            logging.getLogger("joyhallo").setLevel(logging.ERROR)  # the first process speaks for all
        return _train(request, processes, show)
    finally:
        processes.leave()


def _train(request: TrainRequest, processes: Processes, show: Callable[[StepReport], None]) -> Outcome:
    folder = RunFolder(request.output)
    recipe, init = settle(request, folder, processes)
    dtype = training_dtype(request.dtype, processes.device)
    dataset = open_datasets(request.data)
    start = load_start(recipe, init, processes.device)
    run = build(recipe, dataset, start, folder, Compute(processes, dtype), request.adapters)
    if processes.is_first:
        if not request.is_resumed:
            folder.begin(recipe_text(recipe), origin(request, init))
        logger.info("%s", summary(recipe, run, processes, dtype))
    loop = Loop(run.work, run.spread, run.state, recipe.schedule, processes, dtype)
    if request.is_resumed and run.state.resume(folder.checkpoints, processes):
        logger.info("going on after step %d", run.state.step)
    if processes.is_first:
        folder.forget_after(run.state.step)
    with stopped_by_signals(loop):
        for report in loop:
            if processes.is_first:
                folder.note(report)
                show(report)
            if report.step % recipe.saving.every_steps == 0 and report.step < recipe.schedule.num_steps:
                run.state.save(folder.checkpoints, recipe.saving.keep, processes)
    run.finish(folder, recipe)
    return Outcome(run.state.step, recipe.schedule.num_steps, request.output)


def settle(request: TrainRequest, folder: RunFolder, processes: Processes) -> tuple[Recipe, str]:
    """The recipe of the run and what it starts from, checked against the run that goes on, if one does."""
    if request.is_resumed:
        theirs, began = folder.read()
        recipe, init = request.recipe or theirs, request.init or began["init"]
    else:
        assert request.recipe is not None
        recipe, init = request.recipe, request.init or request.recipe.init
    schedule = replace(recipe.schedule, optimizer=available_optimizer(recipe.schedule, processes))
    recipe = replace(recipe, schedule=schedule)
    if request.is_resumed:
        folder.require_same(recipe, origin(request, init))
    else:
        folder.require_new()
    processes.wait()
    return recipe, init


def origin(request: TrainRequest, init: str) -> dict[str, Any]:
    """What a run must find again to go on: its data, by their content, and its start."""
    data = []
    for path in request.data:
        index = path / INDEX_NAME
        data.append(hashlib.sha256(index.read_bytes()).hexdigest()[:16] if index.is_file() else str(path))
    return {"data": data, "init": init, "adapters": request.adapters and request.adapters.text}


@dataclass(frozen=True)
class Built:
    """The parts of a run, put together."""

    start: Start
    trainee: Trainee
    spread: torch.nn.Module
    state: TrainingState
    work: Work
    picker: Picker
    processes: Processes
    adapters: Adapters | None

    def finish(self, folder: RunFolder, recipe: Recipe) -> None:
        """Write the last checkpoint and the pipeline."""
        done = checkpoints(folder.checkpoints)
        if not done or not done[-1].name.endswith(f"{self.state.step:08d}"):
            self.state.save(folder.checkpoints, recipe.saving.keep, self.processes)
        trained = self.state.handed_out()
        weights = finished_weights(self.start.networks, trained, self.processes.is_first)
        if self.processes.is_first:
            folder.write_pipeline(self.start.pipe, weights, DTYPES[recipe.saving.dtype])
            if self.adapters is not None:
                write_adapters(folder.root, self.start.networks, trained)
        self.processes.wait()


@dataclass(frozen=True)
class Compute:
    """Where and in which numbers a run computes."""

    processes: Processes
    dtype: torch.dtype


def build(
    recipe: Recipe, dataset: Dataset, start: Start, folder: RunFolder, compute: Compute, adapters: Adapters | None
) -> Built:
    """Put the parts of a run together.

    Raises:
        UserError: the data is not what the networks take.
    """
    networks, processes, device = start.networks, compute.processes, compute.processes.device
    freeze(networks, recipe)
    if adapters is not None:
        adapt(networks, adapters, recipe, processes)
    trainee = Trainee(networks, recipe, uses_all=processes.is_sharded)
    spread = spread_over(trainee, processes, compute.dtype)
    optimizer = build_optimizer(trainee.trained().values(), recipe.schedule, device)
    state = TrainingState(trainee.trained(), optimizer, recipe.schedule.ema_decay)
    picker = Picker(dataset.facts, recipe.drawing, recipe.seed)
    check_fits(dataset, start, picker)
    speech = None
    if recipe.drawing.hears:
        speech = speech_source(dataset, picker.usable, start.pipe.speech_encoder, folder.training / "speech", processes)
    side = latent_side(start.pipe.vae, dataset.index.size_px)
    depths = len(networks.denoising_network.config["widths"])
    fit = Fit(start.pipe.latent_space, (side, side), depths)
    latents = latent_source(dataset, start.pipe.vae, recipe.drawing, recipe.seed, processes)
    batches = Batches(picker, dataset, latents, speech, fit)

    def load(numbers: list[int]) -> Any:  # noqa: ANN401
        coins = toss(numbers, recipe.objective, recipe.seed)
        return coins, batches.load(coins.numbers)

    def losses(loaded: Any) -> Tensor:  # noqa: ANN401
        coins, read = loaded
        batch = batches.finish(read, device)
        return spread(batch, draw(coins, batch.latents.shape[1:], recipe.objective, recipe.seed))

    work = Work(load, losses, recipe.drawing.num_samples, recipe.drawing.num_at_once, recipe.drawing.num_frames)
    return Built(start, trainee, spread, state, work, picker, processes, adapters)


def check_fits(dataset: Dataset, start: Start, picker: Picker) -> None:
    """Compare what the dataset holds with what the networks take.

    Raises:
        UserError: pictures or face embeddings of another kind.
    """
    size, wanted = dataset.index.size_px, start.pipe.sampling.height
    if size != wanted:
        raise UserError(
            f"the dataset has pictures of {size} px, the networks take {wanted} px: prepare it with the other --preset"
        )
    facts = dataset.facts[picker.usable[0]]
    given = len(dataset.annotations(picker.usable[0]).face_embedding)
    takes = start.networks.face_projector.config["embedding_size"]
    if given != takes:
        raise UserError(
            f"the dataset has face embeddings of {given} numbers ({facts.identity_encoder}), the networks take {takes}: "
            "prepare it with the other --preset"
        )


def training_dtype(name: str, device: torch.device) -> torch.dtype:
    """What products are computed in; the weights stay in float32.

    Raises:
        UserError: a type that training cannot use.
    """
    is_able = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    if name == "auto":
        return torch.bfloat16 if is_able else torch.float32
    if name not in ("fp32", "bf16"):
        raise UserError(f"--dtype {name}: training computes in bf16 or fp32 (fp16 overflows); leave it at auto")
    if name == "bf16" and device.type == "cuda" and not is_able:
        raise UserError("--dtype bf16 needs a GPU of compute capability 8.0 (Ampere) or newer: use fp32")
    return DTYPES[name]


def summary(recipe: Recipe, run: Built, processes: Processes, dtype: torch.dtype) -> str:
    """One line about what is going to happen."""
    trained = sum(p.numel() for p in run.state.parameters.values()) / 1e6
    short = f", {run.picker.num_too_short} too short" if run.picker.num_too_short else ""
    how = f" with {processes.spread}" if processes.is_connected else ""
    return (
        f"{recipe.name} {recipe.stage}: {trained:.1f} M parameters on {len(run.picker.usable)} samples{short}, "
        f"{recipe.schedule.num_steps} steps of {recipe.drawing.num_samples}, {processes.count} × {processes.device.type}{how}, "
        f"{dtype_name(dtype)}, {recipe.schedule.optimizer}"
    )


@contextmanager
def stopped_by_signals(loop: Loop) -> Iterator[None]:
    """Ctrl-C or SIGTERM once: the loop ends after its step. Ctrl-C twice: at once."""

    def ask(number: int, _frame: object) -> None:
        if loop.wants_stop and number == signal.SIGINT:
            raise KeyboardInterrupt
        loop.wants_stop = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
