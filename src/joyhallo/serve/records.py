"""The table of jobs: who asked for what, and where it stands. Every change is one transaction."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from joyhallo.errors import UserError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

ACTIVE = ("queued", "running")
FINISHED = ("done", "failed", "cancelled", "expired")
_MIGRATING = 5_690_422_101  # any number that nobody else locks in this database

# One entry for each version of the tables, oldest first; never change one that was released, append.
_MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE joyhallo_jobs (
            id VARCHAR(32) PRIMARY KEY, client VARCHAR(200) NOT NULL, idempotency_key VARCHAR(200),
            asked_sha256 VARCHAR(64) NOT NULL, settings TEXT NOT NULL, consent TEXT NOT NULL, status VARCHAR(16) NOT NULL,
            turn INTEGER NOT NULL, tag INTEGER NOT NULL, duration_s FLOAT NOT NULL, progress TEXT NOT NULL, note TEXT NOT NULL,
            starts INTEGER NOT NULL, finishes INTEGER NOT NULL, bytes BIGINT NOT NULL,
            created_s FLOAT NOT NULL, started_s FLOAT, finished_s FLOAT)""",
        "CREATE UNIQUE INDEX joyhallo_jobs_once ON joyhallo_jobs (client, idempotency_key)",
        "CREATE INDEX joyhallo_jobs_status ON joyhallo_jobs (status, client)",
    ),
)


@dataclass(frozen=True)
class NewJob:
    """What is written down when a job comes in. `settings` and `consent` are plain values."""

    id: str
    client: str
    asked_sha256: str  # of everything asked for: the same idempotency key must come with the same
    settings: Mapping[str, Any]
    consent: Mapping[str, Any]
    duration_s: float  # of the speech
    bytes: int
    idempotency_key: str | None = None


@dataclass(frozen=True)
class Job:
    """A row of the table."""

    id: str
    client: str
    idempotency_key: str | None
    asked_sha256: str
    settings: Mapping[str, Any]
    consent: Mapping[str, Any]
    status: str  # queued, running, done, failed, cancelled, expired
    turn: int  # how often it was put into the queue
    tag: int  # its place in the fair order
    duration_s: float
    progress: Mapping[str, Any]
    note: str  # why it failed, or what was chosen
    starts: int  # since its last finished clip
    finishes: int  # 1 once it has run to its end
    bytes: int
    created_s: float
    started_s: float | None
    finished_s: float | None


class LimitError(UserError):
    """A client or the service has as much to do as it may have."""


class ConflictError(UserError):
    """An idempotency key was used for something else."""


