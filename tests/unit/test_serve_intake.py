"""Uploads that come slowly, and many at a time: all others go on being answered. A real server and real sockets."""

import socket
import threading
import time
from contextlib import contextmanager

import pytest

pytest.importorskip("dbos")
pytest.importorskip("fastapi")
pytest.importorskip("httpx")

import httpx
import uvicorn

from joyhallo.errors import UserError
from joyhallo.serve.api import build_app
from joyhallo.serve.intake import Body
from joyhallo.serve.jobs import Jobs
from joyhallo.serve.settings import Limits, Settings
from joyhallo.serve.uploads import Uploads

KEYS = {"ann": "a" * 24, "bob": "b" * 24}
QUICK_S = 1.5  # generous: what it must not be is as long as an upload


@contextmanager
def serving(folder, limits, uploads=None, keys=None):
    """The address of a service that renders nothing."""
    jobs = Jobs(Settings(folder, limits=limits))
    app = build_app(jobs, uploads or Uploads(folder, limits), keys)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", access_log=False, lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        thread.join()
        jobs.records.close()


def upload(port: int, key: str = "", length: int = 200_000) -> socket.socket:
    """An upload that has begun."""
    head = f"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n"
    head += f"Authorization: Bearer {key}\r\n" if key else ""
    head += "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    head += '--x\r\nContent-Disposition: form-data; name="portrait"; filename="a"\r\n\r\n'
    connected = socket.create_connection(("127.0.0.1", port), timeout=20)
    connected.sendall(head.encode())
    return connected


def answered(connected: socket.socket) -> str:
    """What came back until the server hung up."""
    told = b""
    while part := connected.recv(10_000):
        told += part
    return told.decode()


def slowest_status_s(port: int, num: int = 10) -> float:
    took = []
    with httpx.Client(base_url=f"http://localhost:{port}") as client:
        for _ in range(num):
            began = time.monotonic()
            answer = client.get(f"/v1/jobs/{'0' * 32}", headers={"Authorization": f"Bearer {KEYS['bob']}"})
            assert answer.status_code == 404
            took.append(time.monotonic() - began)
    return max(took)


def test_sixty_uploads_that_dribble_hold_nobody_up(tmp_path):
    limits = Limits(upload_idle_s=4.0, uploads_per_client=4, uploads=6)
    with serving(tmp_path, limits) as port:
        given = [upload(port) for _ in range(60)]
        for _ in range(3):
            time.sleep(0.1)
            for connected in given[:4]:
                connected.sendall(b"x")
        assert slowest_status_s(port) < QUICK_S
        told = [answered(connected) for connected in given]
        assert [text.split()[1] for text in told].count("503") == 56
        assert [text.split()[1] for text in told].count("408") == 4
        refused = next(text for text in told if text.split()[1] == "503")
        assert "retry-after: 1" in refused.lower()
        assert "4 of your uploads are coming in already" in refused
        assert (
            httpx.post(f"http://localhost:{port}/v1/jobs", files={"portrait": b"x"}).status_code == 422
        )  # there is room again


def test_a_dribble_ends_at_the_deadline_however_steady_it_is(tmp_path):
    with serving(tmp_path, Limits(upload_idle_s=5.0, upload_s=1.0)) as port:
        connected, began = upload(port), time.monotonic()
        connected.settimeout(0.1)
        told = b""
        while not told and time.monotonic() - began < 15:
            connected.sendall(b"x")
            try:
                told = connected.recv(1000)
            except TimeoutError:
                continue
        assert b" 408 " in told
        assert time.monotonic() - began < 5


def test_a_body_without_a_length_ends_at_the_limit(tmp_path):
    def pour():
        yield b'--x\r\nContent-Disposition: form-data; name="portrait"; filename="a"\r\n\r\n'
        for _ in range(100):
            yield b"x" * 100_000

    with serving(tmp_path, Limits(portrait_bytes=500_000, speech_bytes=500_000)) as port:
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        answer = httpx.post(f"http://localhost:{port}/v1/jobs", content=pour(), headers=headers)
        assert (answer.status_code, "more than 2 MB" in answer.json()["error"]) == (413, True)


