"""Jobs: hand one in, see where it stands, take its video. They survive the process and are made once."""

import hashlib
import json
import logging
import shutil
import threading
import time
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from joyhallo.errors import UserError
from joyhallo.media.files import written_whole
from joyhallo.serve.dispatch import Dispatch
from joyhallo.serve.records import ACTIVE, Job, LimitError, NewJob, Records
from joyhallo.serve.runner import Hire, Runner, hire_here
from joyhallo.serve.settings import Settings
from joyhallo.serve.storage import Storage, new_id

_CARE_S = 30.0
_REMEMBERED = 4  # times as long as results are kept
_log = logging.getLogger("joyhallo.serve")


@dataclass(frozen=True)
class Consent:
    """That whoever is shown agreed, or why nobody needs to be asked."""

    is_given: bool
    basis: str = "the person shown agreed"  # or: it is me, a drawing, …
    given_s: float = field(default_factory=time.time)  # seconds since 1970


@dataclass(frozen=True)
class Asked:
    """What is handed in: two files that can be read, and how the video is to be.

    `settings` holds fields of `RenderRequest` as plain values, and lip, expression and pose.
    """

    portrait: Path
    speech: Path
    duration_s: float  # of the speech
    client: str
    consent: Consent
    settings: Mapping[str, Any] = field(default_factory=dict)
    idempotency_key: str | None = None

    def fingerprint(self) -> str:
        """SHA-256 of all that decides the video."""
        digest = hashlib.sha256(json.dumps(dict(self.settings), sort_keys=True).encode())
        for path in (self.portrait, self.speech):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()


@dataclass(frozen=True)
class Ticket:
    """What opens a job."""

    id: str
    secret: str
    is_new: bool  # False: the same idempotency key came before, and this is its job


class UnknownJobError(UserError):
    """There is no such job, or the secret is not its own: nobody learns which."""


@dataclass(frozen=True)
class Only:
    """The jobs that are wanted of a client; its other ones are dropped, those of other clients are left as they are."""

    client: str
    keys: Set[str]


