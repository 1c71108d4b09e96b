"""The folder of a run: at its root the pipeline that `joyhallo animate --model` takes, in `training/` all the rest."""

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from joyhallo.errors import UserError
from joyhallo.media.files import written_whole
from joyhallo.pipeline import JoyHalloPipeline
from joyhallo.training.loop import StepReport
from joyhallo.training.overrides import first_difference, read_recipe
from joyhallo.training.recipes import Recipe
from joyhallo.weights.checkpoint import save_tensors
from joyhallo.weights.pipeline_folder import INDEX

_WEIGHTS = "diffusion_pytorch_model.safetensors"


class RunFolder:
    """Where a run keeps what it makes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.training = root / "training"
        self.checkpoints = self.training / "checkpoints"
        self.recipe = self.training / "recipe.json"
        self.losses = self.training / "losses.jsonl"
        self.validations = self.training / "validation.jsonl"
        self.board = self.training / "board"
        self.validation = self.training / "validation"

    def read(self) -> tuple[Recipe, dict[str, Any]]:
        """The recipe of the run that is here, and what it was started with.

        Raises:
            UserError: there is no run, or one of another version.
        """
        if not self.recipe.is_file():
            raise UserError(f"there is no run to go on with in {self.root}: start it without --resume, or give its folder")
        try:
            content = json.loads(self.recipe.read_text(encoding="utf-8"))
            return read_recipe(content["recipe"], str(self.recipe)), dict(content["start"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.recipe} is damaged ({error}): start the run anew in another folder") from error

    def require_new(self) -> None:
        """Check that a run can begin here.

        Raises:
            UserError: there is a run already, or other files that it would overwrite.
        """
        if self.recipe.exists():
            raise UserError(f"there is a run in {self.root} already: go on with --resume, or give another folder")
        if self.root.exists() and not self.root.is_dir():
            raise UserError(f"{self.root} is a file: give a folder for the run")
        if self.root.is_dir() and any(path != self.training for path in self.root.iterdir()):
            raise UserError(f"the folder {self.root} is not empty: give a new one for the run")

    def begin(self, recipe_json: str, start: Mapping[str, Any]) -> None:
        """Write down what the run is made with."""
        self.training.mkdir(parents=True, exist_ok=True)
        with written_whole(self.recipe, "recipe", UserError) as partial:
            text = json.dumps({"recipe": json.loads(recipe_json), "start": dict(start)}, indent=1)
            partial.write_text(text + "\n", encoding="utf-8")

    def require_same(self, recipe: Recipe, start: Mapping[str, Any]) -> None:
        """Check that a run goes on as it was begun.

        Raises:
            UserError: another recipe, other data or another start, with the first thing that differs.
        """
        theirs, began = self.read()
        difference = first_difference(recipe, theirs)
        if difference is None:
            odd = [name for name in {**began, **start} if began.get(name) != start.get(name)]
            difference = f"{odd[0]} is {start.get(odd[0])} here and was {began.get(odd[0])}" if odd else None
        if difference is not None:
            raise UserError(
                f"the run in {self.root} was begun otherwise: {difference}; resume it with the same, or start another"
            )

    def forget_after(self, step: int) -> None:
        """Drop what was noted of steps after `step`: they will be made again."""
        for path in (self.losses, self.validations):
            if not path.is_file():
                continue
            kept = []
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    if json.loads(line)["step"] <= step:
                        kept.append(line)
                except ValueError:
                    break  # the last line of a process that was killed
            with written_whole(path, "list of steps", UserError) as partial:
                partial.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def note(self, report: StepReport) -> None:
        """Add a step to the list of losses."""
        numbers = {"loss": report.loss, "grad_norm": report.grad_norm, "rate": report.rate}
        finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        _append(self.losses, {"step": report.step, **finite, "is_skipped": report.is_skipped})

    def note_validation(self, step: int, measures: Mapping[str, float]) -> None:
        """Add a validation to their list."""
        _append(self.validations, {"step": step, **measures})

    def write_pipeline(self, pipe: JoyHalloPipeline, weights: Mapping[str, Mapping[str, Tensor]], dtype: torch.dtype) -> None:
        """Write the pipeline; its index is away while its parts are exchanged, so that a mixture is never loaded.

        `weights`: by component, all tensors of those that a run trains. Other components are written once.
        """
        partial = self.root / ".pipeline.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        pipe.save_config(partial)
        for name, part in pipe.components.items():
            if part is None or (name not in weights and (self.root / name).is_dir()):
                continue
            if isinstance(part, nn.Module):
                _save_part(part, weights.get(name, part.state_dict()), partial / name, dtype)
            else:
                part.save_pretrained(partial / name)
        (self.root / INDEX).unlink(missing_ok=True)
        for folder in sorted(path for path in partial.iterdir() if path.is_dir()):
            shutil.rmtree(self.root / folder.name, ignore_errors=True)
            folder.rename(self.root / folder.name)
        (partial / INDEX).rename(self.root / INDEX)
        shutil.rmtree(partial)


def _append(path: Path, values: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")


def _save_part(part: Any, tensors: Mapping[str, Tensor], folder: Path, dtype: torch.dtype) -> None:  # noqa: ANN401
    """A network of diffusers' kind or of transformers', with other tensors than its own."""
    folder.mkdir()
    if hasattr(part, "save_config"):
        part.save_config(folder)
    else:
        part.config.save_pretrained(folder)
    save_tensors(folder / _WEIGHTS, {name: _as_saved(tensor, dtype) for name, tensor in tensors.items()})


def _as_saved(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    tensor = tensor.detach().cpu()
    return (tensor.to(dtype) if tensor.is_floating_point() else tensor).contiguous()
