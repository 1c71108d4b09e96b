"""Many videos from a list, without a server: the same durable jobs, in a folder beside the list."""

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joyhallo.errors import UserError
from joyhallo.media.files import require_file, require_output
from joyhallo.serve.jobs import Asked, Consent, Jobs, Only, Ticket
from joyhallo.serve.records import Job
from joyhallo.serve.runner import Hire, hire_here
from joyhallo.serve.settings import Settings

_LOOK_S = 0.2


@dataclass(frozen=True)
class Line:
    """One video of a list."""

    number: int  # counted from 1
    portrait: Path
    speech: Path
    output: Path
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Ended:
    """How one line ended: done, kept (made by an earlier run) or failed, and why."""

    line: Line
    status: str
    note: str = ""


def read_manifest(path: Path) -> list[Line]:
    """The lines of a JSON-lines file: objects with portrait, speech, output and, if wanted, fields of `LineSettings`.
    Paths are relative to the folder of the file.

    Raises:
        UserError: no such file, a line that is no such object, a file that is not there, two lines with one output.
    """
    require_file(path, "manifest", UserError)
    try:
        rows = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"the manifest '{path}' is not text in UTF-8: save it as JSON lines") from error
    lines = [_line(path, number, row) for number, row in enumerate(rows, 1) if row.strip()]
    if not lines:
        raise UserError(f"the manifest '{path}' has no lines: write one JSON object for each video")
    seen: dict[Path, int] = {}
    for line in lines:
        if (earlier := seen.setdefault(line.output.absolute(), line.number)) != line.number:
            raise UserError(f"lines {earlier} and {line.number} of '{path}' have the same output: give each its own")
    return lines


def _line(path: Path, number: int, row: str) -> Line:
    from pydantic import ValidationError

    from joyhallo.serve.schemas import LineSettings, in_words

    where = f"line {number} of '{path}'"
    try:
        given = json.loads(row)
    except ValueError as error:
        raise UserError(f"{where} is no JSON ({error}): write one object a line") from error
    if not isinstance(given, dict) or not all(isinstance(given.get(key), str) for key in ("portrait", "speech", "output")):
        raise UserError(f'{where} needs "portrait", "speech" and "output", each a path')
    files = {key: path.parent / given.pop(key) for key in ("portrait", "speech", "output")}
    try:
        settings = LineSettings.model_validate(given).asked()
    except ValidationError as error:
        raise UserError(f"{where}: {in_words(error)}; known are {', '.join(LineSettings.model_fields)}") from error
    for key in ("portrait", "speech"):
        require_file(files[key], f"{key} of line {number}", UserError)
    require_output(files["output"], f"output of line {number}", UserError)
    return Line(number, settings=settings, **files)


def run_batch(
    manifest: Path,
    settings: Settings,
    *,
    overwrite: bool = False,
    on_progress: Callable[[Line, Job], None] = lambda *_: None,
    hire: Hire = hire_here,
) -> Iterator[Ended]:
    """Make all videos of a list, in its order; killed and called again, it goes on. Yields each as it ends. What an earlier
    state of the list asked for and this one does not is dropped. `hire` says where processes that render come from.

    Raises:
        UserError: the list cannot be used, an output is there that no earlier run of it made, the folder is in use.
    """
    lines = read_manifest(manifest)
    no_limit = 2**62
    roomy = dataclasses.replace(
        settings.limits, jobs_per_client=no_limit, jobs_waiting=no_limit, kept_s=1e12, kept_bytes=no_limit
    )
    asked = {line.number: _asked(line, settings, client_of_list(manifest)) for line in lines}
    only = Only(client_of_list(manifest), frozenset(str(each.idempotency_key) for each in asked.values()))
    with Jobs(dataclasses.replace(settings, limits=roomy), only, hire) as jobs:
        waiting: dict[int, tuple[Line, Ticket]] = {}
        for line in lines:
            ticket, is_kept = _hand_in(jobs, line, asked[line.number], overwrite=overwrite)
            if is_kept:
                yield Ended(line, "kept", "made by an earlier run")
            else:
                waiting[line.number] = line, ticket
        while waiting:
            for line, ticket in list(waiting.values()):
                job = jobs.get(ticket.id, ticket.secret)
                on_progress(line, job)
                if job.status not in ("queued", "running"):
                    del waiting[line.number]
                    if job.status == "done":
                        jobs.hand_over(ticket.id, ticket.secret, line.output)
                    yield Ended(line, job.status, job.note)
            time.sleep(_LOOK_S)


def client_of_list(manifest: Path) -> str:
    """A list by where it lies: it answers for its own jobs alone."""
    return "batch:" + hashlib.sha256(str(manifest.resolve()).encode()).hexdigest()[:16]


def _asked(line: Line, settings: Settings, client: str) -> Asked:
    """The job of a line; its key holds what decides the video, and where it goes: with other weights it is another job."""
    from joyhallo.media.audio import probe_speech

    asked = Asked(
        portrait=line.portrait,
        speech=line.speech,
        duration_s=probe_speech(line.speech).duration_s,
        client=client,
        consent=Consent(is_given=True, basis="given by who ran the command"),
        settings=line.settings,
    )
    decides = {name: value for name, value in settings.render.items() if name != "device"}
    place = os.path.relpath(line.output.absolute(), settings.folder.absolute())
    key = json.dumps([asked.fingerprint(), place, decides], sort_keys=True, default=str)
    return dataclasses.replace(asked, idempotency_key=hashlib.sha256(key.encode()).hexdigest())


def _hand_in(jobs: Jobs, line: Line, asked: Asked, *, overwrite: bool) -> tuple[Ticket, bool]:
    """The job of a line; second: whether an earlier run made its video."""
    ticket = jobs.submit(asked)
    job = jobs.get(ticket.id, ticket.secret)
    if ticket.is_new and line.output.exists() and not overwrite:
        jobs.delete(ticket.id, ticket.secret)
        raise UserError(f"the output '{line.output}' of line {line.number} exists already: add --overwrite, or move it")
    if job.status == "expired" and line.output.exists():
        return ticket, True
    if job.status in ("failed", "cancelled", "expired"):  # another try
        jobs.delete(ticket.id, ticket.secret)
        ticket = jobs.submit(asked)
    return ticket, False


def folder_beside(manifest: Path) -> Path:
    """Where the jobs of a list are kept."""
    return manifest.with_name(f".{manifest.name}.joyhallo")
