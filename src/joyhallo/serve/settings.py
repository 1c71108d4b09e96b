"""What a service is told when it starts: where things are, what it makes, how much it takes."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

MEGABYTE = 1_000_000
GIGABYTE = 1_000_000_000


@dataclass(frozen=True)
class Limits:
    """How much one client, one upload and the whole service may take."""

    portrait_bytes: int = 30 * MEGABYTE
    portrait_pixels: int = 50_000_000
    speech_bytes: int = 200 * MEGABYTE
    speech_s: float = 600.0
    uploads_per_client: int = 4  # coming in at the same time
    uploads: int = 16  # of all clients
    upload_s: float = 900.0  # for one to come in
    upload_idle_s: float = 30.0  # without a byte
    fetch_s: float = 120.0  # for one that is fetched from an address
    jobs_per_client: int = 10  # waiting or running
    jobs_waiting: int = 1000
    kept_bytes: int = 20 * GIGABYTE  # files of all jobs; the oldest results leave first
    kept_s: float = 7 * 86_400.0  # a result older than this leaves in any case
    decoding_s: float = 60.0  # for looking at one upload
    decoding_bytes: int = 8 * GIGABYTE  # address space of the process that looks
    crashes: int = 3  # of the process that renders, for one job
    starts_without_progress: int = 10  # of the whole service, for one job


@dataclass(frozen=True)
class Settings:
    """Where a service keeps its things and how it renders.

    `render` holds fields of `RenderRequest` that the one who runs the service decides (model, device, dtype, provider …);
    they win over what a client asks for.
    """

    folder: Path
    database_url: str | None = None  # None: SQLite in the folder
    workers: int = 1  # videos made at the same time on this machine
    render: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    limits: Limits = Limits()
    executor: str = "local"  # the name of this machine among those that share a database
    # One user's: the file of another may not be opened in a folder for temporary files.
    device_lock: Path = field(default_factory=lambda: Path(tempfile.gettempdir()) / f"joyhallo-device-{os.getuid()}")
    polling_s: float = 0.5

    def url(self, name: str) -> str:
        """The database of that name: the one that was given, or a file of the folder."""
        if self.database_url is not None:
            return self.database_url
        return f"sqlite:///{(self.folder / name).absolute()}"
