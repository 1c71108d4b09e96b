"""Finished films → shards: their speakers are told apart, their clips packed, their lines added to the report."""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

from joyhallo.data.index import INDEX_NAME, Index, read_index, read_json, write_text
from joyhallo.data.preparation.films import UNKNOWN_SPEAKER, Settings, Video
from joyhallo.data.preparation.people import SAME_PERSON, read_people, write_people
from joyhallo.data.report import ReportLine, append_lines, read_lines
from joyhallo.data.samples import FACTS_SUFFIX, facts_text, read_annotations, read_facts
from joyhallo.data.shards import pack
from joyhallo.errors import UserError
from joyhallo.media.files import writing_error

PEOPLE_NAME = "people.safetensors"
READY_NAME = "ready"
_SETTINGS_NAME = "settings.json"


def check_same_kind(work: Path, dataset: Path, settings: Mapping[str, Any]) -> None:
    """A dataset has one kind of clips, that of its first run: refuse others before any work, and note down these.

    `settings`: by name; those that belong together in mappings of their own. Raises UserError with the first that differs.
    """
    asked, before = _flat(settings), {}
    if (dataset / INDEX_NAME).is_file():
        index = read_index(dataset)
        before = {"preset": index.preset, "size_px": index.size_px}
    path = work / _SETTINGS_NAME
    if path.is_file():
        before |= _flat(cast("dict[str, Any]", read_json(path)))
    for name, value in asked.items():
        if before.get(name, value) != value:
            raise UserError(
                f"the dataset '{dataset}' was begun with {name}={before[name]}, not {value}: give the same settings, or "
                "another output folder"
            )
    if asked.keys() - before.keys():
        write_text(path, json.dumps(before | asked, indent=1, sort_keys=True))


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    inner = [values for values in settings.values() if isinstance(values, dict)]
    return {name: value for values in (settings, *inner) for name, value in values.items() if not isinstance(value, dict)}


def pack_finished(
    work: Path, dataset: Path, videos: Sequence[Video], settings: Settings, others: Iterable[ReportLine]
) -> Index:
    """Pack the clips of all finished films of a work folder that are not packed yet, and report them.

    `others`: lines about files that no worker saw. Every step can be stopped and done again: clips get their speaker, move
    into one folder, and are packed; then the report is written and the film's folder goes.

    Raises UserError when the dataset would be empty, or files cannot be written.
    """
    ready = work / READY_NAME
    ready.mkdir(exist_ok=True)
    folders = [work / video.identity for video in sorted(videos, key=lambda video: (video.path.name, video.identity))]
    folders = [folder for folder in folders if folder.is_dir() and folder.with_suffix(".json").is_file()]
    _name_speakers(work, folders)
    for folder in folders:
        _move(folder, ready)
    _report(dataset, work, videos, others)
    has_clips = any(ready.glob(f"*.{FACTS_SUFFIX}"))
    if not has_clips and not (dataset / INDEX_NAME).is_file():
        reasons = sorted({line.reason for line in [*others, *read_records(work, videos)] if line.reason})
        raise UserError(
            f"no clip could be made of {len(videos)} videos ({', '.join(reasons)}): see '{dataset / 'report.jsonl'}'"
        )
    index = pack(ready, dataset, preset=settings.preset, is_moved=True) if has_clips else read_index(dataset)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    return index


def read_records(work: Path, videos: Iterable[Video]) -> list[ReportLine]:
    """What is remembered of finished films."""
    records = (work / f"{video.identity}.json" for video in videos)
    texts = (record.read_text(encoding="utf-8") for record in records if record.is_file())
    return [ReportLine(**values) for text in texts for values in json.loads(text)]


def _name_speakers(work: Path, folders: Sequence[Path]) -> None:
    """Write into the facts of every clip who speaks.

    The people are written first: a run that is stopped in between finds them again, and by them the same names.
    """
    people = read_people(work / PEOPLE_NAME)
    named = []
    for folder in folders:
        for file in sorted(folder.glob(f"*.{FACTS_SUFFIX}")):
            facts = read_facts(json.loads(file.read_text(encoding="utf-8")), str(file))
            if facts.speaker != UNKNOWN_SPEAKER:
                continue
            content = file.with_suffix(".safetensors").read_bytes()
            embedding = read_annotations(content, facts.key).face_embedding
            speaker = people.assign(embedding, f"speaker-{folder.name[:10]}", SAME_PERSON[facts.identity_encoder])
            named.append((file, replace(facts, speaker=speaker)))
    if named:
        write_people(work / PEOPLE_NAME, people)
    for file, facts in named:
        write_text(file, facts_text(asdict(facts)))


def _move(folder: Path, ready: Path) -> None:
    """All files of a film's clips, the facts last: they make a clip whole."""
    for path in sorted(folder.iterdir(), key=lambda path: (path.suffix == f".{FACTS_SUFFIX}", path.name)):
        path.replace(ready / path.name)


def _report(dataset: Path, work: Path, videos: Sequence[Video], others: Iterable[ReportLine]) -> None:
    """Add the lines that the report does not have."""
    known = {(line.get("source"), line.get("key"), line.get("start_s"), line.get("reason")) for line in read_lines(dataset)}
    new = [*others, *read_records(work, videos)]
    append_lines(dataset, [line for line in new if (line.source, line.key, line.start_s, line.reason) not in known])


@contextmanager
def locked(work: Path) -> Iterator[None]:
    """The unfinished business of a dataset, made if it is not there, for this process alone.

    Raises UserError when another process is at it, or the folder cannot be made.
    """
    from filelock import FileLock, Timeout

    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise writing_error(problem, work.parent, "dataset", UserError) from problem
    try:
        with FileLock(work / "lock", timeout=0):
            yield
    except Timeout as problem:
        raise UserError(
            f"'{work.parent}' is being prepared by another process: wait for it, or give another output"
        ) from problem
