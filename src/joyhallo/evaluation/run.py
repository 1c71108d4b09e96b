"""From what the user gave to a report: files are found, paired and checked first, then each film is evaluated."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from joyhallo.errors import UserError
from joyhallo.evaluation.catalogue import VISEMES, Asked, Metric
from joyhallo.evaluation.corpus import require_pairs
from joyhallo.evaluation.film import open_film
from joyhallo.evaluation.pinyin import Syllable, read_sentence, syllables_of_name
from joyhallo.evaluation.portrait_likeness import Likeness, read_likeness
from joyhallo.evaluation.report import FILE_NAME, Report, read_json, require_something
from joyhallo.evaluation.suite import FilmReport, Subject, Tools, evaluate_film
from joyhallo.media.files import require_file
from joyhallo.media.video import probe_video

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What the user gave."""

    videos: tuple[Path, ...]  # files or folders
    speech: tuple[Path, ...] = ()  # none, one for all, or one for each video
    references: tuple[Path, ...] = ()  # likewise
    against: Path | None = None
    pinyin: str | None = None
    asked: tuple[Asked, ...] = ()  # metrics that were named: each must give something


@dataclass(frozen=True)
class _Job:
    video: Path
    speech: Path | None
    reference: Path | None
    syllables: tuple[Syllable, ...]


def run(request: Request, metrics: Sequence[Metric], output: Path, say: Say) -> Report:
    """Evaluate everything; `say` is told which film is at work. Makes the folder `output`.

    Raises
    ------
    UserError : a file is missing or cannot be read, numbers of files do not go together, names do not pair, a metric that
        was asked for by name can be computed for no film.
    """
    jobs = _jobs(request)
    _require_material(request, jobs)
    films_against: list[FilmReport] = []
    jobs_against: list[_Job] = []
    if request.against is not None:
        films_against, jobs_against = _opponents(request.against, jobs)
    make_folder(output)
    tools = Tools()
    references = _references([*jobs, *jobs_against], tools)
    films = [_evaluate(job, metrics, tools, references, say) for job in jobs]
    films_against += [_evaluate(job, metrics, tools, references, say) for job in jobs_against]
    for asked in request.asked:
        require_something(films, asked.names)
    title = _title(request.videos)
    against_title = "" if request.against is None else _other_title(request.against, title)
    return Report(tuple(films), title, against_title, tuple(films_against))


def _require_material(request: Request, jobs: Sequence[_Job]) -> None:
    """Check, before anything is computed, that what was asked for by name is not impossible from the start.

    Raises
    ------
    UserError : a portrait, a recording or syllables are needed and were not given.
    """
    for asked in request.asked:
        if asked.needs_portrait and not request.references:
            raise UserError(f"{asked.word} compares with a portrait, and none was given: name it with --reference")
        if asked.needs_sound and not request.speech and not any(probe_video(job.video).has_audio for job in jobs):
            count = "the video has" if len(jobs) == 1 else f"none of the {len(jobs)} videos has"
            raise UserError(f"{asked.word} listens to the speech, and {count} no sound: give a recording with --speech")
        if asked.names & set(VISEMES.names) and not any(job.syllables for job in jobs):
            raise UserError(
                f"{asked.word}: no video is named by its syllables (ba1.mp4, ni3hao3.mp4): rename them, or give --pinyin"
            )


def _evaluate(job: _Job, metrics: Sequence[Metric], tools: Tools, references: dict[Path, Likeness], say: Say) -> FilmReport:
    say(f"evaluating {job.video}")
    film = open_film(job.video, speech=job.speech, face_mesh=tools.face_mesh if any(m.needs_face for m in metrics) else None)
    chosen = [metric for metric in metrics if metric is not VISEMES or job.syllables]
    reference = None if job.reference is None else references[job.reference]
    return evaluate_film(film, chosen, tools, Subject(reference, job.syllables))


def _references(jobs: Sequence[_Job], tools: Tools) -> dict[Path, Likeness]:
    wanted = dict.fromkeys(job.reference for job in jobs if job.reference is not None)
    return {path: read_likeness(path, tools.face_mesh) for path in wanted}


def find_videos(places: Sequence[Path]) -> list[Path]:
    """The videos among files and folders, in the order given, folders sorted by name.

    Raises
    ------
    UserError : a file does not exist or is empty, or a folder holds no video.
    """
    videos: list[Path] = []
    for place in places:
        if place.is_dir():
            found = sorted(p for p in place.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
            if not found:
                raise UserError(f"there is no video in the folder '{place}': give one with {', '.join(SUFFIXES)} files")
            videos += found
        else:
            videos.append(require_file(place, "video", UserError))
    return videos


def _jobs(request: Request) -> list[_Job]:
    videos = find_videos(request.videos)
    if not videos:
        raise UserError("no video was given: name videos or folders of them")
    speech = _one_for_each(request.speech, len(videos), "--speech")
    references = _one_for_each(request.references, len(videos), "--reference")
    for path in dict.fromkeys([*speech, *references]):
        if path is not None:
            require_file(path, "file", UserError)
    if request.pinyin is not None and len(videos) > 1:
        raise UserError(
            f"--pinyin belongs to one video, but {len(videos)} were given: give one, or name files by their syllables"
        )
    sentence = None if request.pinyin is None else tuple(read_sentence(request.pinyin))
    return [
        _Job(video, sound, reference, tuple(syllables_of_name(video.stem)) if sentence is None else sentence)
        for video, sound, reference in zip(videos, speech, references, strict=True)
    ]


def _one_for_each(paths: Sequence[Path], count: int, option: str) -> list[Path | None]:
    if len(paths) in (0, 1):
        return [paths[0] if paths else None] * count
    if len(paths) != count:
        raise UserError(f"{option} has {len(paths)} files for {count} videos: give one for all, or one for each")
    return list(paths)


def _opponents(against: Path, jobs: Sequence[_Job]) -> tuple[list[FilmReport], list[_Job]]:
    """The second system: read from its report, or still to be evaluated with the same speech, portraits and syllables."""
    if not against.is_dir():
        raise UserError(f"--against '{against}' is no folder: give a folder of videos, or of a report of `joyhallo evaluate`")
    names = [job.video.stem for job in jobs]
    if (against / FILE_NAME).is_file():
        films = read_json(against / FILE_NAME)
        require_pairs(names, [film.name for film in films])
        return films, []
    videos = find_videos([against])
    require_pairs(names, [video.stem for video in videos])
    partner = {job.video.stem: job for job in jobs}
    return [], [_Job(video, *_given(partner[video.stem])) for video in videos]


def _given(job: _Job) -> tuple[Path | None, Path | None, tuple[Syllable, ...]]:
    return job.speech, job.reference, job.syllables


def _title(places: Sequence[Path]) -> str:
    first = places[0].resolve()
    return (first.name if first.is_dir() else first.stem) + ("" if len(places) == 1 else f" and {len(places) - 1} more")


def _other_title(against: Path, title: str) -> str:
    name = against.resolve().name
    return name if name != title else f"{against.resolve().parent.name}/{name}"


def make_folder(folder: Path) -> None:
    """Make the report's folder. Raises UserError when a file is in its place or it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"'{folder}' is a file: give a folder for the report with -o") from error
    except OSError as error:
        raise UserError(f"the folder '{folder}' cannot be made ({error.strerror}): give another with -o") from error
