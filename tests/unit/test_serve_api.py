"""The HTTP API: what it takes and refuses, who sees what, and that nothing sent to it breaks it."""

import io
import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("dbos")
pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from fastapi.testclient import TestClient
from PIL import Image

from batch_process import settings_for
from joyhallo.cli.serve import Address, Kept, Videos, serve
from joyhallo.errors import UserError
from joyhallo.media.labels import read_label
from joyhallo.media.video import probe_video
from joyhallo.serve.api import build_app
from joyhallo.serve.client import Client, ServiceError
from joyhallo.serve.fetching import Fetcher, read_allowed
from joyhallo.serve.jobs import Jobs
from joyhallo.serve.keys import read_keys, require_safe_address
from joyhallo.serve.settings import Limits
from joyhallo.serve.uploads import Look, Uploads
from serving import PORTRAIT, write_speech, write_weights

LIMITS = Limits(portrait_bytes=3_000_000, portrait_pixels=4_000_000, speech_bytes=3_000_000, speech_s=20.0, jobs_per_client=3)
KEYS = {"ann": "a" * 24, "bob": "b" * 24}


def opened(folder: Path, weights: Path, keys=None, fetcher=None):
    jobs = Jobs(settings_for(folder, weights, limits=LIMITS))
    return build_app(jobs, Uploads(folder, LIMITS, Look((32, 32))), keys, fetcher)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        return


@pytest.fixture(scope="module")
def files(speech):
    """The address of a server that holds the portrait and the speech."""
    (speech.parent / "portrait.png").write_bytes(PORTRAIT.read_bytes())
    (speech.parent / "text.txt").write_text("no recording")
    served = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(speech.parent)))
    threading.Thread(target=served.serve_forever, args=(0.05,), daemon=True).start()
    yield f"127.0.0.1:{served.server_address[1]}"
    served.shutdown()
    served.server_close()


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture(scope="module")
def speech(tmp_path_factory) -> Path:
    return write_speech(tmp_path_factory.mktemp("speech") / "s.wav", 0.5)


@pytest.fixture(scope="module")
def client(weights, files, tmp_path_factory):
    fetcher = Fetcher(read_allowed([files]), LIMITS)
    with TestClient(opened(tmp_path_factory.mktemp("service") / "local", weights, fetcher=fetcher)) as opened_client:
        yield opened_client


def send(client: TestClient, portrait: bytes, speech: bytes, headers=None, **fields):
    files = {"portrait": ("../../../evil.png", portrait), "speech": ("/etc/passwd", speech)}
    return client.post("/v1/jobs", files=files, data={"consent": "true", **fields}, headers=headers or {})


def png(height: int, width: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 128, np.uint8)).save(out, format="PNG")
    return out.getvalue()


def test_a_job_from_the_upload_to_the_video(client, speech, tmp_path):
    headers = {"Idempotency-Key": "once"}
    settings = json.dumps({"seed": 7, "paste_back": False})
    answer = send(client, PORTRAIT.read_bytes(), speech.read_bytes(), headers, settings=settings)
    assert answer.status_code == 202, answer.text
    ticket = answer.json()
    assert abs(ticket["speech_s"] - 0.5) < 0.05
    again = send(client, PORTRAIT.read_bytes(), speech.read_bytes(), headers, settings=settings).json()
    assert again == ticket | {"is_new": False}
    other = send(client, PORTRAIT.read_bytes(), speech.read_bytes(), headers, settings='{"seed": 8}')
    assert other.status_code == 409
    place = f"/v1/jobs/{ticket['id']}"
    assert client.get(place).status_code == client.get(place, headers={"X-Job-Secret": "x" * 40}).status_code == 404
    mine = {"X-Job-Secret": ticket["secret"]}
    assert client.get(f"{place}/video", headers=mine).status_code == 409
    with client.stream("GET", f"{place}/events", params={"secret": ticket["secret"]}) as stream:
        said = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: ")]
    assert said[-1]["status"] == "done", said[-1]
    clips = [view["progress"]["clips_done"] for view in said]
    assert clips == sorted(clips)
    assert clips[-1] == 4
    video = client.get(f"{place}/video", headers=mine)
    (tmp_path / "video.mp4").write_bytes(video.content)
    assert read_label(tmp_path / "video.mp4").label == "1"
    assert "no-store" in video.headers["cache-control"]
    part = client.get(f"{place}/video", headers=mine | {"Range": "bytes=0-99"})
    assert (part.status_code, part.content) == (206, video.content[:100])
    assert client.delete(place, headers=mine).status_code == 204
    assert client.get(place, headers=mine).status_code == 404


