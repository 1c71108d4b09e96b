"""The page: its words in two languages, what it says and hides; with a browser at hand, a whole job by hand."""

import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("dbos")
pytest.importorskip("gradio")
pytest.importorskip("httpx")

import httpx

from batch_process import settings_for
from joyhallo.serve.api import build_app
from joyhallo.serve.jobs import Jobs
from joyhallo.serve.page import Page, alert
from joyhallo.serve.texts import LANGUAGES, language_of
from joyhallo.serve.uploads import Look, Uploads
from joyhallo.serve.voice import has_voice, speak
from serving import PORTRAIT, write_speech, write_weights

BROWSER, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")


def test_both_languages_say_the_same_things():
    english, chinese = LANGUAGES["en"], LANGUAGES["zh"]
    assert english.keys() == chinese.keys()
    for name in english:
        assert english[name].count("{}") == chinese[name].count("{}"), name
        assert re.search(r"[\u4e00-\u9fff]", chinese[name]), name
    assert language_of("zh-CN,zh;q=0.9") is chinese
    assert language_of("de,zh;q=0.5") is language_of("") is english


def test_nothing_from_outside_becomes_markup():
    assert alert("<script>alert(1)</script>\n") == "<p class='jh-alert' role='alert'>&lt;script&gt;alert(1)&lt;/script&gt;</p>"


@pytest.mark.skipif(not has_voice(), reason="espeak-ng is not installed")
@pytest.mark.parametrize("text", ["你好，世界", "Hello world"])
def test_typed_text_becomes_speech(tmp_path, text):
    from joyhallo.media.audio import probe_speech

    speak(text, tmp_path / "said.wav")
    assert 0.5 < probe_speech(tmp_path / "said.wav").duration_s < 5


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture
def page(weights, tmp_path):
    jobs = Jobs(settings_for(tmp_path / "service", weights))
    uploads = Uploads(tmp_path / "service", jobs.settings.limits, Look((32, 32), num_steps=5))
    yield Page(jobs, uploads)
    uploads.close()
    jobs.records.close()


def test_what_is_missing_is_said_and_a_bad_portrait_too(page, tmp_path):
    words = LANGUAGES["en"]
    given = {"portrait": None, "speech": None, "quality": "usual", "persistent": False, "consent": False}
    for name in ("portrait", "speech", "consent"):
        ticket, says = page.submit(given, "a", words)
        assert (ticket, words[f"need_{name}"] in says) == (None, True)
        given[name] = str(PORTRAIT)
    assert page.steps() == {"quick": 2, "usual": 5, "fine": 10}
    assert "data:image/jpeg;base64" in page.look(str(PORTRAIT), words)
    (tmp_path / "text.png").write_text("no picture")
    assert "is not a picture" in page.look(str(tmp_path / "text.png"), words)
    assert list(page.uploads.folder.iterdir()) == []


def test_tickets_of_others_and_nonsense_show_nothing(page):
    tickets = [{"id": "0" * 32, "secret": "x"}, {"id": "../..", "secret": "x"}, {}, {"id": None, "secret": None}]
    shown, may_change = page.show(tickets, LANGUAGES["zh"])
    assert (shown.count("<article"), "还没有视频" in shown, may_change) == (0, True, False)
    assert page.clear(tickets) == []


class Browser:
    """Chromium by the WebDriver protocol."""

    def __init__(self, port: int, width: int) -> None:
        self.process = subprocess.Popen([DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
        while True:
            try:
                self.http.get("/status")
                break
            except httpx.TransportError:
                time.sleep(0.1)
        options = {
            "binary": BROWSER,
            "args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--accept-lang=en-US"],
            "mobileEmulation": {"deviceMetrics": {"width": width, "height": 860, "pixelRatio": 1}},
        }
        made = self.http.post("/session", json={"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}).json()
        self.session = f"/session/{made['value']['sessionId']}"

    def go(self, url: str) -> None:
        self.http.post(f"{self.session}/url", json={"url": url})

    def run(self, script: str):
        return self.http.post(f"{self.session}/execute/sync", json={"script": script, "args": []}).json()["value"]

    def wait(self, script: str, timeout_s: float = 60.0):
        deadline = time.monotonic() + timeout_s
        while not (found := self.run(script)):
            assert time.monotonic() < deadline, (script, self.run("return document.body.innerText"))
            time.sleep(0.2)
        return found

    def upload(self, number: int, path: Path) -> None:
        found = self.http.post(f"{self.session}/elements", json={"using": "css selector", "value": "input[type=file]"}).json()
        element = next(iter(found["value"][number].values()))
        self.http.post(f"{self.session}/element/{element}/value", json={"text": str(path)})

    def close(self) -> None:
        self.http.delete(self.session)
        self.process.terminate()
        self.process.wait()


@pytest.fixture
def address(weights, tmp_path):
    import uvicorn

    from joyhallo.serve.web import add_page

    jobs = Jobs(settings_for(tmp_path / "service", weights))
    uploads = Uploads(tmp_path / "service", jobs.settings.limits, Look((32, 32), num_steps=2))
    app = add_page(build_app(jobs, uploads), jobs, uploads)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.mark.skipif(not (BROWSER and DRIVER), reason="chromium and its driver are not installed")
@pytest.mark.skipif(sys.platform != "linux", reason="the browser is looked for on Linux")
def test_a_browser_does_a_whole_job_at_the_width_of_a_phone(address, tmp_path):
    click = "[...document.querySelectorAll('button')].find(e => e.innerText.trim() == '{}').click(); return true"
    browser = Browser(9519, 400)
    try:
        browser.go(address)
        browser.wait("return document.body.innerText.includes('Make video')")
        browser.run(click.format("Make video"))
        browser.wait("return document.body.innerText.includes('Give a portrait first.')")
        browser.upload(0, PORTRAIT)
        browser.wait("return document.querySelector('figure img')?.naturalWidth == 512")
        browser.upload(-1, write_speech(tmp_path / "speech.wav", 0.6))
        browser.wait("return document.querySelector('audio, .waveform-container, [data-testid*=waveform]') != null")
        browser.run(
            "[...document.querySelectorAll('label')].find(e => e.innerText.includes('agreed')).querySelector('input').click()"
        )
        browser.run(click.format("Make video"))
        browser.wait("return document.body.innerText.includes('Done')", 120)
        browser.wait("return document.querySelector('.jh video')?.readyState >= 1")
        assert browser.run("return document.querySelector('.jh video').duration") > 0.5
        assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
        browser.go(address)  # the gallery is this browser's own
        browser.wait("return document.body.innerText.includes('Download')")
    finally:
        browser.close()