class Records:
    """The table of jobs in SQLite or Postgres, brought to today's version.

    Raises:
        UserError: the database cannot be opened, or a newer version of the program made it.
    """

    def __init__(self, url: str) -> None:
        from sqlalchemy import create_engine, event
        from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

        try:
            self.engine: Engine = create_engine(url)
            if self.engine.dialect.name == "sqlite":
                event.listen(self.engine, "connect", _prepare_sqlite)
                event.listen(self.engine, "begin", _begin_at_once)
            self._migrate()
        except (ArgumentError, NoSuchModuleError, DBAPIError) as error:
            reason = str(getattr(error, "orig", None) or error).splitlines()[0]
            raise UserError(
                f"the database cannot be opened ({reason}): give sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME"
            ) from error

    def close(self) -> None:
        self.engine.dispose()

    def _migrate(self) -> None:
        with self.engine.begin() as connection:
            if connection.dialect.name == "postgresql":  # machines that start together wait for each other; SQLite does anyhow
                _run(connection, f"SELECT pg_advisory_xact_lock({_MIGRATING})")
            _run(connection, "CREATE TABLE IF NOT EXISTS joyhallo_schema (version INTEGER NOT NULL)")
            version = _run(connection, "SELECT MAX(version) FROM joyhallo_schema").scalar() or 0
            if version > len(_MIGRATIONS):
                raise UserError(f"the database has version {version}, above {len(_MIGRATIONS)}: install a newer joyhallo")
            for number, statements in enumerate(_MIGRATIONS[version:], version + 1):
                for statement in statements:
                    _run(connection, statement)
                _run(connection, "INSERT INTO joyhallo_schema VALUES (:number)", number=number)

    def add(self, job: NewJob, jobs_per_client: int, jobs_waiting: int) -> tuple[Job, bool]:
        """Write a job down, or find the one that came with the same idempotency key; second: whether it is new.

        Raises:
            LimitError: the client or the service has too many unfinished jobs.
            ConflictError: the idempotency key belongs to another request.
        """
        with self.engine.begin() as connection:
            if connection.dialect.name == "postgresql":  # SQLite writes one by one anyhow
                _run(connection, "LOCK TABLE joyhallo_jobs IN SHARE ROW EXCLUSIVE MODE")
            if job.idempotency_key is not None:
                same = "SELECT * FROM joyhallo_jobs WHERE client = :client AND idempotency_key = :key"
                row = _run(connection, same, client=job.client, key=job.idempotency_key).mappings().first()
                if row is not None:
                    if row["asked_sha256"] != job.asked_sha256:
                        raise ConflictError("this idempotency key came with another request before: use a new one")
                    return _job(row), False
            count = "SELECT COUNT(*) FROM joyhallo_jobs WHERE status IN ('queued', 'running')"
            own = _run(connection, count + " AND client = :client", client=job.client).scalar_one()
            if own >= jobs_per_client:
                raise LimitError(
                    f"{own} of your jobs are unfinished, {jobs_per_client} are allowed: wait for one or cancel one"
                )
            if (waiting := _run(connection, count).scalar_one()) >= jobs_waiting:
                raise LimitError(f"{waiting} jobs are waiting, more are not taken now: try again later")
            values = {
                **vars(job),
                "settings": json.dumps(dict(job.settings), sort_keys=True),
                "consent": json.dumps(dict(job.consent), sort_keys=True, ensure_ascii=False),
                "tag": _fair_tag(connection, job),
                "now": time.time(),
            }
            _run(
                connection,
                "INSERT INTO joyhallo_jobs VALUES (:id, :client, :idempotency_key, :asked_sha256, :settings, :consent, "
                "'queued', 0, :tag, :duration_s, '{}', '', 0, 0, :bytes, :now, NULL, NULL)",
                **values,
            )
            row = _run(connection, "SELECT * FROM joyhallo_jobs WHERE id = :id", id=job.id).mappings().one()
            return _job(row), True

    def get(self, job_id: str) -> Job | None:
        found = self._read("SELECT * FROM joyhallo_jobs WHERE id = :id", id=job_id)
        return found[0] if found else None

    def of_status(self, status: str) -> list[Job]:
        """All jobs of a status, the oldest first."""
        return self._read("SELECT * FROM joyhallo_jobs WHERE status = :status ORDER BY tag, created_s", status=status)

    def ids(self) -> set[str]:
        """Of all jobs."""
        with self.engine.connect() as connection:
            return set(_run(connection, "SELECT id FROM joyhallo_jobs").scalars())

    def of_client(self, client: str, limit: int = 100) -> list[Job]:
        """The newest jobs of a client, the newest first."""
        text = "SELECT * FROM joyhallo_jobs WHERE client = :client ORDER BY created_s DESC LIMIT :limit"
        return self._read(text, client=client, limit=limit)

    def finished_oldest_first(self) -> list[Job]:
        """Jobs whose files may leave."""
        return self._read(
            "SELECT * FROM joyhallo_jobs WHERE status IN ('done', 'failed', 'cancelled') AND bytes > 0 ORDER BY finished_s"
        )

    def counts(self) -> dict[str, int]:
        """Jobs per status."""
        with self.engine.connect() as connection:
            rows = _run(connection, "SELECT status, COUNT(*) FROM joyhallo_jobs GROUP BY status").all()
        return {status: number for status, number in rows}  # noqa: C416 (rows are no pairs to dict)

    def kept_bytes(self) -> int:
        with self.engine.connect() as connection:
            return int(_run(connection, "SELECT COALESCE(SUM(bytes), 0) FROM joyhallo_jobs").scalar_one())

    def num_before(self, job: Job) -> int:
        """How many jobs come before a waiting one."""
        with self.engine.connect() as connection:
            text = "SELECT COUNT(*) FROM joyhallo_jobs WHERE status = 'running' OR (status = 'queued' AND tag < :tag)"
            return _run(connection, text, tag=job.tag).scalar_one()

    def change(self, job_id: str, was: Sequence[str], assignments: str, /, **values: Any) -> bool:  # noqa: ANN401
        """Change a job that has one of those statuses; False when it has another or is gone. `assignments` is ours, never
        a client's."""
        text = f"UPDATE joyhallo_jobs SET {assignments} WHERE id = :id AND status IN ({', '.join(map(repr, was))})"
        with self.engine.begin() as connection:
            return _run(connection, text, id=job_id, **values).rowcount == 1

    def remove(self, job_id: str) -> bool:
        with self.engine.begin() as connection:
            return _run(connection, "DELETE FROM joyhallo_jobs WHERE id = :id", id=job_id).rowcount == 1

    def finished_before(self, when_s: float) -> list[Job]:
        """Jobs that ended before a time and keep no files."""
        text = "SELECT * FROM joyhallo_jobs WHERE status NOT IN ('queued', 'running') AND bytes = 0 AND finished_s < :when"
        return self._read(text, when=when_s)

    def _read(self, text: str, **values: Any) -> list[Job]:  # noqa: ANN401
        with self.engine.connect() as connection:
            return [_job(row) for row in _run(connection, text, **values).mappings()]


def _fair_tag(connection: "Connection", job: NewJob) -> int:
    """Start-time fair queueing (Goyal et al. 1996): a client's jobs follow each other by the seconds of their speech, and one
    that comes new starts where the service is now, so that nobody waits for the whole pile of another."""
    now = _run(connection, "SELECT MAX(tag) FROM joyhallo_jobs WHERE started_s IS NOT NULL").scalar() or 0
    own = _run(connection, "SELECT MAX(tag) FROM joyhallo_jobs WHERE client = :client", client=job.client).scalar() or 0
    return max(now, own) + max(1, round(job.duration_s))


def _job(row: Mapping[str, Any]) -> Job:
    plain = dict(row)
    return Job(**plain | {name: json.loads(plain[name]) for name in ("settings", "consent", "progress")})


def _run(connection: "Connection", text: str, /, **values: Any) -> Any:  # noqa: ANN401 (a CursorResult of any columns)
    from sqlalchemy import text as sql

    return connection.execute(sql(text), values)


def _prepare_sqlite(connection: Any, _record: object) -> None:  # noqa: ANN401 (sqlite3's own)
    connection.isolation_level = None  # transactions begin where we say
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=30000"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_at_once(connection: "Connection") -> None:
    """Take the right to write at the beginning: two transactions that read first could both refuse to go on."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")