@pytest.mark.parametrize(
    ("portrait", "fields", "status", "message"),
    [
        (b"not a picture", {}, 400, "is not a picture that can be read"),
        (b"", {}, 400, "is empty"),
        (png(2100, 2100), {}, 400, "more than 4 megapixels"),
        (png(128, 128), {}, 400, "no face was found"),
        (PORTRAIT, {"consent": "false"}, 400, "consent"),
        (PORTRAIT, {"settings": '{"steps": 5000}'}, 400, "steps: Input should be less than or equal to 100"),
        (PORTRAIT, {"settings": '{"model": "/etc"}'}, 400, "model: Extra inputs are not permitted"),
        (PORTRAIT, {"settings": "[" * 500}, 400, "settings"),
        (b"x" * 3_500_000, {}, 413, "more than 3 MB"),
    ],
)
def test_a_portrait_that_cannot_be_used_is_one_line_without_a_path(client, speech, portrait, fields, status, message):
    given = portrait.read_bytes() if isinstance(portrait, Path) else portrait
    answer = send(client, given, speech.read_bytes(), **fields)
    assert (answer.status_code, message in answer.json()["error"]) == (status, True), answer.text
    assert "/tmp" not in answer.text
    assert "uploads" not in answer.text


def test_a_speech_is_known_by_its_content(client, tmp_path):
    long = write_speech(tmp_path / "long.wav", 21.0).read_bytes()
    for given, message in ((png(64, 64), "not a recording"), (long, "more than 20 s"), (long[:44], "the speech")):
        answer = send(client, PORTRAIT.read_bytes(), given)
        assert (answer.status_code, message in answer.json()["error"]) == (400, True), answer.text
        assert "/tmp" not in answer.text
    assert send(client, PORTRAIT.read_bytes(), b"\0" * 6_900_000).status_code == 413


def test_a_job_whose_files_are_fetched_is_that_of_the_same_files_sent(client, speech, files):
    key = {"Idempotency-Key": "by-url"}
    urls = {"portrait_url": f"http://{files}/portrait.png", "speech_url": f"http://{files}/{speech.name}"}
    given = {**urls, "consent": True, "settings": {"seed": 9}}
    answer = client.post("/v1/jobs/by-url", json=given, headers=key)
    assert answer.status_code == 202, answer.text
    sent = send(client, PORTRAIT.read_bytes(), speech.read_bytes(), key, settings='{"seed": 9}').json()
    assert sent == answer.json() | {"is_new": False}
    client.delete(f"/v1/jobs/{sent['id']}", headers={"X-Job-Secret": sent["secret"]})
    for wrong, status, message in (
        ({"consent": False}, 400, "consent"),
        ({"speech_url": f"http://{files}/text.txt"}, 400, "not a recording"),
        ({"speech_url": f"http://{files}/nothing.wav"}, 400, "answered 404"),
        ({"portrait_url": "http://169.254.169.254/latest/meta-data"}, 400, "are not fetched here"),
        ({"portrait_url": "file:///etc/passwd"}, 400, "cannot be used"),
        ({"settings": {"model": "/etc"}}, 422, "Extra inputs"),
    ):
        refused = client.post("/v1/jobs/by-url", json=given | wrong)
        assert (refused.status_code, message in refused.json()["error"]) == (status, True), refused.text
    assert list(client.app.state.uploads.folder.iterdir()) == []


def test_without_allowed_hosts_nothing_is_fetched(weights, files, tmp_path):
    app = opened(tmp_path / "closed", weights)
    try:
        urls = {"portrait_url": f"http://{files}/portrait.png", "speech_url": f"http://{files}/s.wav"}
        answer = TestClient(app).post("/v1/jobs/by-url", json={**urls, "consent": True})  # not entered: nothing is rendered
        assert (answer.status_code, "not fetched" in answer.json()["error"]) == (403, True)
    finally:
        app.state.jobs.records.close()


def test_hostile_uploads_leave_nothing_and_break_nothing(client, speech):
    random = np.random.default_rng(0)
    good = PORTRAIT.read_bytes()
    folder = client.app.state.uploads.folder
    for number in range(24):
        broken = bytearray(good[: random.integers(20, len(good))])
        for place in random.integers(8, len(broken), 12):
            broken[place] = random.integers(256)
        sound = speech.read_bytes() if number % 2 else bytes(random.integers(0, 256, 2000, np.uint8))
        answer = send(client, bytes(broken), sound)
        assert answer.status_code == 400, (number, answer.text)
    assert list(folder.iterdir()) == []
    assert client.get("/ready").status_code == 200


