"""`joyhallo batch`: the videos of a list, one after the other, as jobs that survive the process."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from joyhallo.errors import UserError

if TYPE_CHECKING:
    from joyhallo.serve.batch import Line
    from joyhallo.serve.records import Job


def batch(
    manifest: Path,
    /,
    *,
    model: Annotated[str, Parameter(name=["--model", "-m"])] = "mini",
    device: str = "auto",
    dtype: str = "auto",
    workers: int = 1,
    folder: Path | None = None,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Make the videos of a list: JSON lines with "portrait", "speech" and "output".

    A line may add steps, guidance, lip, expression, pose, seed, size, face_index, paste_back, longest_side, crf, mark and
    others. Paths are relative to the list. Run the same command again to go on after an interruption, or to try failed
    lines again. Exit code 1: some lines failed.

    Parameters
    ----------
    manifest
        The list (.jsonl).
    model
        mini, a folder of weights, or a repository of the hub.
    device
        auto, cpu, cuda, cuda:1 or mps.
    dtype
        auto, fp32, bf16 or fp16.
    workers
        Videos made at the same time; several GPUs are taken in turn.
    folder
        Where unfinished business is kept; a hidden folder beside the list by default.
    overwrite
        Replace outputs that exist.
    """
    if not 1 <= workers <= 64:
        raise UserError(f"--workers is {workers}: give 1 to 64")
    from joyhallo.serve.batch import folder_beside, run_batch
    from joyhallo.serve.settings import Settings

    settings = Settings(
        folder=folder or folder_beside(manifest),
        workers=workers,
        render={"model": model, "device": device, "dtype": dtype},
        polling_s=0.1,
    )
    num_failed = 0
    for ended in run_batch(manifest, settings, overwrite=overwrite, on_progress=_Lines().show):
        num_failed += ended.status not in ("done", "kept")
        print(f"line {ended.line.number}: {ended.status}: {ended.line.output if ended.status != 'failed' else ended.note}")
    return 1 if num_failed else 0


class _Lines:
    """One line on standard error for each clip."""

    def __init__(self) -> None:
        self._said: dict[int, tuple[object, object]] = {}

    def show(self, line: Line, job: Job) -> None:
        now = (job.progress.get("stage"), job.progress.get("clips_done"))
        if job.status == "running" and now[0] and self._said.get(line.number) != now:
            self._said[line.number] = now
            clips = f": clip {now[1]}/{job.progress['clips_total']}" if job.progress.get("clips_total") else ""
            print(f"line {line.number}: {now[0]}{clips}", file=sys.stderr, flush=True)
