"""The HTTP API: hand in a portrait and a speech, watch the job, take the video.

A job is opened by its secret alone, in the header X-Job-Secret or, for players and event streams that can send no header, as
`?secret=`.
"""

import asyncio
import errno
import json
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, File, Form, Header, Query, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from joyhallo._version import __version__
from joyhallo.errors import UserError
from joyhallo.serve.fetching import Fetcher
from joyhallo.serve.guard import Guard
from joyhallo.serve.handing_in import HandingIn, NotAllowedError, Wish
from joyhallo.serve.jobs import Jobs, UnknownJobError
from joyhallo.serve.metrics import Metrics
from joyhallo.serve.records import ACTIVE, ConflictError, LimitError
from joyhallo.serve.schemas import ErrorView, FilesByUrl, JobView, TicketView, VideoSettings, in_words, view_of
from joyhallo.serve.uploads import TooLargeError, Uploads

_LOOK_S = 0.3
_log = logging.getLogger("joyhallo.serve")
_STATUS = {NotAllowedError: 403, UnknownJobError: 404, ConflictError: 409, LimitError: 429, TooLargeError: 413}
_ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorView, "description": text}
    for code, text in (
        (400, "Something given cannot be used"),
        (401, "A key is needed"),
        (403, "Not from here"),
        (404, "No such job, or not its secret"),
        (408, "The upload came in too slowly"),
        (409, "In conflict with what is there"),
        (413, "Too large"),
        (422, "A field is missing or out of its range"),
        (429, "Too many jobs"),
        (503, "Too many uploads at the same time: send it again after Retry-After seconds"),
    )
}
_SETTINGS_EXAMPLE = '{"steps": 8, "seed": 42, "mark": "start"}'


class NotReadyError(UserError):
    """The job has no video, or not yet."""


def secret_of(
    x_job_secret: Annotated[str, Header(max_length=100)] = "", secret: Annotated[str, Query(max_length=100)] = ""
) -> str:
    return x_job_secret or secret


Secret = Annotated[str, Depends(secret_of)]


def build_app(jobs: Jobs, uploads: Uploads, keys: Mapping[str, str] | None = None, fetcher: Fetcher | None = None) -> FastAPI:
    """The application; the jobs and uploads are opened and closed with it. Without a fetcher, no files by address."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(jobs.__enter__)
        try:
            uploads.clean()
            yield
        finally:
            await run_in_threadpool(jobs.__exit__)
            uploads.close()

    metrics = Metrics(jobs)
    app = FastAPI(
        title="JoyHallo", version=__version__, description=__doc__ or "", lifespan=life, docs_url="/docs", redoc_url=None
    )
    app.state.jobs, app.state.uploads = jobs, uploads
    app.add_middleware(Guard, limits=jobs.settings.limits, keys=keys, seen=metrics.seen)
    app.include_router(_taking(jobs, HandingIn(jobs, uploads, metrics, fetcher)))
    app.include_router(_watching(jobs))
    app.include_router(_operating(jobs, metrics))
    app.exception_handler(UserError)(_refuse)
    app.exception_handler(RequestValidationError)(_explain)
    app.exception_handler(HTTPException)(_name)
    for kind in (OSError, DBAPIError):
        app.exception_handler(kind)(_break)
    return app


async def _refuse(_: Request, error: Exception) -> Response:
    status = _STATUS.get(type(error), 409 if isinstance(error, NotReadyError) else 400)  # type: ignore[call-overload]
    headers = {"Retry-After": "10"} if status == 429 else None
    return JSONResponse({"error": " ".join(str(error).split())}, status, headers)


async def _explain(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return JSONResponse({"error": in_words(error)}, 422)


async def _name(_: Request, error: Exception) -> Response:
    """No such route, no such method, a form that cannot be taken apart: in the same form as all other errors."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)


async def _break(_: Request, error: Exception) -> Response:
    """The disk or the database: whoever runs the service reads the log, whoever uses it comes again."""
    _log.error("request broke", extra={"note": " ".join(str(error).split())})
    is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if is_full or isinstance(error, DBAPIError):
        what = "disk of the service is full" if is_full else "database of the service does not answer"
        return JSONResponse({"error": f"the {what}: try again later"}, 503, {"Retry-After": "60"})
    return JSONResponse({"error": "the service failed at this: try again, or ask whoever runs it to read its log"}, 500)


