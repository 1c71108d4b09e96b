"""A small client of the HTTP API.

with Client("http://127.0.0.1:7860") as client:
    ticket = client.submit("portrait.png", "speech.wav", consent=True)
    client.wait(ticket, lambda job: print(job["status"], job["progress"]))
    client.download(ticket, "video.mp4")
"""

import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from joyhallo.errors import UserError
from joyhallo.media.files import require_file, written_whole

if TYPE_CHECKING:
    import httpx

_LOOK_S = 0.5
_TRIES = 5
_PAUSE_S = 1.0
_BUSY_S = 120.0  # as long the service may say that too many uploads come in


@dataclass(frozen=True)
class JobTicket:
    """What opens a job: keep it."""

    id: str
    secret: str


class ServiceError(UserError):
    """The service refused, failed the job, or cannot be reached."""


class Client:
    """One service. `key` is needed where the service was started with keys."""

    def __init__(self, url: str = "http://127.0.0.1:7860", key: str | None = None, timeout_s: float = 120.0) -> None:
        import httpx

        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self.http = httpx.Client(base_url=url, headers=headers, timeout=timeout_s)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.http.close()

    def submit(
        self,
        portrait: str | Path,
        speech: str | Path,
        *,
        consent: bool,
        idempotency_key: str | None = None,
        **settings: Any,  # noqa: ANN401 (the fields of VideoSettings)
    ) -> JobTicket:
        """Hand in a job. Sent again when the connection breaks: the idempotency key makes it one job.

        Raises:
            ServiceError: the service refused; its line says why.
        """
        files = {name: require_file(path, name, UserError) for name, path in (("portrait", portrait), ("speech", speech))}
        found = self._send(
            "POST",
            "/v1/jobs",
            files={name: ("given", path.read_bytes()) for name, path in files.items()},
            data={"consent": str(consent).lower(), "settings": json.dumps(settings)},
            headers={"Idempotency-Key": idempotency_key or uuid.uuid4().hex},
        ).json()
        return JobTicket(found["id"], found["secret"])

    def submit_urls(
        self,
        portrait_url: str,
        speech_url: str,
        *,
        consent: bool,
        idempotency_key: str | None = None,
        **settings: Any,  # noqa: ANN401 (the fields of VideoSettings)
    ) -> JobTicket:
        """Hand in a job whose files the service fetches itself; it must have been started with --allow-urls.

        Raises:
            ServiceError: the service refused; its line says why.
        """
        given = {"portrait_url": portrait_url, "speech_url": speech_url, "consent": consent, "settings": settings}
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        found = self._send("POST", "/v1/jobs/by-url", json=given, headers=headers).json()
        return JobTicket(found["id"], found["secret"])

    def status(self, ticket: JobTicket) -> dict[str, Any]:
        """The job as the API shows it: status, progress, note …"""
        return dict(self._send("GET", f"/v1/jobs/{ticket.id}", ticket).json())

    def wait(self, ticket: JobTicket, on_change: Callable[[Mapping[str, Any]], None] = lambda _: None) -> dict[str, Any]:
        """Until the job is done.

        Raises:
            ServiceError: it failed, was cancelled or has left.
        """
        said = None
        while True:
            job = self.status(ticket)
            if job != said:
                on_change(job)
                said = job
            if job["status"] == "done":
                return job
            if job["status"] not in ("queued", "running"):
                raise ServiceError(f"the job is {job['status']}: {job['note'] or 'hand it in again'}")
            time.sleep(_LOOK_S)

    def download(self, ticket: JobTicket, output: str | Path) -> Path:
        """Write the video, whole or not at all."""
        answer = self._send("GET", f"/v1/jobs/{ticket.id}/video", ticket)
        with written_whole(Path(output), "video", ServiceError) as temporary:
            temporary.write_bytes(answer.content)
        return Path(output)

    def cancel(self, ticket: JobTicket) -> dict[str, Any]:
        return dict(self._send("POST", f"/v1/jobs/{ticket.id}/cancel", ticket).json())

    def delete(self, ticket: JobTicket) -> None:
        self._send("DELETE", f"/v1/jobs/{ticket.id}", ticket)

    def _send(self, method: str, path: str, ticket: JobTicket | None = None, **given: Any) -> "httpx.Response":  # noqa: ANN401
        import httpx

        if ticket is not None:
            given["headers"] = {**given.get("headers", {}), "X-Job-Secret": ticket.secret}
        patience = time.monotonic() + _BUSY_S
        left = _TRIES
        while True:
            try:
                answer = self.http.request(method, path, **given)
            except httpx.TransportError as error:
                left -= 1
                if not left:
                    raise ServiceError(f"{self.http.base_url} does not answer ({error}): is the service running?") from error
                time.sleep(_PAUSE_S)
                continue
            if answer.is_success:
                return answer
            again_s = int(answer.headers.get("retry-after", 60)) if answer.status_code == 503 else 60
            if again_s < 10 and time.monotonic() < patience:  # uploads of others; a full disk takes longer
                time.sleep(again_s)
                continue
            is_json = answer.headers.get("content-type", "").startswith("application/json")
            raise ServiceError(
                answer.json().get("error", answer.text) if is_json else f"the service answered {answer.status_code}"
            )
