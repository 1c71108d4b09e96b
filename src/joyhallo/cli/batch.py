"""`joyhallo batch`: the videos of a list, here or on a cluster, as jobs that survive the process."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from joyhallo.errors import UserError

if TYPE_CHECKING:
    from joyhallo.serve.batch import Ended, Line
    from joyhallo.serve.records import Job


@Parameter(name="*")
@dataclass(frozen=True)
class Machines:
    """What the videos are made on."""

    device: str = "auto"
    "auto, cpu, cuda, cuda:1 or mps."
    workers: int | None = None
    """Videos made at the same time: 1, or with Ray one for each GPU of the cluster (without GPUs, for each CPU). Several
    GPUs of this machine are taken in turn."""
    engine: Literal["local", "ray"] = "local"
    "local, or ray: the cluster that RAY_ADDRESS names, else one started here. All nodes must see the same files."


def batch(
    manifest: Path,
    /,
    *,
    model: Annotated[str, Parameter(name=["--model", "-m"])] = "mini",
    dtype: str = "auto",
    machines: Machines = Machines(),
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
    dtype
        auto, fp32, bf16 or fp16.
    folder
        Where unfinished business is kept; a hidden folder beside the list by default.
    overwrite
        Replace outputs that exist.
    """
    workers = machines.workers
    if workers is not None and not 1 <= workers <= 64:
        raise UserError(f"--workers is {workers}: give 1 to 64")
    from joyhallo.serve.batch import folder_beside, run_batch
    from joyhallo.serve.settings import Settings

    settings = Settings(
        folder=(folder or folder_beside(manifest)).absolute(),
        workers=workers or 1,
        render={
            "model": str(Path(model).absolute()) if Path(model).is_dir() else model,
            "device": machines.device,
            "dtype": dtype,
        },
        polling_s=0.1,
    )
    if machines.engine == "local":
        return _told(run_batch(manifest, settings, overwrite=overwrite, on_progress=_Lines().show))
    from joyhallo.serve.cluster import joined

    with joined(machines.device, workers) as cluster:
        share = cluster.share
        print(f"Ray: {share.workers} at the same time, each {share.cpus} CPU, {share.gpus} GPU", file=sys.stderr, flush=True)
        settings = replace(settings, workers=share.workers)
        made = run_batch(manifest, settings, overwrite=overwrite, on_progress=_Lines().show, hire=cluster.hire)
        return _told(made)


def _told(made: Iterable[Ended]) -> int:
    """Say how each line ended; the exit code."""
    num_failed = 0
    for ended in made:
        num_failed += ended.status not in ("done", "kept")
        says = ended.line.output if ended.status != "failed" else ended.note
        print(f"line {ended.line.number}: {ended.status}: {says}", flush=True)
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
