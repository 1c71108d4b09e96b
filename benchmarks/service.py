"""The service under load and under kills: `python benchmarks/service.py [--jobs 200 --clients 20 --kills 10]`.

Clients hand in jobs over HTTP while the process is killed (or, now and then, asked to stop) at random moments and started
again. At the end every job has run to its end once, and no client can open the job of another. The weights are drawn, not
trained (`--model` for others): what is measured is the service. Then: requests per second and latency of `status`, the time
between two jobs, and of a job itself. With `--hostile 1000` so many uploads that are none follow: none may be answered with
5xx, leave a file, or make the processes grow.
"""

import argparse
import itertools
import json
import random
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
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
    took = sorted(job.finished_s - job.started_s for job in jobs.values())
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
        "one_job_s_median": round(statistics.median(took), 3),
        "one_job_s_longest": round(took[-1], 3),
    }


def hostile(draw: random.Random, portrait: bytes, speech: bytes) -> tuple[bytes, bytes]:
    """A portrait and a speech of which one at least is damaged, lies about itself, or is something else."""

    def damaged(given: bytes) -> bytes:
        broken = bytearray(given[: draw.randrange(20, len(given))] if draw.random() < 0.5 else given)
        for _ in range(draw.randrange(1, 40)):
            broken[draw.randrange(4, len(broken))] = draw.randrange(256)
        return bytes(broken)

    huge = struct.pack(">I4sIIBBBBB", 13, b"IHDR", 60_000, 60_000, 8, 2, 0, 0, 0)
    pictures = [
        b"\x89PNG\r\n\x1a\n" + huge + struct.pack(">I", zlib.crc32(huge[4:])) + portrait[33:],
        b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        b"GIF89a" + draw.randbytes(500),
        b"PK\x03\x04" + bytes(1000),
        draw.randbytes(5000),
        b"\xff\xd8\xff\xe0" + draw.randbytes(3000),
    ]
    sounds = [
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"RIFF\xff\xff\xff\xffWAVEfmt " + draw.randbytes(2000),
        b"\x00\x00\x00\x20ftypisom" + draw.randbytes(3000),
        b"OggS" + draw.randbytes(3000),
        draw.randbytes(5000),
    ]
    kind = draw.randrange(4)
    if kind == 0:
        return damaged(portrait), draw.choice([speech, damaged(speech)])
    return (portrait, draw.choice(sounds)) if kind == 1 else (draw.choice(pictures), draw.choice([speech, *sounds]))


def processes_of(pid: int) -> dict[str, float]:
    """Megabytes of the service and of its children together, and files that the service holds open."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    texts = [Path(f"/proc/{each}/status").read_text() for each in (str(pid), *children)]
    megabytes = sum(int(text.split("VmRSS:")[1].split()[0]) for text in texts) / 1024
    return {"mb": round(megabytes, 1), "files": len(list(Path(f"/proc/{pid}/fd").iterdir()))}


def besiege(service: Service, folder: Path, num: int, files: tuple[Path, Path], draw: random.Random) -> dict[str, Any]:
    """Send hostile uploads, four at a time; what they did."""
    import httpx

    good = [path.read_bytes() for path in files]
    statuses: dict[int, int] = {}
    given = [hostile(draw, *good) for _ in range(num)]
    marks: list[dict[str, float]] = []

    def send(own: list[tuple[bytes, bytes]]) -> None:
        with httpx.Client(base_url=service.url, timeout=600) as client:
            for portrait, speech in own:
                parts = {"portrait": ("a", portrait), "speech": ("b", speech)}
                answer = client.post("/v1/jobs", files=parts, data={"consent": "true"})
                statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
                if answer.status_code == 202:  # the damage did not matter
                    ticket = answer.json()
                    client.delete(f"/v1/jobs/{ticket['id']}", headers={"X-Job-Secret": ticket["secret"]})

    for part in (given[: num // 2], given[num // 2 :]):  # the first half warms up what is kept anyhow
        threads = [threading.Thread(target=send, args=(part[start::4],)) for start in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        marks.append(processes_of(service.process.pid))
    return {
        "hostile_uploads": num,
        "answers": {str(status): statuses[status] for status in sorted(statuses)},
        "mb_grown_in_the_second_half": round(marks[1]["mb"] - marks[0]["mb"], 1),
        "open_files_grown": marks[1]["files"] - marks[0]["files"],
        "files_left": len(list((folder / "uploads").iterdir())),
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
    parser.add_argument("--model", help="a folder of weights or a name, instead of drawn ones")
    parser.add_argument("--hostile", type=int, default=0, help="uploads")
    parser.add_argument("--serve", nargs=2, type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(*given.serve, given.port)
        return 0
    from serving import PORTRAIT, write_speech, write_weights

    with tempfile.TemporaryDirectory() as name:
        root, draw = Path(name), random.Random(given.seed)
        weights = Path(given.model) if given.model else write_weights(root / "weights")
        speech = write_speech(root / "speech.wav", 0.5)
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
            if given.hostile:
                found |= besiege(service, root / "service", given.hostile, (PORTRAIT, speech), draw)
        finally:
            service.stop()
    print(json.dumps(found, indent=2))
    is_whole = found["done_once"] == found["jobs"] == found["rows"] and found["foreign_secrets_refused"] == found["jobs"] - 1
    is_whole &= not any(status >= "500" for status in found.get("answers", {})) and not found.get("files_left")
    return 0 if is_whole else 1


if __name__ == "__main__":
    sys.exit(main())
