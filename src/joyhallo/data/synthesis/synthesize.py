"""Still portraits + real talking clips → a dataset of talking clips of every portrait.

The speaker's movement is taken off the tracked points and given to the portrait by stretching its picture over the face mesh;
the inside of the mouth is painted. Held-out people speak with held-out sound only. Everything that is finished is kept: a run
that was stopped goes on where it was, and the same options make the same clips, in any number of processes.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from joyhallo.conditioning.face import FaceMesh
from joyhallo.data.index import INDEX_NAME, Index, read_index, read_shard
from joyhallo.data.preparation.engine import Answer, LocalCrew, Work, attempt, run_all
from joyhallo.data.preparation.packing import check_same_kind, locked
from joyhallo.data.report import ReportLine, append_lines, read_lines
from joyhallo.data.shards import pack
from joyhallo.data.synthesis import espeak, mandarin
from joyhallo.data.synthesis.canonical import read_canonical_mesh
from joyhallo.data.synthesis.plans import SynthesisRequest, check, plan_clips
from joyhallo.data.synthesis.speakers import Film, list_films, load_tracked, refused_film, save_tracked, track
from joyhallo.data.synthesis.stills import Still, list_stills, load_study, refused_still, save_study, study
from joyhallo.data.synthesis.studio import Cast, ClipPlan, Studio
from joyhallo.errors import UserError

WORK_NAME = ".work"


@dataclass(frozen=True)
class SynthesisProgress:
    """How far a run is."""

    stage: str
    num_done: int
    num_total: int
    left_s: float | None


@dataclass(frozen=True)
class SynthesisResult:
    """What came out."""

    index: Index
    num_made: int  # clips made by this run
    num_refused: int  # portraits, videos and words that could not be used; report.jsonl says why
    made_s: float  # time spent on making clips


Show = Callable[[SynthesisProgress], None]


def synthesise(request: SynthesisRequest, show: Show) -> SynthesisResult:
    """Make the clips of a request that are not there yet, and pack them into its dataset.

    Raises UserError when nothing can be made of what was given, or the folder holds clips of other options.
    """
    check(request)
    request = with_voices_there(request)
    work = request.output / WORK_NAME
    with locked(work):
        kind = {name: getattr(request, name) for name in ("size_px", "num_frames", "head_share", "opening", "seed")}
        folders = {"syllables": request.syllables, "words": request.words}
        recordings = {name: folder.name if folder else None for name, folder in folders.items()}
        espeak_share = request.espeak_share if request.is_mandarin else 0.0
        check_same_kind(work, request.output, {"preset": "mini", **kind, **recordings, "espeak_share": espeak_share})
        for name in ("portraits", "videos", "clips"):
            (work / name).mkdir(exist_ok=True)
        return _synthesise(request, work, show)


def with_voices_there(request: SynthesisRequest) -> SynthesisRequest:
    """The request, without espeak-ng where it is asked for and not installed, which the log says."""
    return replace(request, espeak_share=espeak.share_there(request.espeak_share)) if request.is_mandarin else request


def _synthesise(request: SynthesisRequest, work: Path, show: Show) -> SynthesisResult:
    stills = list_stills(request.portraits)
    films = list_films(request.videos, request.num_videos)
    new_stills = [still for still in stills if not (work / "portraits" / f"{still.name}.npz").exists()]
    for answer in _run("portraits", partial(_study_worker, request, work), new_stills, request, show):
        save_study(refused_still("failed", answer.problem or ""), work / "portraits" / f"{answer.task.name}.npz")
    new_films = [film for film in films if not (work / "videos" / f"{film.name}.npz").exists()]
    for answer in _run("videos", partial(_track_worker, request, work), new_films, request, show):
        save_tracked(refused_film("failed", answer.problem or ""), work / "videos" / f"{answer.task.name}.npz")
    lines = [*_still_lines(stills, work), *_film_lines(films, work), *_word_lines(request.words)]
    things, usable = _cast(request, work, stills, films)
    plans = plan_clips(request, [still for still in usable if _has_sound(things, still)])
    lines += [
        ReportLine(str(still.path), None, False, "no held-out speech", "give more videos: one of them is then held out")
        for still in usable
        if not _has_sound(things, still)
    ]
    _report(request.output, lines)
    if not plans:
        raise UserError(
            f"none of the {len(stills)} portraits can be used: see {request.output / 'report.jsonl'} for the reasons"
        )
    finished = finished_keys(request.output)
    missing = [plan for plan in plans if plan.key not in finished]
    begun = time.monotonic()
    failed = {answer.task.key: answer for answer in _run("clips", partial(_clip_worker, things), missing, request, show)}
    made_s = time.monotonic() - begun
    index = pack(
        work / "clips",
        request.output,
        is_moved=True,
        progress=lambda done, total: show(SynthesisProgress("packing", done, total, None)),
    )
    clip_lines = [_clip_line(plan, failed.get(plan.key)) for plan in plans]
    _report(request.output, clip_lines)
    num_refused = sum(not line.is_kept for line in (*lines, *clip_lines))
    return SynthesisResult(index, len(missing) - len(failed), num_refused, made_s)


def finished_keys(dataset: Path) -> set[str]:
    """Of the clips that are packed, or made and not packed yet."""
    keys = {path.stem for path in (dataset / WORK_NAME / "clips").glob("*.json")}
    if (dataset / INDEX_NAME).exists():
        keys |= {key for entry in read_index(dataset).shards for key in read_shard(dataset, entry).members}
    return keys


def _cast(request: SynthesisRequest, work: Path, stills: Sequence[Still], films: Sequence[Film]) -> tuple[Cast, list[Still]]:
    """What clips are made from, and the portraits that can be used."""
    lenders: dict[bool, list[Film]] = {True: [], False: []}
    for film in films:
        if load_tracked(work / "videos" / f"{film.name}.npz").reason is None:
            lenders[film.is_held_out].append(film)
    if not lenders[False]:
        raise UserError(f"none of the {len(films)} videos can be used: see {request.output / 'report.jsonl'} for the reasons")
    usable: list[Still] = []
    smiles: dict[bool, list[Still]] = {True: [], False: []}
    for still in stills:
        studied = load_study(work / "portraits" / f"{still.name}.npz")
        if studied.reason is None:
            usable.append(still)
        if studied.teeth is not None:
            smiles[still.is_held_out].append(still)
    things = Cast(
        work=work,
        face_models=request.face_models,
        lenders={is_held: tuple(kept) for is_held, kept in lenders.items()},
        smiles={is_held: tuple(kept) for is_held, kept in smiles.items()},
        syllables=request.syllables,
        words=request.words,
        size_px=request.size_px,
        num_frames=request.num_frames,
        head_share=request.head_share,
        opening=request.opening,
        seed=request.seed,
    )
    return things, usable


def _has_sound(things: Cast, still: Still) -> bool:
    return bool(things.lenders[still.is_held_out])


def _still_lines(stills: Iterable[Still], work: Path) -> list[ReportLine]:
    lines = []
    for still in stills:
        found = load_study(work / "portraits" / f"{still.name}.npz", with_teeth=False)
        lines.append(ReportLine(str(still.path), None, found.reason is None, found.reason, found.detail))
    return lines


def _film_lines(films: Iterable[Film], work: Path) -> list[ReportLine]:
    lines = []
    for film in films:
        found = load_tracked(work / "videos" / f"{film.name}.npz")
        source = str(film.path) if film.key is None else f"{film.path}/{film.key}"
        lines.append(ReportLine(source, None, found.reason is None, found.reason, found.detail))
    return lines


def _word_lines(words: Path | None) -> list[ReportLine]:
    left_out = mandarin.read_words(words)[1] if words else {}
    return [ReportLine(str(path), None, False, "unknown word", why) for path, why in left_out.items()]


def _clip_line(plan: ClipPlan, failed: Answer | None) -> ReportLine:
    reason, detail = (None, "") if failed is None else ("failed", failed.problem or "")
    return ReportLine(str(plan.still.path), plan.key, failed is None, reason, detail)


def _report(dataset: Path, lines: Iterable[ReportLine]) -> None:
    """Add the lines that the report does not have yet."""
    known = {(line.get("source"), line.get("key"), line.get("reason")) for line in read_lines(dataset)}
    append_lines(dataset, [line for line in lines if (line.source, line.key, line.reason) not in known])


def _run(
    stage: str,
    build: Callable[[], Work],
    tasks: Sequence[Any],
    request: SynthesisRequest,
    show: Show,
) -> list[Answer]:
    """Do the tasks of a stage, tell how far it is, and give back those that failed."""
    begun, failed = time.monotonic(), []
    show(SynthesisProgress(stage, 0, len(tasks), None))
    for number, answer in enumerate(_answers(build, tasks, request.num_workers), 1):
        left_s = (time.monotonic() - begun) / number * (len(tasks) - number)
        show(SynthesisProgress(stage, number, len(tasks), left_s))
        if answer.problem is not None:
            failed.append(answer)
    return failed


def _answers(build: Callable[[], Work], tasks: Sequence[Any], num_workers: int) -> Iterator[Answer]:
    """With one worker everything happens in this process."""
    if num_workers > 1:
        yield from run_all(LocalCrew(build), tasks, min(num_workers, len(tasks)))
        return
    work = build() if tasks else None
    for task in tasks:
        ended = attempt(cast("Work", work), task)
        if ended.is_fatal:
            raise UserError(ended.problem or "")
        yield Answer(task, ended.result, ended.problem)


def _study_worker(request: SynthesisRequest, work: Path) -> Callable[[Still], None]:
    finder, mesh = FaceMesh.from_path(request.face_models), read_canonical_mesh(request.face_models)

    def run(still: Still) -> None:
        save_study(study(still, finder, mesh, request.size_px), work / "portraits" / f"{still.name}.npz")

    return run


def _track_worker(request: SynthesisRequest, work: Path) -> Callable[[Film], None]:
    finder = FaceMesh.from_path(request.face_models)

    def run(film: Film) -> None:
        save_tracked(track(film, finder), work / "videos" / f"{film.name}.npz")

    return run


def _clip_worker(things: Cast) -> Callable[[ClipPlan], str]:
    return Studio(things).make
