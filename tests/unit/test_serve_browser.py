"""The page in real browsers: a whole job by keys alone, another by touch at the width of a phone, each with its own gallery."""

import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("dbos")
pytest.importorskip("gradio")
pytest.importorskip("httpx")

from batch_process import settings_for
from browser import ENTER, IS_THERE, SHIFT, SPACE, TAB, Browser
from joyhallo.serve.api import build_app
from joyhallo.serve.jobs import Jobs
from joyhallo.serve.speed import Speed
from joyhallo.serve.texts import LANGUAGES
from joyhallo.serve.uploads import Look, Uploads
from joyhallo.serve.voice import find_voices
from serving import PORTRAIT, write_speech, write_weights

pytestmark = pytest.mark.skipif(not IS_THERE, reason="chromium and its driver are not installed")
COST = {
    "parts_s": {"once": 0.02},
    "step_s": 0.01,
    "first_step_s": 0.01,
    "plain_step_s": 0.01,
    "guidance_end": 1.0,
    "frames": 4,
    "fps": 25,
}
MEASURED = {"models": [COST]}  # a report of `joyhallo bench`
FOCUS = """const found = document.activeElement, shown = found.closest('label') || found;
const outlined = each => getComputedStyle(each).outlineStyle != 'none' && parseFloat(getComputedStyle(each).outlineWidth) >= 2;
const box = found.getBoundingClientRect();
return {tag: found.tagName, is_seen: outlined(found) || outlined(shown), is_inside: box.bottom > 0 && box.top < innerHeight,
  name: found.ariaLabel || shown.innerText || found.labels?.[0]?.innerText || ''}"""
# The dialogue for files belongs to the browser, not to the page: where a key opens it, the file is put in as chosen there.
DIALOGUE = """document.addEventListener('click', event => { if (event.target.type == 'file') {
  event.preventDefault(); event.target.dataset.opened = Date.now(); } }, true)"""
PLAYS = "const video = document.querySelector('#jh-gallery video'); return video?.readyState >= 1 && video.duration"