class Jobs:
    """The jobs of a folder. Use as a context manager: inside it jobs are rendered, one process a folder and machine.

    `hire` says where processes that render come from. `only` holds idempotency keys: all other jobs whose video was not taken
    are dropped at the start.

    Raises:
        UserError: the folder or the database cannot be used.
    """

    def __init__(self, settings: Settings, only: Only | None = None, hire: Hire = hire_here) -> None:
        self.settings, self._only, self._hire = settings, only, hire
        self.storage = Storage(settings.folder)
        self.records = Records(settings.url("jobs.sqlite"))
        self._closing = threading.Event()
        self._closing.set()

    def __enter__(self) -> "Jobs":
        from filelock import FileLock, Timeout

        self._lock = FileLock(self.settings.folder / f"executor-{self.settings.executor}.lock")
        try:
            self._lock.acquire(timeout=5.0)
        except Timeout as error:
            raise UserError(
                f"the folder '{self.settings.folder}' is in use by another service: give another folder, or stop that one"
            ) from error
        self._drop_others()  # before the queue goes on with what it holds
        self._runner = Runner(self.settings, self.records, self.storage, self._hire)
        self._dispatch = Dispatch(self.settings, self._runner.run)
        self.put_back()
        self._closing.clear()
        self._carer = threading.Thread(target=self._care, daemon=True)
        self._carer.start()
        return self

    @property
    def is_open(self) -> bool:
        """Jobs are taken and rendered."""
        return not self._closing.is_set()

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._runner.stop()
        self._dispatch.stop()
        self._carer.join()
        self._lock.release()
        self.records.close()

    def submit(self, asked: Asked) -> Ticket:
        """Take a job; it is rendered in its turn. The files are copied.

        Raises:
            UserError: no consent; an idempotency key that belongs to another request.
            LimitError: the client, the queue or the disk is full.
        """
        if not asked.consent.is_given:
            raise UserError("the consent of the person shown is missing: ask them, and say so (consent=true)")
        limits = self.settings.limits
        size = asked.portrait.stat().st_size + asked.speech.stat().st_size
        if not self.make_room(size):
            raise LimitError("the disk space for jobs is used up by jobs that wait: try again later")
        job_id = new_id()
        folder = self.storage.of(job_id)
        folder.mkdir()
        new = NewJob(
            id=job_id,
            client=asked.client,
            asked_sha256=asked.fingerprint(),
            settings=asked.settings,
            consent=vars(asked.consent),
            duration_s=asked.duration_s,
            bytes=size,
            idempotency_key=asked.idempotency_key,
        )
        is_kept = False
        try:
            shutil.copyfile(asked.portrait, self.storage.portrait(job_id))
            shutil.copyfile(asked.speech, self.storage.speech(job_id))
            job, is_kept = self.records.add(new, limits.jobs_per_client, limits.jobs_waiting)
        finally:
            if not is_kept:
                self.storage.remove(job_id)
        if job.status == "queued":
            self._dispatch.put(job)
        _log.info("job taken", extra={"job": job.id, "new": is_kept})
        return Ticket(job.id, self.storage.secret(job.id), is_kept)

    def get(self, job_id: str, secret: str) -> Job:
        """Where a job stands.

        Raises:
            UnknownJobError: no such job, or not its secret.
        """
        job = self.records.get(job_id) if self.storage.opens(job_id, secret) else None
        if job is None:
            raise UnknownJobError("there is no such job, or the secret is not its own: check both")
        return job

    def result(self, job_id: str, secret: str) -> Path:
        """The finished video.

        Raises:
            UnknownJobError: as `get`.
            UserError: it is not finished, or has left.
        """
        job = self.get(job_id, secret)
        path = self.storage.result(job_id)
        if job.status != "done" or not path.exists():
            raise UserError(f"the job is {job.status}: there is no video {'any more' if job.status == 'expired' else 'yet'}")
        return path

    def cancel(self, job_id: str, secret: str) -> Job:
        """Stop a job that waits or runs; a finished one stays as it is.

        Raises:
            UnknownJobError: as `get`.
        """
        job = self.get(job_id, secret)
        if (
            self.records.change(job_id, ACTIVE, "status = 'cancelled', bytes = 0, finished_s = :now", now=time.time())
            and job.status == "queued"
        ):
            self._dispatch.take_out(job)
            self.storage.remove(job_id)  # that of a running one is removed once its process has ended
        return self.get(job_id, secret)

    def delete(self, job_id: str, secret: str) -> None:
        """Stop a job, and forget it and its files.

        Raises:
            UnknownJobError: as `get`.
        """
        self.cancel(job_id, secret)
        self.records.remove(job_id)
        self.storage.remove(job_id)

    def hand_over(self, job_id: str, secret: str, output: Path) -> None:
        """Put the video and its record to another place, whole; the job keeps no files then.

        Raises:
            UserError: there is no video, or it cannot be written there.
        """
        result = self.result(job_id, secret)
        for made, wanted in (
            (result.with_name(result.name + ".json"), output.with_name(output.name + ".json")),
            (result, output),
        ):
            with written_whole(wanted, "video", UserError) as temporary:
                shutil.copyfile(made, temporary)
        if self.records.change(job_id, ("done",), "status = 'expired', bytes = 0"):
            self.storage.remove(job_id)

    def make_room(self, size: int) -> bool:
        """Let the oldest results leave until `size` more bytes fit; False when waiting jobs take all the room."""
        limits = self.settings.limits
        kept = self.records.kept_bytes()
        for job in self.records.finished_oldest_first():
            is_old = time.time() - (job.finished_s or 0.0) > limits.kept_s
            if not is_old and kept + size <= limits.kept_bytes:
                break
            if self.records.change(job.id, (job.status,), "status = 'expired', bytes = 0"):
                self.storage.remove(job.id)
                kept -= job.bytes
        return kept + size <= limits.kept_bytes

    def put_back(self) -> None:
        """Bring table, queue and folders together: what was written down and not put into the queue, what lies about."""
        for status in ACTIVE:
            jobs = self.records.of_status(status)
            for job in self._dispatch.ended(jobs):  # its turn is over, and it is not: a stop, or a database that went away
                self.records.change(job.id, (job.status,), "status = 'queued', turn = :turn", turn=job.turn + 1)
        for job in self.records.of_status("queued"):
            if self._only is None or job.client == self._only.client:
                self._dispatch.put(job)
        self.storage.sweep(self.records.ids())

    def _drop_others(self) -> None:
        if self._only is None:
            return
        for status in (*ACTIVE, "done", "failed", "cancelled"):
            for job in self.records.of_status(status):
                if job.client == self._only.client and job.idempotency_key not in self._only.keys:
                    self.records.remove(job.id)
                    self.storage.remove(job.id)

    def forget(self) -> None:
        """Remove the rows of jobs whose files left long ago; their secrets and idempotency keys go with them."""
        old = self.records.finished_before(time.time() - _REMEMBERED * self.settings.limits.kept_s)
        if old:
            self._dispatch.forget(old)
        for job in old:
            self.records.remove(job.id)

    def _care(self) -> None:
        from sqlalchemy.exc import DBAPIError

        while not self._closing.wait(_CARE_S):
            try:
                self.make_room(0)
                self.put_back()
                self.forget()
            except (OSError, DBAPIError) as error:  # a database or disk that is away for a while
                _log.warning("care failed", extra={"note": str(error)})
