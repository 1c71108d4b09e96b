"""`joyhallo serve`: the page and the HTTP API in one process, with a queue that survives it."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from joyhallo.errors import UserError

if TYPE_CHECKING:
    from joyhallo.serve.settings import Settings

_ADDRESS, _VIDEOS, _KEPT = Group("Address", sort_key=1), Group("Videos", sort_key=2), Group("What is kept", sort_key=3)
_NEEDED = ("dbos", "fastapi", "uvicorn", "gradio", "multipart", "prometheus_client", "sse_starlette")


@Parameter(name="*", group=_ADDRESS)
@dataclass(frozen=True)
class Address:
    """Where the service listens, and to whom."""

    host: str = "127.0.0.1"
    "The address to listen on. Others than this machine's own need --keys."
    port: int = 7860
    "The port; the API is described at /docs."
    keys: Path | None = None
    "A file with a line NAME KEY for each client; clients send Authorization: Bearer KEY."
    allow_urls: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = ()
    "Hosts from which files may be fetched for jobs: HOST, HOST:PORT, *.DOMAIN, or * for any of the internet."
    page: bool = True
    "Show the web page; without, the API alone."
    voice_command: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    "Another voice for text typed into the page, as NAME=COMMAND with {output} for the WAV it writes; may be repeated."


@Parameter(name="*", group=_VIDEOS)
@dataclass(frozen=True)
class Videos:
    """How videos are made."""

    model: Annotated[str, Parameter(name=["--model", "-m"])] = "mini"
    "mini, a folder of weights, or a repository of the hub."
    device: str = "auto"
    "auto, cpu, cuda, cuda:1 or mps."
    workers: int = 1
    "Videos made at the same time; several GPUs are taken in turn."
    provider: str | None = None
    "Who makes the videos, for the embedded label: your provider code or name (ASCII without spaces)."


@Parameter(name="*", group=_KEPT)
@dataclass(frozen=True)
class Kept:
    """Where jobs are."""

    folder: Path | None = None
    "Where jobs and results are kept; a folder of your home by default."
    database_url: str | None = None
    "postgresql+psycopg://… for several machines that share the folder; SQLite in the folder by default."
    executor: str = "local"
    "The name of this machine among those that share a database."


def serve(*, address: Address = Address(), videos: Videos = Videos(), kept: Kept = Kept()) -> int:
    """Start the page and the HTTP API. Stop with Ctrl-C: what runs goes on at the next start."""
    if not 1 <= videos.workers <= 64:
        raise UserError(f"--workers is {videos.workers}: give 1 to 64")
    if not 1 <= address.port <= 65535:
        raise UserError(f"--port is {address.port}: give 1 to 65535 (below 1024 needs rights)")
    if not kept.executor.replace("-", "_").isidentifier():
        raise UserError(f"--executor is {kept.executor!r}: give a name of letters, digits, - and _")
    _require_extra()
    from joyhallo.serve.fetching import read_allowed
    from joyhallo.serve.keys import read_keys, require_safe_address
    from joyhallo.serve.settings import Settings
    from joyhallo.serve.voice import find_voices

    find_voices(address.voice_command)
    read_allowed(address.allow_urls)
    keys = None if address.keys is None else read_keys(address.keys)
    require_safe_address(address.host, keys)
    render = {"model": videos.model, "device": videos.device}
    if videos.provider is not None:
        render["provider"] = videos.provider
    settings = Settings(kept.folder or home_folder(), kept.database_url, videos.workers, render, executor=kept.executor)
    _run(settings, keys, address)
    return 0


def home_folder() -> Path:
    """Where a service keeps its things unless told."""
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "joyhallo" / "service"


def _run(settings: Settings, keys: dict[str, str] | None, address: Address) -> None:
    import uvicorn

    from joyhallo.serve.api import build_app
    from joyhallo.serve.fetching import Fetcher, read_allowed
    from joyhallo.serve.jobs import Jobs
    from joyhallo.serve.logs import write_logs
    from joyhallo.serve.uploads import Uploads

    write_logs()
    _require_free(address)
    jobs = Jobs(settings)
    uploads = Uploads(settings.folder / f"executor-{settings.executor}", settings.limits)  # it is emptied at every start
    try:
        print(f"looking at the weights of {settings.render['model']}", file=sys.stderr, flush=True)
        uploads.learn(str(settings.render["model"]))
        allowed = read_allowed(address.allow_urls)
        app = build_app(jobs, uploads, keys, Fetcher(allowed, settings.limits) if allowed else None)
        if address.page:
            from joyhallo.serve.voice import find_voices
            from joyhallo.serve.web import add_page

            app = add_page(app, jobs, uploads, keys, find_voices(address.voice_command))
        host = f"[{address.host}]" if ":" in address.host else address.host
        print(f"http://{host}:{address.port}  (the API: /docs)", file=sys.stderr, flush=True)
        uvicorn.run(app, host=address.host, port=address.port, access_log=False, log_config=None, timeout_graceful_shutdown=5)
    finally:
        uploads.close()


def _require_free(address: Address) -> None:
    """Say at once, and in a line, when the port is taken."""
    import socket

    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((address.host, address.port))
        except OSError as error:
            raise UserError(
                f"--host {address.host} --port {address.port} cannot be used ({error.strerror}): give others"
            ) from error


def _require_extra() -> None:
    from importlib.util import find_spec

    for name in _NEEDED:
        if find_spec(name) is None:
            raise UserError(f"`joyhallo serve` needs {name}, which is not installed: pip install 'joyhallo[serve]'")
