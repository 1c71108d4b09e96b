"""Training runs as typed functions; a variant calls another and changes a field. Every number can be set from outside."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from joyhallo.data.batches import Drawing
from joyhallo.errors import UserError
from joyhallo.presets import Preset, joyhallo, mini
from joyhallo.training.schedule import Schedule
from joyhallo.training.stages import Objective


@dataclass(frozen=True)
class Saving:
    """What a run leaves behind."""

    every_steps: int = 500  # checkpoints, and the pipeline in the run's folder
    keep: int = 2  # the last checkpoints
    validate_every_steps: int = 0  # 0: never
    dtype: Literal["fp32", "fp16"] = "fp16"  # of the pipeline that is written


@dataclass(frozen=True)
class Recipe:
    """One stage of training."""

    name: str
    stage: Literal["stage1", "stage2"]
    preset: Literal["mini", "joyhallo", "smoke"]  # the networks, where a run does not start from a folder of weights
    init: str  # what a run starts from when nothing is given: "mini", "none"; "": it must be given
    objective: Objective
    drawing: Drawing
    schedule: Schedule
    saving: Saving = field(default_factory=Saving)
    seed: int = 42
    trained: tuple[str, ...] = ("",)  # parameters are trained whose `component.path` holds one of these …
    frozen: tuple[str, ...] = ()  # … and none of these
    row_order: Literal["aligned", "interleaved"] = "aligned"  # "interleaved" mixes portraits within a batch, as published

    def trains(self, parameter: str) -> bool:
        return any(part in parameter for part in self.trained) and not any(part in parameter for part in self.frozen)


def preset_of(name: str) -> Preset:
    """The networks' configurations by the name that a recipe has for them."""
    return {"mini": mini, "joyhallo": joyhallo, "smoke": smoke_preset}[name]()


def mini_objective() -> Objective:
    """Mouths first, at four timesteps: mini is sampled with few steps."""
    return Objective(
        portrait_dropout=0.0,
        audio_dropout=0.1,
        start_dropout=0.1,
        lip_weight=10.0,
        mouth_weight=10.0,
        timesteps=(999, 749, 499, 249),
    )


def mini_stage1() -> Recipe:
    """Both networks on single frames: look like the portrait, shape the mouth by the speech."""
    return Recipe(
        name="mini",
        stage="stage1",
        preset="mini",
        init="none",
        objective=replace(mini_objective(), still=True, start_dropout=0.0),
        drawing=Drawing(num_samples=5, num_at_once=5, num_frames=4, num_past=0, reference_gap_frames=0, synthetic_share=0.6),
        schedule=Schedule(num_steps=3000, learning_rate=8e-4),
        saving=Saving(every_steps=100, validate_every_steps=500, dtype="fp32"),
        frozen=(".motion.",),
    )


def mini_stage2() -> Recipe:
    """Then whole clips: the motion modules, and the denoising network with them at a lower rate."""
    return Recipe(
        name="mini",
        stage="stage2",
        preset="mini",
        init="mini",
        objective=replace(mini_objective(), shared_noise=0.9),
        drawing=Drawing(num_samples=2, num_at_once=2, num_frames=12, num_past=2, synthetic_share=0.6),
        schedule=Schedule(num_steps=1200, learning_rate=3e-4, ema_decay=0.995),
        saving=Saving(every_steps=100, validate_every_steps=200),
        frozen=("reference_network.", "face_projector.", "face_locator."),
    )


def published_stage1() -> Recipe:
    """Single pictures at 512 px: all of the two networks that is not audio or motion; eight GPUs with 8 samples each."""
    return Recipe(
        name="published",
        stage="stage1",
        preset="joyhallo",
        init="",
        objective=Objective(
            still=True, portrait_dropout=0.1, audio_dropout=0.0, start_dropout=0.0, coins="per_batch", drops_face=True
        ),
        drawing=Drawing(
            num_samples=64, num_at_once=8, num_frames=1, num_past=0, reference_gap_frames=30, hears=False, samples_latents=True
        ),
        schedule=published_schedule(),
        trained=("reference_network.", "denoising_network.", "face_projector.", "face_locator."),
        frozen=(".audio.", ".motion."),
        saving=Saving(every_steps=500, keep=3, validate_every_steps=1000, dtype="fp32"),
    )


def published_stage2() -> Recipe:
    """Clips of 16 frames: the audio and motion modules and the audio projector, on eight GPUs with 4 samples each."""
    return replace(
        published_stage1(),
        stage="stage2",
        objective=Objective(coins="per_batch", reduction="published"),
        drawing=Drawing(
            num_samples=32, num_at_once=4, num_frames=16, num_past=2, margin_frames=2, start="grey", samples_latents=True
        ),
        schedule=replace(published_schedule(), optimizer="adamw8bit", checkpointing=True),
        trained=(".audio.", ".motion.", "audio_projector."),
        frozen=(),
        saving=Saving(every_steps=500, keep=3, validate_every_steps=1000),
    )


def published_schedule() -> Schedule:
    return Schedule(num_steps=30_000, learning_rate=1e-5, warmup_steps=1, decay_from=1.0, betas=(0.9, 0.999), ema_decay=0.0)


def smoke_preset() -> Preset:
    """The networks of mini, a few channels wide: a step takes milliseconds. Nobody is meant to look at the result."""
    shape = {"widths": (16, 24), "num_heads": 2, "num_groups": 4, "face_dim": 16}
    preset = mini()
    return replace(
        preset,
        reference_network=preset.reference_network | shape,
        denoising_network=preset.denoising_network | shape | {"audio_dim": 16, "motion_heads": 2},
        face_projector=preset.face_projector | {"token_dim": 16},
        audio_projector=preset.audio_projector | {"hidden_dim": 16, "num_tokens": 2, "token_dim": 16},
        face_locator=preset.face_locator | {"out_channels": 16, "widths": (4, 4, 8, 8, 16)},
    )


def smoke_stage1() -> Recipe:
    """A few steps of the first stage, to see that everything runs."""
    return replace(
        mini_stage1(),
        name="smoke",
        preset="smoke",
        drawing=replace(mini_stage1().drawing, num_samples=4, num_at_once=2),
        schedule=Schedule(num_steps=8, learning_rate=2e-3, warmup_steps=2, ema_decay=0.9),
        saving=Saving(every_steps=4, dtype="fp32"),
    )


def smoke_stage2() -> Recipe:
    """A few steps of the second stage."""
    return replace(
        mini_stage2(),
        name="smoke",
        preset="smoke",
        init="none",
        drawing=replace(mini_stage2().drawing, num_samples=4, num_at_once=2, num_frames=4),
        schedule=Schedule(num_steps=8, learning_rate=2e-3, warmup_steps=2, ema_decay=0.9),
        saving=Saving(every_steps=4, dtype="fp32"),
    )


RECIPES: dict[str, dict[str, Callable[[], Recipe]]] = {
    "mini": {"stage1": mini_stage1, "stage2": mini_stage2},
    "published": {"stage1": published_stage1, "stage2": published_stage2},
    "smoke": {"stage1": smoke_stage1, "stage2": smoke_stage2},
}


def find_recipe(name: str, stage: str) -> Recipe:
    """A recipe by name and stage.

    Raises:
        UserError: there is none.
    """
    if name not in RECIPES:
        raise UserError(f"the recipe {name!r} is not known: use {', '.join(RECIPES)}")
    if stage not in RECIPES[name]:
        raise UserError(f"the stage {stage!r} is not known: use stage1 or stage2")
    return RECIPES[name][stage]()
