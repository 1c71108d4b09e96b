"""The service under load and under kills: `python benchmarks/service.py [--jobs 200 --clients 20 --kills 10]`.

Clients hand in jobs over HTTP while the process is killed (or, now and then, asked to stop) at random moments and started
again. At the end every job has run to its end once, and no client can open the job of another. The weights are drawn, not
trained: what is measured is the service. Then: requests per second and latency of `status`, and the time between two jobs.
"""

import argparse
import itertools
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests")]


def serve(folder: Path, weights: Path, port: int) -> None:
    """The service, without its page."""
    import uvicorn

    from batch_process import settings_for
    from joyhallo.serve.api import build_app
    from joyhallo.serve.jobs import Jobs
    from joyhallo.serve.settings import Limits
    from joyhallo.serve.uploads import Look, Uploads

    settings = settings_for(folder, weights, limits=Limits(jobs_per_client=1000, jobs_waiting=10_000))
    app = build_app(Jobs(settings), Uploads(folder, settings.limits, Look((32, 32))))
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", access_log=False)


class Service:
    """The process, which can be killed and started again."""

    def __init__(self, folder: Path, weights: Path, port: int) -> None:
        self.command = [sys.executable, __file__, "--serve", str(folder), str(weights), "--port", str(port)]
        self.url = f"http://127.0.0.1:{port}"
        self.num_kills = 0
        self.start()

    def start(self) -> None:
        import httpx

        self.process = subprocess.Popen(self.command, stderr=subprocess.DEVNULL)
        while True:
            try:
                if httpx.get(f"{self.url}/ready").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.1)

    def kill(self, how: signal.Signals) -> None:
        self.process.send_signal(how)
        self.process.wait()
        self.num_kills += 1
        self.start()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def patient(call: Callable[..., Any], *given: Any, **named: Any) -> Any:  # noqa: ANN401
    """Call again while the service is away."""
    from joyhallo.serve.client import ServiceError

    while True:
        try:
            return call(*given, **named)
        except ServiceError as error:
            if "does not answer" not in str(error):
                raise


def hand_in(service: Service, portrait: Path, speech: Path, keys: list[str], tickets: dict) -> None:
    from joyhallo.serve.client import Client

    with Client(service.url) as client:
        for key in keys:
            tickets[key] = patient(
                client.submit, portrait, speech, consent=True, idempotency_key=key, steps=1, paste_back=False
            )


def load(service: Service, ticket: object, seconds: float, num_threads: int) -> tuple[float, list[float]]:
    """Requests per second of `status`, and how long each took."""
    from joyhallo.serve.client import Client

    took: list[float] = []
    end = time.monotonic() + seconds

    def ask() -> None:
        with Client(service.url) as client:
            while True:
                began = time.monotonic()
                client.status(ticket)
                took.append(time.monotonic() - began)
                if time.monotonic() > end:
                    return

    threads = [threading.Thread(target=ask) for _ in range(num_threads)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return len(took) / seconds, took


def check(folder: Path, service: Service, tickets: dict) -> dict:
    """What must hold in the end."""
    import httpx

    from joyhallo.serve.records import Records

    records = Records(f"sqlite:///{folder / 'jobs.sqlite'}")
    jobs = {key: records.get(ticket.id) for key, ticket in tickets.items()}
    once = sum(job.finishes == 1 and job.status == "done" for job in jobs.values())
    resumed = sum("went on after clip" in job.note for job in jobs.values())
    ran = sorted(jobs.values(), key=lambda job: job.finished_s)
    between = [after.started_s - before.finished_s for before, after in itertools.pairwise(ran)]
    listed = list(tickets.values())
    foreign = [
        httpx.get(f"{service.url}/v1/jobs/{a.id}", headers={"X-Job-Secret": b.secret}).status_code
        for a, b in itertools.pairwise(listed)
    ]
    with records.engine.connect() as connection:
        num_rows = connection.exec_driver_sql("SELECT COUNT(*) FROM joyhallo_jobs").scalar()
    records.close()
    return {
        "jobs": len(jobs),
        "rows": num_rows,
        "done_once": once,
        "went_on_after_a_clip": resumed,
        "kills": service.num_kills,
        "foreign_secrets_refused": foreign.count(404),
        "between_two_jobs_s_median": round(statistics.median(between), 3),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--kill-within-s", type=float, default=25.0, help="between two kills; the least is 2 s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--port", type=int, default=7899)
    parser.add_argument("--load-s", type=float, default=10.0)
    parser.add_argument("--serve", nargs=2, type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(*given.serve, given.port)
        return 0
    from serving import PORTRAIT, write_speech, write_weights

    with tempfile.TemporaryDirectory() as name:
        root, draw = Path(name), random.Random(given.seed)
        weights, speech = write_weights(root / "weights"), write_speech(root / "speech.wav", 0.5)
        service, tickets, began = Service(root / "service", weights, given.port), {}, time.monotonic()
        try:
            keys = [
                [f"{client}-{number}" for number in range(client, given.jobs, given.clients)] for client in range(given.clients)
            ]
            threads = [threading.Thread(target=hand_in, args=(service, PORTRAIT, speech, own, tickets)) for own in keys]
            [thread.start() for thread in threads]
            for _ in range(given.kills):
                time.sleep(draw.uniform(2.0, given.kill_within_s))
                service.kill(draw.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)))
            [thread.join() for thread in threads]
            from joyhallo.serve.client import Client

            with Client(service.url) as client:
                for ticket in tickets.values():
                    patient(client.wait, ticket)
            found = check(root / "service", service, tickets)
            found["seconds"] = round(time.monotonic() - began, 1)
            rate, took = load(service, next(iter(tickets.values())), given.load_s, 8)
            found["status_requests_per_s"] = round(rate, 1)
            found["status_ms_median"] = round(1000 * statistics.median(took), 1)
            found["status_ms_p99"] = round(1000 * sorted(took)[int(0.99 * len(took))], 1)
        finally:
            service.stop()
    print(json.dumps(found, indent=2))
    is_whole = found["done_once"] == found["jobs"] == found["rows"] and found["foreign_secrets_refused"] == found["jobs"] - 1
    return 0 if is_whole else 1


if __name__ == "__main__":
    sys.exit(main())