def _taking(jobs: Jobs, handing_in: HandingIn) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["jobs"], responses=_ERRORS)

    @router.post("/jobs", status_code=202)
    async def submit(
        request: Request,
        portrait: Annotated[UploadFile, File(description="A picture with a face: JPEG, PNG, WebP and others")],
        speech: Annotated[UploadFile, File(description="A recording: WAV, MP3, M4A, FLAC, OGG and others")],
        consent: Annotated[bool, Form(description="The person shown agreed to this video", examples=[True])],
        settings: Annotated[str, Form(max_length=2000, description="JSON", examples=[_SETTINGS_EXAMPLE])] = "{}",
        idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
    ) -> TicketView:
        """Hand in a portrait and a speech. The same Idempotency-Key gives the same job."""
        try:
            wanted = VideoSettings.model_validate_json(settings)
        except ValidationError as error:
            raise UserError(f"settings: {in_words(error)}") from error
        wish = Wish(request.state.client, wanted, consent, idempotency_key)
        return await handing_in.files(portrait.file, speech.file, wish)

    @router.post("/jobs/by-url", status_code=202)
    async def submit_urls(
        request: Request, given: FilesByUrl, idempotency_key: Annotated[str | None, Header(max_length=200)] = None
    ) -> TicketView:
        """The same with files that the service fetches, where it was started with --allow-urls."""
        wish = Wish(request.state.client, given.settings, given.consent, idempotency_key)
        return await handing_in.urls(given.portrait_url, given.speech_url, wish)

    @router.post("/jobs/{job_id}/cancel")
    def cancel(job_id: str, secret: Secret) -> JobView:
        """Stop a job that waits or runs; a finished one stays as it is."""
        return view_of(jobs.cancel(job_id, secret), 0)

    @router.delete("/jobs/{job_id}", status_code=204)
    def delete(job_id: str, secret: Secret) -> None:
        """Stop a job, and forget it and its files."""
        jobs.delete(job_id, secret)

    return router


def _watching(jobs: Jobs) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["jobs"], responses=_ERRORS)

    def look(job_id: str, secret: str) -> JobView:
        job = jobs.get(job_id, secret)
        return view_of(job, jobs.records.num_before(job) if job.status == "queued" else 0)

    @router.get("/jobs/{job_id}")
    def status(job_id: str, secret: Secret) -> JobView:
        """Where a job stands."""
        return look(job_id, secret)

    @router.get("/jobs/{job_id}/video", response_class=FileResponse)
    def video(job_id: str, secret: Secret) -> FileResponse:
        """The finished video; ranges work."""
        return _file(jobs.get(job_id, secret).status == "done", jobs.storage.result(job_id), "video/mp4")

    @router.get("/jobs/{job_id}/preview", response_class=FileResponse)
    def preview(job_id: str, secret: Secret) -> FileResponse:
        """The newest finished frame of a job that runs, marked as made by AI."""
        return _file(jobs.get(job_id, secret).status in ACTIVE, jobs.storage.preview(job_id), "image/jpeg")

    @router.get("/jobs/{job_id}/events", response_class=Response)
    async def events(job_id: str, secret: Secret) -> Response:
        """Server-sent events: the job whenever it changes, until it ends."""
        from sse_starlette.sse import EventSourceResponse

        first = await run_in_threadpool(look, job_id, secret)

        async def changes() -> AsyncIterator[dict[str, str]]:
            view, said = first, None
            while True:
                if view != said:
                    yield {"event": "job", "data": json.dumps(view.model_dump())}
                    said = view
                if view.status not in ACTIVE:
                    return
                await asyncio.sleep(_LOOK_S)
                try:
                    view = await run_in_threadpool(look, job_id, secret)
                except UnknownJobError:  # deleted meanwhile
                    return

        return EventSourceResponse(changes())

    return router


def _file(is_there: bool, path: Path, kind: str) -> FileResponse:
    if not is_there or not path.exists():
        raise NotReadyError("there is nothing to show: the job is not that far, or its files have left")
    headers = {"Cache-Control": "private, no-store", "X-Content-Type-Options": "nosniff"}
    return FileResponse(
        path, media_type=kind, filename=f"joyhallo{path.suffix}", content_disposition_type="inline", headers=headers
    )


def _operating(jobs: Jobs, metrics: Metrics) -> APIRouter:
    router = APIRouter(tags=["operation"])

    @router.get("/health")
    async def health() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok", "version": __version__}

    @router.get("/ready", responses={503: {"description": "Not ready"}})
    def ready() -> Response:
        """The database and the disk answer."""
        try:
            counts = jobs.records.counts()
            is_ready = jobs.is_open and os.access(jobs.storage.root, os.W_OK | os.X_OK)
        except DBAPIError:
            counts, is_ready = {}, False
        return JSONResponse({"is_ready": is_ready, "waiting": counts.get("queued", 0)}, 200 if is_ready else 503)

    @router.get("/metrics", response_class=Response)
    def numbers() -> Response:
        """For Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    return router
