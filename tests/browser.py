"""Chromium without a screen, by the WebDriver protocol: what a person does at the page, tests do."""

import base64
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

BROWSER, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
IS_THERE = bool(BROWSER and DRIVER) and sys.platform == "linux"
TAB, SHIFT, ENTER, SPACE = "\ue004", "\ue008", "\ue007", " "


class Browser:
    """One browser with a profile of its own: what it keeps, no other one sees. Use as a context manager."""

    def __init__(self, port: int, width: int = 1280, language: str = "en-US", height: int = 860) -> None:
        assert BROWSER is not None, "look at IS_THERE first"
        assert DRIVER is not None, "look at IS_THERE first"
        self.process = subprocess.Popen([DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120)
        while True:
            try:
                self.http.get("/status")
                break
            except httpx.TransportError:
                time.sleep(0.1)
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--lang={language}"]
        arguments += [f"--accept-lang={language}", "--force-prefers-reduced-motion", f"--window-size={width},{height}"]
        options: dict[str, Any] = {"binary": BROWSER, "args": arguments, "prefs": {"intl.accept_languages": language}}
        if width < 600:
            options["mobileEmulation"] = {"deviceMetrics": {"width": width, "height": height, "pixelRatio": 1, "touch": True}}
        made = self.http.post("/session", json={"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}).json()
        self.session = f"/session/{made['value']['sessionId']}"

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self.http.delete(self.session)
        self.process.terminate()
        self.process.wait()

    def go(self, url: str) -> None:
        self._post("url", {"url": url})

    def run(self, script: str, *given: object) -> Any:
        return self._post("execute/sync", {"script": script, "args": list(given)})

    def wait(self, script: str, timeout_s: float = 120.0) -> Any:
        """What a script returns, once that is true."""
        deadline = time.monotonic() + timeout_s
        while not (found := self.run(script)):
            assert time.monotonic() < deadline, (script, self.run("return document.body.innerText"))
            time.sleep(0.1)
        return found

    def wait_for(self, text: str, timeout_s: float = 120.0) -> None:
        """Until the page says that."""
        deadline = time.monotonic() + timeout_s
        while text not in (said := self.run("return document.body.innerText")):
            assert time.monotonic() < deadline, (text, said)
            time.sleep(0.1)

    def press(self, *keys: str) -> None:
        """Press keys down in that order, and let go of them in the opposite one."""
        steps = [{"type": "keyDown", "value": key} for key in keys] + [{"type": "keyUp", "value": key} for key in keys[::-1]]
        self._post("actions", {"actions": [{"type": "key", "id": "keyboard", "actions": steps}]})

    def upload(self, selector: str, path: Path) -> None:
        """What choosing a file in the dialogue of the browser does; the dialogue itself is no page."""
        found = self._post("element", {"using": "css selector", "value": selector})
        self._post(f"element/{next(iter(found.values()))}/value", {"text": str(path)})

    def answer(self, *, is_yes: bool) -> None:
        """What the page asks in a dialogue of the browser's."""
        deadline = time.monotonic() + 60.0
        while "error" in (self.http.get(f"{self.session}/alert/text").json()["value"] or ""):
            assert time.monotonic() < deadline, "nothing is asked"
            time.sleep(0.1)
        self._post("alert/accept" if is_yes else "alert/dismiss", {})

    def picture(self, path: Path) -> None:
        """A screenshot."""
        path.write_bytes(base64.b64decode(self.http.get(f"{self.session}/screenshot").json()["value"]))

    def _post(self, what: str, body: dict[str, Any]) -> Any:
        answer = self.http.post(f"{self.session}/{what}", json=body).json()["value"]
        assert not (isinstance(answer, dict) and "error" in answer), answer
        return answer
