"""The durable queue: DBOS hands out each waiting job once, in the fair order, on whichever machine has room.

DBOS keeps its own tables (SQLite or Postgres). The table of jobs is the truth; a workflow is no more than a job's turn, named
`JOB.TURN`, so that putting the same turn into the queue twice does nothing.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

from joyhallo.errors import UserError
from joyhallo.serve.records import Job
from joyhallo.serve.settings import Settings

_QUEUE = "joyhallo-videos"
_VERSION = "1"  # of the workflow below; turns of another version are not taken
_LARGEST_PRIORITY = 2**31 - 1


class Dispatch:
    """Starts DBOS and feeds `run` with the ids of jobs. One a process: DBOS allows no more.

    Raises:
        UserError: the database cannot be reached, or dbos is not installed.
    """

    def __init__(self, settings: Settings, run: Callable[[str], None]) -> None:
        try:
            from dbos import DBOS
        except ImportError as error:
            raise UserError("the service needs the extra joyhallo[serve]: pip install 'joyhallo[serve]'") from error
        from sqlalchemy.exc import DBAPIError

        def make_video(job_id: str) -> None:
            DBOS.run_step({"name": "render"}, run, job_id)

        self._dbos = DBOS
        DBOS(
            config={
                "name": "joyhallo",
                "system_database_url": settings.url("queue.sqlite"),
                "application_version": _VERSION,
                "executor_id": settings.executor,
                "serializer": _json_serializer(),
                "log_level": "ERROR",
                "enable_otlp": False,
            }
        )
        # Any number of recoveries: how often is too often is counted per finished clip, in the table of jobs.
        self._make_video = DBOS.workflow(name="make_video", max_recovery_attempts=None)(make_video)
        try:
            DBOS.launch()
            DBOS.register_queue(_QUEUE, worker_concurrency=settings.workers, polling_interval_sec=settings.polling_s)
        except DBAPIError as error:
            DBOS.destroy(destroy_registry=True)
            raise UserError(f"the queue's database cannot be used ({error.orig}): check --database-url") from error

    def put(self, job: Job) -> None:
        """Put a job's turn into the queue, unless it is there."""
        from dbos import SetEnqueueOptions, SetWorkflowID

        priority = min(max(1, job.tag), _LARGEST_PRIORITY)
        with SetWorkflowID(f"{job.id}.{job.turn}"), SetEnqueueOptions(priority=priority):
            self._dbos.enqueue_workflow(_QUEUE, self._make_video, job.id)

    def take_out(self, job: Job) -> None:
        """Forget a turn that has not begun."""
        self._dbos.cancel_workflow(f"{job.id}.{job.turn}")

    def forget(self, jobs: Sequence[Job]) -> None:
        """Remove what the queue remembers of jobs that are over."""
        self._dbos.delete_workflows([f"{job.id}.{turn}" for job in jobs for turn in range(job.turn + 1)])

    def ended(self, jobs: Sequence[Job]) -> list[Job]:
        """Those whose turn is over; one that was never put into the queue is not."""
        turns = {f"{job.id}.{job.turn}": job for job in jobs}
        if not turns:
            return []
        found = self._dbos.list_workflows(workflow_ids=list(turns), load_input=False, load_output=False)
        return [turns[each.workflow_id] for each in found if each.status not in ("ENQUEUED", "PENDING", "DELAYED")]

    def stop(self) -> None:
        self._dbos.destroy(workflow_completion_timeout_sec=10, destroy_registry=True)


def _json_serializer() -> Any:  # noqa: ANN401 (a class of dbos, which is optional)
    """Plain JSON instead of DBOS's default, pickle: nothing in the database can run code."""
    from dbos import Serializer

    class Json(Serializer):
        def serialize(self, data: Any) -> str:  # noqa: ANN401
            return json.dumps(data, default=str)

        def deserialize(self, serialized_data: str) -> Any:  # noqa: ANN401
            return json.loads(serialized_data)

        def name(self) -> str:
            return "joyhallo_json"

    return Json()