@dataclass(frozen=True)
class Service:
    """A page that is served."""

    address: str
    jobs: Jobs


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[Service]:
    import uvicorn

    from joyhallo.serve.web import add_page

    folder = tmp_path_factory.mktemp("pages")
    jobs = Jobs(settings_for(folder / "service", write_weights(folder / "tiny")))
    uploads = Uploads(folder / "service", jobs.settings.limits, Look((32, 32), num_steps=2))
    Speed(jobs).keep(MEASURED)
    spoken = write_speech(folder / "spoken.wav", 0.6)
    (folder / "voice.py").write_text(f"import shutil, sys; assert sys.stdin.read(); shutil.copy({str(spoken)!r}, sys.argv[1])")
    voices = find_voices([f"Anna={sys.executable} {folder / 'voice.py'} {{output}}"])
    app = add_page(build_app(jobs, uploads), jobs, uploads, voices=voices)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield Service(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", jobs)
    server.should_exit = True
    thread.join()


def walk_to(browser: Browser, name: str, *held: str, most: int = 40) -> dict:
    """Press Tab until what is called so has the focus; every stop on the way can be seen."""
    for _ in range(most):
        browser.press(*held, TAB)
        found = browser.run(FOCUS)
        if found["tag"] != "BODY":  # the browser's own bars come between the last and the first
            assert found["is_seen"], found
            assert found["is_inside"], found
            assert found["name"].strip(), found
        if found["name"].strip().startswith(name):
            return found
    raise AssertionError(f"{name!r} is not reached by Tab")


def hand_over(browser: Browser, path: Path) -> None:
    """Press Enter on what has the focus, and choose a file in the dialogue that it opens."""
    browser.press(ENTER)
    browser.wait("return document.querySelector('input[data-opened]') != null")
    browser.upload("input[data-opened]", path)


def test_a_whole_job_by_keys_alone(service):
    words = LANGUAGES["en"]
    with Browser(9519) as browser:
        browser.go(service.address)
        browser.wait_for("about 0.2 s of computing per second of speech")
        browser.wait("return document.querySelector('button[aria-dropeffect]')?.ariaLabel.startsWith('Choose')")
        browser.wait("return document.querySelector('#jh-quality [role=radiogroup]')?.ariaLabel.startsWith('3')")
        browser.run(DIALOGUE)
        walk_to(browser, words["portrait_drop"])
        hand_over(browser, PORTRAIT)
        browser.wait("return document.querySelector('figure img')?.naturalWidth == 512")
        walk_to(browser, words["text"])
        for letter in "hello":
            browser.press(letter)
        walk_to(browser, "Anna")
        walk_to(browser, words["speak"])
        browser.press(ENTER)
        browser.wait_for(words["speech_taken"].format("0.6 s"))
        walk_to(browser, "Quick")
        browser.press(SPACE)
        browser.wait("return document.querySelector('#jh-quality input:checked').value == 'quick'")
        walk_to(browser, words["make"])
        browser.press(ENTER)
        browser.wait_for(words["need_consent"])
        assert service.jobs.records.counts() == {}
        walk_to(browser, words["consent"], SHIFT)  # backwards: nothing holds the focus
        browser.press(SPACE)
        walk_to(browser, words["make"])
        browser.press(ENTER)
        assert browser.wait(PLAYS) > 0.5
        (job,) = service.jobs.records.of_status("done")
        assert job.consent["is_given"] is True
        assert job.consent["basis"] == words["consent"]
        assert job.settings["steps"] == 1
        assert walk_to(browser, words["video"].format(1))["tag"] == "VIDEO"
        browser.press(SPACE)
        browser.wait("return document.querySelector('#jh-gallery video').currentTime > 0")
        walk_to(browser, words["download"].format(1))
        assert browser.run(
            "const link = document.activeElement; return link.download.endsWith('.mp4') && link.href.includes('/video')"
        )
        walk_to(browser, words["clear"])
        browser.press(ENTER)
        browser.answer(is_yes=False)
        time.sleep(0.5)
        assert browser.run(PLAYS)
        browser.press(ENTER)
        browser.answer(is_yes=True)
        browser.wait_for(words["none"])
        assert service.jobs.records.get(job.id) is None


def test_two_browsers_see_their_own_videos_alone(service, tmp_path):
    english, chinese = LANGUAGES["en"], LANGUAGES["zh"]
    with Browser(9520) as desk, Browser(9521, 390, "zh-CN") as phone:
        for browser, words, name in ((desk, english, "desk"), (phone, chinese, "phone")):
            browser.go(service.address)
            browser.wait_for(words["none"])  # the desk's video is done by the time the phone asks
            browser.upload("#jh-portrait input[type=file]", PORTRAIT)
            browser.wait("return document.querySelector('figure img')?.naturalWidth == 512")
            browser.upload("#jh-speech input[type=file]", write_speech(tmp_path / f"{name}.wav", 0.6))
            browser.wait_for(words["speech_taken"].format(words["seconds"].format("0.6")))
            browser.run("for (const id of ['jh-consent input', 'jh-make']) document.querySelector('#' + id).click()")
            assert browser.wait(PLAYS) > 0.5
            assert browser.run("return document.querySelectorAll('#jh-gallery article').length") == 1
        assert phone.run("return document.documentElement.scrollWidth <= innerWidth")
        assert phone.run("return innerWidth") == 390
        addresses = {each.run("return document.querySelector('#jh-gallery video').src") for each in (desk, phone)}
        assert len(addresses) == 2
        desk.go(service.address)  # what a browser made is there again when it comes back
        assert desk.wait(PLAYS) > 0.5
        assert desk.run("return document.querySelectorAll('#jh-gallery article').length") == 1
        taken = "return fetch(arguments[0]).then(answer => answer.status)"
        others = (addresses - {desk.run("return document.querySelector('#jh-gallery video').src")}).pop()
        assert desk.run(taken, others) == 200  # whoever holds the secret
        assert desk.run(taken, others.split("secret=")[0] + "secret=" + "0" * 40) == 404
