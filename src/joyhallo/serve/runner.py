"""One job from the queue to its end: claimed, rendered in a process of its own, written down once."""

import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from joyhallo.serve.child import Child, ChildDiedError, NotWantedError
from joyhallo.serve.records import Job, Records
from joyhallo.serve.settings import Settings
from joyhallo.serve.storage import Storage

_PAUSE_S = 2.0  # before another try, longer each time
_log = logging.getLogger("joyhallo.serve")


class Renderer(Protocol):
    """A process that renders, here or elsewhere; as `Child`."""

    def ask(
        self,
        message: Mapping[str, Any],
        *,
        on_news: Callable[[Mapping[str, Any]], None],
        is_wanted: Callable[[], bool],
    ) -> Mapping[str, Any]:
        """Render one video; how it ended. Raises ChildDiedError, NotWantedError."""
        ...

    def kill(self) -> None:
        """End the process at once."""
        ...


Hire = Callable[[Settings, int], Renderer]


def hire_here(settings: Settings, slot: int) -> Renderer:
    """A process of this machine."""
    return Child("joyhallo.serve.worker", str(settings.device_lock), str(slot))


class Runner:
    """Renders jobs of the table, at most `settings.workers` at a time."""

    def __init__(self, settings: Settings, records: Records, storage: Storage, hire: Hire = hire_here) -> None:
        self.settings, self.records, self.storage = settings, records, storage
        self._stopping = threading.Event()
        self._children: queue.LifoQueue[Renderer] = queue.LifoQueue()  # the warm one first
        self._all = [hire(settings, slot) for slot in range(settings.workers)]
        for child in reversed(self._all):
            self._children.put(child)

    def stop(self) -> None:
        """Let go of what runs: it goes back to the queue, and its finished clips stay."""
        self._stopping.set()
        deadline = time.monotonic() + 10.0
        while self._children.qsize() < len(self._all) and time.monotonic() < deadline:
            time.sleep(0.05)
        for child in self._all:
            child.kill()

    def run(self, job_id: str) -> None:
        """Bring a job to its end, unless it was cancelled or has reached it. Killed and called again, it goes on."""
        if self._stopping.is_set() or not self._claim(job_id):
            return
        job = self.records.get(job_id)
        if job is None:
            return
        if job.starts > self.settings.limits.starts_without_progress:
            self._finish(job_id, "failed", f"the service stopped {job.starts - 1} times while it was at this job")
        elif self.storage.result(job_id).exists():  # the service was stopped between the video and writing this down
            self._finish(job_id, "done", "")
        else:
            child = self._children.get()
            try:
                self._render(job, child)
            finally:
                self._children.put(child)

    def _claim(self, job_id: str) -> bool:
        """Take a job that waits, or one that a stopped service left behind."""
        now = time.time()
        values = "status = 'running', starts = starts + 1, started_s = COALESCE(started_s, :now)"
        return self.records.change(job_id, ("queued", "running"), values, now=now)

    def _render(self, job: Job, child: Renderer) -> None:
        storage = self.storage
        message = {
            "portrait": str(storage.portrait(job.id)),
            "speech": str(storage.speech(job.id)),
            "output": str(storage.result(job.id)),
            "preview": str(storage.preview(job.id)),
            "settings": {**job.settings, **self.settings.render},
        }
        for crashes in range(1, self.settings.limits.crashes + 1):
            try:
                ended = child.ask(
                    message, on_news=lambda news: self._note(job.id, news), is_wanted=lambda: self._is_wanted(job.id)
                )
            except NotWantedError:
                self._let_go(job.id)
                return
            except ChildDiedError as error:
                ended = {"end": "broken", "note": str(error)}
            if ended["end"] == "done":
                self._finish(job.id, "done", ended["note"])
                return
            if ended["end"] == "refused":  # trying again would end the same
                self._finish(job.id, "failed", self._without_paths(job.id, ended["note"]))
                return
            _log.warning("job broke", extra={"job": job.id, "note": ended["note"], "crashes": crashes})
            if self._stopping.wait(_PAUSE_S * crashes) or not self._is_wanted(job.id):
                self._let_go(job.id)
                return
        self._finish(job.id, "failed", self._without_paths(job.id, f"rendering broke {crashes} times ({ended['note']})"))

    def _is_wanted(self, job_id: str) -> bool:
        if self._stopping.is_set():
            return False
        job = self.records.get(job_id)
        return job is not None and job.status == "running"

    def _let_go(self, job_id: str) -> None:
        """Rendering was ended from outside: the service stops, or the job was cancelled or deleted."""
        if self.records.change(job_id, ("running",), "status = 'queued', turn = turn + 1, starts = 0"):
            return
        job = self.records.get(job_id)
        if job is None or job.status == "cancelled":  # nothing is kept of it; a job that another turn finished keeps its video
            self.storage.remove(job_id)

    def _note(self, job_id: str, news: Mapping[str, Any]) -> None:
        progress = news["progress"]
        # The time left is known after a clip of this start: clips of an earlier one are no progress.
        is_new = progress["clips_done"] and progress["left_s"] is not None
        values = "progress = :text" + (", starts = 0" if is_new else "")
        self.records.change(job_id, ("running",), values, text=json.dumps(progress))

    def _finish(self, job_id: str, status: str, note: str) -> None:
        """The end of a job, written down once: whoever comes second finds another status than `running`."""
        result = self.storage.result(job_id)
        if status == "done":
            self.storage.keep_result(job_id)  # what it was made from is not kept
        size = result.stat().st_size if status == "done" else 0
        values = "status = :status, note = :note, finished_s = :now, finishes = finishes + 1, bytes = :size"
        ended = self.records.change(job_id, ("running",), values, status=status, note=note, now=time.time(), size=size)
        job = self.records.get(job_id)
        if job is None or job.status in ("failed", "cancelled"):
            self.storage.remove(job_id)
        _log.info("job ended", extra={"job": job_id, "status": status, "counted": ended})

    def _without_paths(self, job_id: str, note: str) -> str:
        """A message for whoever asked: the files by what they are, not by where we keep them."""
        storage = self.storage
        for path, name in (
            (storage.portrait(job_id), "portrait"),
            (storage.speech(job_id), "speech"),
            (storage.result(job_id), "video"),
            (storage.of(job_id), "job"),
        ):
            note = note.replace(f"'{path}'", name).replace(str(path), name)
        return note
