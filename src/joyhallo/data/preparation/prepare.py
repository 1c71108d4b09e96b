"""Videos → a dataset: finds the films, gives them to workers, remembers what is done, packs the clips.

In the dataset's folder `.work` a finished film has a file IDENTITY.json with what became of its parts, and until it is packed a
folder IDENTITY with its clips. So a run that was stopped goes on with the films that have none, and films that are added
later become further shards.
"""

import functools
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from joyhallo.cores import num_cores
from joyhallo.data.preparation import engine
from joyhallo.data.preparation.films import Settings, Video, find_videos, identify
from joyhallo.data.preparation.packing import check_same_kind, locked, pack_finished, read_records
from joyhallo.data.report import ReportLine
from joyhallo.errors import UserError
from joyhallo.media.files import written_whole

WORK_NAME = ".work"
FAILED = "preparation failed"  # by a fault of ours, or because the process was killed twice


@dataclass(frozen=True)
class Crew:
    """Who does the work."""

    engine: str = "local"  # or "ray"
    num_workers: int | None = None  # as many as cores


@dataclass(frozen=True)
class Progress:
    """Where a run stands."""

    done: int  # videos
    total: int
    left_s: float | None  # None until there is something to reckon from
    lines: tuple[ReportLine, ...] = ()  # of the video that was just finished


@dataclass(frozen=True)
class Summary:
    """What a run did and what the dataset holds."""

    num_new: int  # videos prepared by this run
    num_known: int  # that were prepared before
    num_clips: int  # in the dataset
    hours: float
    lines: tuple[ReportLine, ...]  # of all videos given


def prepare(
    places: Sequence[Path],
    dataset: Path,
    settings: Settings,
    crew: Crew = Crew(),
    show: Callable[[Progress], None] = lambda _: None,
) -> Summary:
    """Prepare all videos that are not done yet and pack their clips.

    Raises UserError: nothing to prepare, other settings than the dataset's, a missing package or model, a full disk, no
    usable clip at all. What was finished by then is kept.
    """
    if crew.engine == "ray":  # its processes stand in other folders
        places, dataset = [Path(place).absolute() for place in places], Path(dataset).absolute()
    paths = find_videos(places)
    work = Path(dataset) / WORK_NAME
    with locked(work):
        check_same_kind(work, Path(dataset), asdict(settings))
        videos, others = _identified(paths)
        known = {video.identity for video in videos if _record(work, video).is_file()}
        new = [video for video in videos if video.identity not in known]
        for video, lines in _prepared(new, work, settings, crew, show):
            if lines[0].reason == FAILED:
                others += lines  # not remembered: the next run tries again
            else:
                _keep(work, video, lines)
        lines = [*others, *read_records(work, videos)]
        index = pack_finished(work, Path(dataset), videos, settings, others)
    return Summary(len(new), len(known), index.num_samples, index.hours, tuple(lines))


def _prepared(
    videos: list[Video], work: Path, settings: Settings, crew: Crew, show: Callable[[Progress], None]
) -> Iterator[tuple[Video, list[ReportLine]]]:
    """What became of each video, as they are finished."""
    if not videos:
        return
    build = functools.partial(build_worker, settings, work)
    is_ray = crew.engine == "ray"
    workers: Any = engine.RayCrew(build) if is_ray else engine.LocalCrew(build)
    num_workers = crew.num_workers or (workers.num_cpus if is_ray else num_cores())
    started, done_bytes, total_bytes = time.monotonic(), 0, sum(video.num_bytes for video in videos)
    show(Progress(0, len(videos), None))
    # Large ones first, so that no worker begins an hour's film when the others are done.
    tasks = sorted(videos, key=lambda video: (-video.num_bytes, video.identity))
    for number, answer in enumerate(engine.run_all(workers, tasks, min(num_workers, len(videos))), 1):
        lines = answer.result
        if answer.problem is not None:
            shutil.rmtree(work / answer.task.identity, ignore_errors=True)
            lines = [ReportLine(str(answer.task.path), None, False, FAILED, answer.problem)]
        yield answer.task, lines
        done_bytes += answer.task.num_bytes
        left_s = (time.monotonic() - started) * (total_bytes - done_bytes) / max(done_bytes, 1)
        show(Progress(number, len(videos), left_s, tuple(lines)))


def build_worker(settings: Settings, work: Path) -> Callable[[Video], list[ReportLine]]:
    """What a worker process does with a video; one thread, because there are as many workers as cores."""
    import cv2
    import torch

    from joyhallo.data.preparation.equipment import open_equipment
    from joyhallo.data.preparation.one_video import VideoPreparer

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    preparer = VideoPreparer(settings, open_equipment(settings.preset, settings.separate_vocals))

    def do(video: Video) -> list[ReportLine]:
        folder = work / video.identity
        shutil.rmtree(folder, ignore_errors=True)  # what a stopped run left
        folder.mkdir()
        return preparer.prepare(video, folder)

    return do


def _identified(paths: Iterable[Path]) -> tuple[list[Video], list[ReportLine]]:
    """Each film once, by content; and lines about files that cannot be opened or are another's copy."""
    videos: dict[str, Video] = {}
    lines = []
    for path in paths:
        try:
            video = identify(path)
        except OSError as problem:
            lines.append(ReportLine(str(path), None, False, "unreadable video", problem.strerror or str(problem)))
            continue
        if video.identity in videos and video.num_bytes:
            lines.append(ReportLine(str(path), None, False, "copy", f"the same as '{videos[video.identity].path}'"))
        else:
            videos[video.identity] = video
    return list(videos.values()), lines


def _record(work: Path, video: Video) -> Path:
    return work / f"{video.identity}.json"


def _keep(work: Path, video: Video, lines: list[ReportLine]) -> None:
    """Remember that a video is finished, and what became of it."""
    with written_whole(_record(work, video), "record of a video", UserError) as temporary:
        text = json.dumps([asdict(line) for line in lines], ensure_ascii=False, indent=1)
        temporary.write_text(text, encoding="utf-8")
