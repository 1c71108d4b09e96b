"""Training runs as typed functions; a variant calls another and changes a field."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from joyhallo.training.loop import Schedule
from joyhallo.training.stages import Objective


@dataclass(frozen=True)
class Recipe:
    """One stage of training."""

    objective: Objective
    schedule: Schedule
    num_clips: int  # samples of a batch
    num_frames: int
    num_past: int
    frozen: tuple[str, ...] = ()  # parameters whose `component.path` holds one of these stay as they are

    def trains(self, parameter: str) -> bool:
        return not any(part in parameter for part in self.frozen)

    def with_steps(self, num_steps: int | None) -> "Recipe":
        return self if num_steps is None else replace(self, schedule=replace(self.schedule, num_steps=num_steps))


def mini_stills() -> Recipe:
    """Both networks on single frames: look like the portrait, shape the mouth by the speech."""
    return Recipe(
        Objective(still=True, portrait_dropout=0.0, audio_dropout=0.1, lip_weight=6.0),
        Schedule(num_steps=3000, learning_rate=8e-4),
        num_clips=5,
        num_frames=4,
        num_past=0,
        frozen=(".motion.",),
    )


def mini_motion() -> Recipe:
    """Then whole clips: the motion modules, and the denoising network with them at a lower rate."""
    return Recipe(
        Objective(
            portrait_dropout=0.0,
            audio_dropout=0.1,
            start_dropout=0.1,
            lip_weight=6.0,
            shared_noise=0.9,
        ),
        Schedule(num_steps=1200, learning_rate=3e-4, ema_decay=0.995),
        num_clips=2,
        num_frames=12,
        num_past=2,
        frozen=("reference_network.", "face_projector.", "face_locator."),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {"stills": mini_stills, "motion": mini_motion}