def test_the_uploads_of_one_client_leave_room_for_another(tmp_path):
    with serving(tmp_path, Limits(upload_idle_s=3.0, uploads_per_client=2, uploads=3), keys=KEYS) as port:
        first = [upload(port, KEYS["ann"]) for _ in range(3)]
        assert " 503 " in answered(first[2])
        bob = upload(port, KEYS["bob"])
        time.sleep(0.3)
        assert " 503 " in answered(upload(port, KEYS["bob"]))  # three in all
        assert " 401 " in answered(upload(port, "wrong"))
        assert [" 408 " in answered(each) for each in (*first[:2], bob)] == [True] * 3


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/v1/jobs", "application/x-www-form-urlencoded"), ("/v1/jobs/by-url", "application/json"), ("/v1/jobs", "")],
)
def test_what_is_no_upload_of_files_may_not_be_large(tmp_path, path, kind):
    with serving(tmp_path, Limits()) as port, socket.create_connection(("127.0.0.1", port), timeout=20) as connected:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3000000\r\nContent-Type: {kind}\r\n\r\n"
        connected.sendall(head.encode())
        assert "413" in answered(connected).splitlines()[0]


def test_an_upload_is_one_however_its_kind_is_written(tmp_path):
    with serving(tmp_path, Limits(uploads_per_client=1)) as port:
        first = upload(port)
        time.sleep(0.3)
        second = socket.create_connection(("127.0.0.1", port), timeout=20)
        head = "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200000\r\n"
        second.sendall(f"{head}Content-Type: Multipart/Form-Data; boundary=x\r\n\r\n".encode())
        assert "503" in answered(second).splitlines()[0]
        first.close()
        second.close()


@pytest.mark.parametrize("is_empty", [False, True])
def test_whether_a_client_has_gone_is_seen_without_waiting(is_empty):
    """As a stream of events asks: within a scope that is cancelled already."""
    from anyio import CancelScope, run

    async def gone():
        return {"type": "http.disconnect"}

    async def look():
        body, message = Body(gone, Limits(upload_s=0.0 if is_empty else 9.0), 100, is_empty=is_empty), {}
        with CancelScope() as scope:
            scope.cancel()
            message = await body.receive()
        return message

    assert run(look) == {"type": "http.disconnect"}


class Slow(Uploads):
    """Looks at an upload for as long as the test wants."""

    def __init__(self, *given):
        super().__init__(*given)
        self.seen, self.go_on = threading.Event(), threading.Event()

    @contextmanager
    def taken(self, *_):
        self.seen.set()
        self.go_on.wait(60)
        raise UserError("seen")
        yield


def test_uploads_that_wait_to_be_looked_at_hold_nobody_up(tmp_path):
    limits = Limits(uploads_per_client=60, uploads=60)
    uploads = Slow(tmp_path, limits)
    body = b'--x\r\nContent-Disposition: form-data; name="%b"; filename="a"\r\n\r\nabc\r\n'
    form = body % b"portrait" + body % b"speech"
    form += b'--x\r\nContent-Disposition: form-data; name="consent"\r\n\r\ntrue\r\n--x--\r\n'
    rest = form.split(b"\r\n\r\n", 1)[1]
    with serving(tmp_path, limits, uploads) as port:
        given = [upload(port, length=len(form)) for _ in range(60)]
        for connected in given:
            connected.sendall(rest)
        assert uploads.seen.wait(20)
        time.sleep(0.5)
        try:
            assert slowest_status_s(port) < QUICK_S
        finally:
            uploads.go_on.set()
        assert all(b" 400 " in connected.recv(1000) for connected in given)
