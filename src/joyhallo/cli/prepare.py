"""`joyhallo data prepare`: videos become clips to train on."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from joyhallo.cli.progress import Bar, shown, time_left
from joyhallo.errors import UserError

if TYPE_CHECKING:
    from joyhallo.data.preparation.prepare import Progress, Summary


def prepare(
    *videos: Path,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    preset: Literal["mini", "published"] = "mini",
    engine: Literal["local", "ray"] = "local",
    workers: int | None = None,
    separate_vocals: Annotated[bool, Parameter(negative="")] = False,
    held_out_share: float = 0.02,
    threshold: Annotated[list[str], Parameter(name="--set", negative="")] = [],  # noqa: B006 (never changed)
) -> int:
    """Make clips to train on out of videos: find the speaker, cut, crop, check sound and lips, pack.

    Stopped, it goes on where it was when the same command is given again; videos given later are added. What cannot be used
    is skipped, and report.jsonl in the output says why.

    Parameters
    ----------
    videos
        Video files, or folders of them.
    output
        Folder of the dataset.
    preset
        mini: 256 px with the bundled encoders; published: 512 px as the published preparation (needs InsightFace).
    engine
        Where the work is done: processes of this machine, or a Ray cluster (RAY_ADDRESS; all nodes share the files).
    workers
        Processes, one thread each; as many as cores by default.
    separate_vocals
        Take the voice out of music first.
    held_out_share
        Share of the videos that is never trained on.
    threshold
        Another threshold of the checks, NAME=VALUE, such as --set min_face_px=64; docs/data.md lists them. Can be repeated.
    """
    if not videos:
        raise UserError("no video was given: name video files, or folders of them")
    if workers is not None and not 1 <= workers <= 1024:
        raise UserError(f"--workers is {workers}: give 1 to 1024, or leave it out for as many as cores")
    if not 0 <= held_out_share < 1:
        raise UserError(f"--held-out-share is {held_out_share}: give 0 up to (not including) 1")
    from joyhallo.data.preparation.films import note_on, settings_for
    from joyhallo.data.preparation.prepare import Crew
    from joyhallo.data.preparation.prepare import prepare as run

    changes = read_thresholds(threshold)
    settings = settings_for(preset, separate_vocals=separate_vocals, held_out_share=held_out_share, **changes)
    note = note_on(settings)
    if note:
        print(note, file=sys.stderr)
    with shown(_bar, _line) as show:
        summary = run(list(videos), output, settings, Crew(engine, workers), show)
    _report(summary, output)
    return 0


def read_thresholds(entries: list[str]) -> dict[str, float]:
    """Numbers of ["min_face_px=64", …]. Raises UserError."""
    found = {}
    for entry in entries:
        name, separator, value = entry.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError as problem:
            raise UserError(f"--set {entry!r} is no threshold: write NAME=NUMBER, such as min_face_px=64") from problem
        if not separator:
            raise UserError(f"--set {entry!r} is no threshold: write NAME=NUMBER, such as min_face_px=64")
    return found


def _bar(progress: Progress) -> Bar:
    return Bar("videos", progress.done, progress.total, f"{progress.done}/{progress.total}{_left(progress)}")


def _line(progress: Progress) -> str | None:
    """One for every video."""
    if not progress.lines:
        return None
    line = progress.lines[0]
    outcome = line.detail if line.reason is None else f"{line.reason} ({line.detail})" if line.detail else line.reason
    return f"{progress.done}/{progress.total} {line.source}: {outcome}{_left(progress)}"


def _left(progress: Progress) -> str:
    return time_left(progress.left_s) if progress.done < progress.total else ""


def _report(summary: Summary, output: Path) -> None:
    """What was kept, what not, and why."""
    whole = [line for line in summary.lines if line.key is None and line.start_s is None]
    parts = [line for line in summary.lines if line.start_s is not None]
    rejected = [line for line in whole if not line.is_kept]
    print(f"{len(whole)} videos: {summary.num_new} prepared now, {summary.num_known} before, {len(rejected)} not usable")
    kept = [line for line in parts if line.is_kept]
    seconds = {
        is_kept: sum((x.end_s or 0) - (x.start_s or 0) for x in parts if x.is_kept == is_kept) for is_kept in (True, False)
    }
    print(f"{len(kept)} clips, {seconds[True] / 60:.1f} min kept; {seconds[False] / 60:.1f} min rejected")
    reasons = Counter(str(line.reason) for line in (*rejected, *parts) if not line.is_kept)
    for reason, count in sorted(reasons.items(), key=lambda item: (-item[1], item[0])):
        print(f"  {count:5d} {reason}")
    print(f"{output}: {summary.num_clips} clips, {summary.hours:.2f} hours; see {output / 'report.jsonl'}")