def test_strangers_hosts_and_other_sites_are_refused(client):
    assert client.get("/health", headers={"Host": "evil.example"}).status_code == 403
    assert client.post("/v1/jobs", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert client.get("/v1/jobs/../../etc/passwd").status_code == 404
    assert client.get("/v1/nothing").json() == {"error": "Not Found"}
    assert client.put("/v1/jobs").json() == {"error": "Method Not Allowed"}
    assert client.get(f"/v1/jobs/{'0' * 32}", headers={"X-Job-Secret": "0" * 40}).status_code == 404


def test_the_python_client(client, speech, tmp_path):
    served = Client()
    served.http = client  # the same calls, without a socket
    ticket = served.submit(PORTRAIT, speech, consent=True, seed=3, paste_back=False)
    seen = []
    assert served.wait(ticket, seen.append)["status"] == "done"
    assert [view["status"] for view in seen].count("done") == 1  # the last; how much came before it depends on the machine
    assert {view["status"] for view in seen[:-1]} <= {"queued", "running"}
    assert probe_video(served.download(ticket, tmp_path / "video.mp4")).num_frames == 13
    served.delete(ticket)
    with pytest.raises(ServiceError, match="no such job"):
        served.status(ticket)
    with pytest.raises(ServiceError, match="consent"):
        served.submit(PORTRAIT, speech, consent=False)


def test_metrics_health_and_openapi(client):
    assert client.get("/health").json()["status"] == "ok"
    text = client.get("/metrics").text
    assert 'joyhallo_jobs{status="queued"}' in text
    assert 'joyhallo_requests_total{route="/v1/jobs"' in text
    api = client.get("/openapi.json").json()
    submit = api["paths"]["/v1/jobs"]["post"]
    assert "Idempotency-Key" in json.dumps(submit) or "idempotency-key" in json.dumps(submit)
    assert "429" in submit["responses"]


def test_the_api_keeps_to_its_schema(client):
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings

    schema = schemathesis.openapi.from_asgi("/openapi.json", client.app)
    for operation in ("/v1/jobs/{job_id}", "/v1/jobs/{job_id}/cancel", "/v1/jobs/{job_id}/video", "/health", "/ready"):
        for method in schema[operation]:

            @given(case=schema[operation][method].as_strategy())
            @settings(max_examples=10, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
            def check(case):
                answer = client.request(case.method, case.formatted_path, params=case.query, headers=dict(case.headers or {}))
                assert answer.status_code < 500
                assert answer.status_code in (200, 204, 403, 404, 405, 409, 422, 307), answer.text

            check()


def test_without_a_key_nobody_is_let_in_and_nobody_sees_the_jobs_of_another(weights, tmp_path):
    jobs = Jobs(settings_for(tmp_path / "keys", weights, limits=LIMITS))
    uploads = Uploads(tmp_path / "keys", LIMITS)
    try:
        client = TestClient(build_app(jobs, uploads, KEYS))  # not entered: nothing is rendered here
        for path in ("/metrics", "/v1/jobs/x"):
            assert client.get(path).status_code == 401
            assert client.get(path, headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert client.get("/health", headers={"Host": "anything.example"}).status_code == 200
        ann = {"Authorization": f"Bearer {KEYS['ann']}"}
        assert client.get("/metrics", headers=ann).status_code == 200
        assert client.get("/v1/jobs/x", headers=ann).status_code == 404
    finally:
        uploads.close()
        jobs.records.close()


def test_keys_and_addresses(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"# clients\nann {'a' * 24}\nbob {'b' * 24}  # b\n")
    assert read_keys(path) == KEYS
    for text, message in (
        ("ann\n", "NAME KEY"),
        ("ann short\n", "5 characters"),
        (f"a {'x' * 24}\n" * 2, "twice"),
        ("#\n", "no key"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_keys(path)
    for host in ("127.0.0.1", "localhost", "::1"):
        require_safe_address(host, None)
    require_safe_address("0.0.0.0", KEYS)
    for host in ("0.0.0.0", "192.168.1.5", "::", "example.org"):
        with pytest.raises(UserError, match="--keys"):
            require_safe_address(host, None)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"address": Address(host="0.0.0.0")}, "--keys FILE"),
        ({"address": Address(port=0)}, "--port"),
        ({"address": Address(keys=Path("nowhere"))}, "file of keys 'nowhere' does not exist"),
        ({"address": Address(allow_urls=("http://host",))}, "--allow-urls"),
        ({"videos": Videos(workers=0)}, "--workers"),
        ({"kept": Kept(executor="../a")}, "--executor"),
    ],
)
def test_a_service_that_cannot_be_started_is_one_line(given, message):
    with pytest.raises(UserError, match=message):
        serve(**given)
