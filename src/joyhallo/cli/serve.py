"""`joyhallo serve`: the page and the HTTP API in one process, with a queue that survives it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from joyhallo.errors import UserError


def serve(
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    model: Annotated[str, Parameter(name=["--model", "-m"])] = "mini",
    device: str = "auto",
    workers: int = 1,
    folder: Path | None = None,
    database_url: str | None = None,
    keys: Path | None = None,
    page: bool = True,
    executor: str = "local",
    provider: str | None = None,
) -> int:
    """Start the page and the HTTP API. Stop with Ctrl-C: what runs goes on at the next start.

    Parameters
    ----------
    host
        The address to listen on. Others than this machine's own need --keys.
    port
        The port; the API is described at /docs.
    model
        mini, a folder of weights, or a repository of the hub.
    device
        auto, cpu, cuda, cuda:1 or mps.
    workers
        Videos made at the same time; several GPUs are taken in turn.
    folder
        Where jobs and results are kept; a folder of your home by default.
    database_url
        postgresql+psycopg://… for several machines that share the folder; SQLite in the folder by default.
    keys
        A file with a line NAME KEY for each client; clients send Authorization: Bearer KEY.
    page
        Show the web page; without, the API alone.
    executor
        The name of this machine among those that share a database.
    provider
        Who makes the videos, for the embedded label: your provider code or name (ASCII without spaces).
    """
    if not 1 <= workers <= 64:
        raise UserError(f"--workers is {workers}: give 1 to 64")
    if not 0 <= port <= 65535:
        raise UserError(f"--port is {port}: give 1024 to 65535")
    _require_extra()
    from joyhallo.serve.keys import read_keys, require_safe_address
    from joyhallo.serve.settings import Settings

    known = None if keys is None else read_keys(keys)
    require_safe_address(host, known)
    render = {"model": model, "device": device} | ({} if provider is None else {"provider": provider})
    settings = Settings(folder or home_folder(), database_url, workers, render, executor=executor)
    _run(settings, known, host, port, page=page)
    return 0


def home_folder() -> Path:
    """Where a service keeps its things unless told."""
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "joyhallo" / "service"


def _run(settings: object, keys: dict[str, str] | None, host: str, port: int, *, page: bool) -> None:
    import uvicorn

    from joyhallo.serve.api import build_app
    from joyhallo.serve.jobs import Jobs
    from joyhallo.serve.logs import write_logs
    from joyhallo.serve.settings import Settings
    from joyhallo.serve.uploads import Uploads

    assert isinstance(settings, Settings)
    write_logs()
    jobs = Jobs(settings)
    uploads = Uploads(settings.folder, settings.limits)
    try:
        print(f"looking at the weights of {settings.render['model']}", file=sys.stderr)
        uploads.learn(str(settings.render["model"]))
        app = build_app(jobs, uploads, keys)
        if page:
            from joyhallo.serve.web import add_page

            app = add_page(app, jobs, uploads, keys)
        print(f"http://{f'[{host}]' if ':' in host else host}:{port}  (the API: /docs)", file=sys.stderr)
        uvicorn.run(app, host=host, port=port, access_log=False, log_config=None, timeout_graceful_shutdown=5)
    finally:
        uploads.close()


def _require_extra() -> None:
    from importlib.util import find_spec

    for name in ("dbos", "fastapi", "uvicorn", "gradio", "multipart", "prometheus_client", "sse_starlette"):
        if find_spec(name) is None:
            raise UserError(f"`joyhallo serve` needs {name}, which is not installed: pip install 'joyhallo[serve]'")
