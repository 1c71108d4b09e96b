"""A whole run: from a recipe, datasets and weights to start from, to a folder that speaks."""

import logging
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from joyhallo.data.batches import Batches, Fit
from joyhallo.data.dataset import Dataset, open_datasets
from joyhallo.data.picking import Picker
from joyhallo.device import DTYPES, dtype_name
from joyhallo.errors import UserError
from joyhallo.training.adapters import Adapters, adapt, write_adapters
from joyhallo.training.critic import Critic
from joyhallo.training.distributed import Processes, join, spread_over
from joyhallo.training.loop import Loop, StepReport, Work
from joyhallo.training.mouth import Mouths
from joyhallo.training.optimizers import build_optimizer
from joyhallo.training.overrides import recipe_text
from joyhallo.training.recipes import Recipe
from joyhallo.training.request import Outcome, TrainRequest, origin, settle, training_dtype
from joyhallo.training.run_folder import RunFolder
from joyhallo.training.sources import latent_side, latent_source, speech_source
from joyhallo.training.stages import draw, toss
from joyhallo.training.start import Start, load_start
from joyhallo.training.state import TrainingState, checkpoints
from joyhallo.training.trainee import Trainee, finished_weights, freeze
from joyhallo.training.validation import Validator, held_out_only
from joyhallo.training.watching import HeldOut, Watch

logger = logging.getLogger(__name__)


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
    request = settle(request, folder, processes)
    recipe = request.settled_recipe
    dtype = training_dtype(request.dtype, processes.device)
    dataset = open_datasets(request.data)
    start = load_start(recipe, request.init or recipe.init, processes.device, request.encoders)
    run = build(recipe, dataset, start, folder, Compute(processes, dtype), request.adapters)
    if processes.is_first:
        if not request.is_resumed:
            folder.begin(recipe_text(recipe), origin(request))
        logger.info("%s", start.report)
        logger.info("%s", summary(recipe, run, processes, dtype))
    loop = Loop(run.work, run.spread, run.state, recipe.schedule, processes, dtype)
    if request.is_resumed and run.state.resume(folder.checkpoints, processes):
        logger.info("going on after step %d", run.state.step)
    watch = Watch(folder, run.state, recipe.saving, run.held_out) if processes.is_first else None
    with stopped_by_signals(loop):
        for report in loop:
            if watch is not None:
                watch.note(report)
                show(report)
            if report.step % recipe.saving.every_steps == 0 and report.step < recipe.schedule.num_steps:
                run.state.save(folder.checkpoints, recipe.saving.keep, processes)
            if watch is not None:
                watch.judge(report)
    run.finish(folder, recipe)
    if watch is not None:
        watch.close()
    return Outcome(run.state.step, recipe.schedule.num_steps, request.output, processes.is_first)


@dataclass(frozen=True)
class Built:
    """The parts of a run, put together."""

    start: Start
    trainee: Trainee
    spread: torch.nn.Module
    state: TrainingState
    work: Work
    picker: Picker
    held_out: HeldOut | None
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
    mouths = make_mouths(recipe, start, device)
    trainee = Trainee(networks, recipe, uses_all=processes.is_sharded, mouths=mouths)
    spread = spread_over(trainee, processes, compute.dtype)
    optimizer = build_optimizer(trainee.trained().values(), recipe.schedule, device)
    tools = mouths.critic.memory() if mouths.critic else {}
    state = TrainingState(trainee.trained(), optimizer, recipe.schedule.ema_decay, tools)
    picker = Picker(dataset.facts, recipe.drawing, recipe.seed)
    check_fits(dataset, start, picker)
    judge = held_out_picker(dataset, recipe, processes)
    speech = None
    if recipe.drawing.hears:
        samples = sorted({*picker.usable, *(judge.usable if judge else ())})
        speech = speech_source(dataset, samples, start.pipe.speech_encoder, folder.training / "speech", processes)
        check_speech(speech.rows(samples[0], dataset.annotations(samples[0])).shape[1:], networks.audio_projector.config)
    side = latent_side(start.pipe.vae, dataset.index.size_px)
    fit = Fit(start.pipe.latent_space, (side, side), len(networks.denoising_network.config["widths"]))
    latents = latent_source(dataset, start.pipe.vae, recipe.drawing, recipe.seed, processes, compute.dtype)
    work = make_work(Batches(picker, dataset, latents, speech, fit), spread, recipe, device)
    held_out = None
    if judge is not None and processes.is_first:
        judged = make_work(Batches(judge, dataset, latents, speech, fit), trainee, recipe, device)
        held_out = HeldOut(Validator(start.pipe, dataset), judged)
    return Built(start, trainee, spread, state, work, picker, held_out, processes, adapters)


def make_mouths(recipe: Recipe, start: Start, device: torch.device) -> Mouths:
    """What looks at mouths as the recipe's weights ask for."""
    wanted = recipe.objective
    critic = Critic(wanted.critic_weight, device, recipe.seed) if wanted.critic_weight else None
    return Mouths(
        start.pipe.vae, start.pipe.latent_space, start.pipe.lip_reader, wanted.reading_weight, wanted.closed_weight, critic
    )


def held_out_picker(dataset: Dataset, recipe: Recipe, processes: Processes) -> Picker | None:
    """Draws from what is never trained on, where the run is validated; says why where it is not."""
    if not recipe.saving.validate_every_steps:
        return None
    if processes.is_sharded:
        logger.info("no validation: with FSDP no process has all weights; look at the run's folder with joyhallo animate")
        return None
    try:
        return Picker(held_out_only(dataset.facts), recipe.drawing, recipe.seed)
    except UserError:
        logger.info("no validation: nothing in the dataset is held out, or it is too short")
        return None


def make_work(batches: Batches, trainee: torch.nn.Module, recipe: Recipe, device: torch.device) -> Work:
    """How a loop reads samples and gets their losses."""
    objective, seed, drawing = recipe.objective, recipe.seed, recipe.drawing

    def load(numbers: list[int]) -> Any:  # noqa: ANN401
        coins = toss(numbers, objective, seed)
        return coins, batches.load(coins.numbers)

    def losses(loaded: Any) -> Tensor:  # noqa: ANN401
        coins, read = loaded
        batch = batches.finish(read, device)
        return trainee(batch, draw(coins, batch.latents.shape[1:], objective, seed))

    return Work(load, losses, drawing.num_samples, drawing.num_at_once, drawing.num_frames)


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


def check_speech(given: tuple[int, ...], takes: Mapping[str, Any]) -> None:
    """Compare the speech features' blocks and channels with what the audio projector takes.

    Raises:
        UserError: they differ.
    """
    wanted = takes["num_blocks"], takes["channels"]
    if tuple(given) != wanted:
        raise UserError(
            f"the speech features are of {given[0]} layers and {given[1]} numbers, the networks take {wanted[0]} and "
            f"{wanted[1]}: give --init weights, or --encoders, that belong to the same speech encoder"
        )


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
