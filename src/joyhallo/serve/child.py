"""A process beside the service that does one thing at a time and answers in lines of JSON.

What could run out of memory, crash or hang happens there: rendering, and decoding what strangers send. It ends when the
service does, however that ends: its standard input closes.
"""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any, TextIO

_LOOK_S = 0.25  # how often to look whether the answer is still wanted
_BUSY = 10  # times as long an answer may take where the machine is busy with something else


class ChildDiedError(RuntimeError):
    """The process ended without an answer."""


class ChildTooSlowError(RuntimeError):
    """The process was ended because its answer took too long."""


class NotWantedError(RuntimeError):
    """The process was ended because nobody wants its answer any more."""


class Child:
    """`python -m module arguments…`, started when it is first asked and again after it ended."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._command = [sys.executable, "-m", module, *arguments]
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._lock = threading.Lock()

    def ask(
        self,
        message: Mapping[str, Any],
        *,
        on_news: Callable[[Mapping[str, Any]], None] = lambda _: None,
        is_wanted: Callable[[], bool] = lambda: True,
        timeout_s: float = float("inf"),
    ) -> Mapping[str, Any]:
        """Send a message; `on_news` gets every line before the last, which is returned (the one with an "end").
        `timeout_s` is of computing; by the clock it may be ten times as long.

        Raises:
            ChildDiedError, ChildTooSlowError, NotWantedError: there is no answer; the process is gone.
        """
        with self._lock:
            process = self._started()
            assert process.stdin is not None
            with ExitStack() as undo:
                undo.callback(self.kill)
                try:
                    process.stdin.write(json.dumps(message) + "\n")
                    process.stdin.flush()
                    answer = self._answer(process, on_news, is_wanted, timeout_s)
                except BrokenPipeError as error:
                    raise ChildDiedError(f"{self._command[2]} ended with {process.wait()}") from error
                undo.pop_all()
            return answer

    def _answer(
        self,
        process: subprocess.Popen[str],
        on_news: Callable[[Mapping[str, Any]], None],
        is_wanted: Callable[[], bool],
        timeout_s: float,
    ) -> Mapping[str, Any]:
        began = looked = time.monotonic()
        computed_s = _computed_s(process)
        while True:
            try:
                line = self._lines.get(timeout=_LOOK_S)
            except queue.Empty:
                line = ""
            if line is None:
                raise ChildDiedError(f"{self._command[2]} ended with {process.wait()}")
            answer = json.loads(line) if line else {}
            if "end" in answer:
                return answer
            if answer:
                on_news(answer)
            if _computed_s(process) - computed_s > timeout_s or time.monotonic() - began > _BUSY * timeout_s:
                raise ChildTooSlowError(f"{self._command[2]} gave no answer in time")
            if time.monotonic() - looked >= _LOOK_S:
                looked = time.monotonic()
                if not is_wanted():
                    raise NotWantedError

    def kill(self) -> None:
        """End the process at once."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def _started(self) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._lines = queue.Queue()
        # Its own session: Ctrl-C in a terminal is for the service, which ends its children itself.
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", start_new_session=True
        )
        assert self._process.stdout is not None
        threading.Thread(target=_collect, args=(self._process.stdout, self._lines), daemon=True).start()
        return self._process


def _computed_s(process: subprocess.Popen[str]) -> float:
    """Seconds of computing that a process has used; where the system does not tell, of the clock."""
    if sys.platform != "linux":
        return time.monotonic()
    try:
        return time.clock_gettime(~process.pid << 3 | 2)  # the CPU clock of a process, as clock_getcpuclockid(3) makes it
    except OSError:  # it has ended
        return 0.0


def _collect(stream: TextIO, lines: "queue.Queue[str | None]") -> None:
    with stream:
        for line in stream:
            lines.put(line)
    lines.put(None)


class Parent:
    """The other end, inside the process."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)  # what libraries print must not get among the answers
        self._messages: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in sys.stdin:
            self._messages.put(line)
        os._exit(0)  # the service is gone: nobody would take the answer

    def messages(self, idle_s: float | None = None, on_idle: Callable[[], None] = lambda: None) -> Iterator[Mapping[str, Any]]:
        """What is asked, one after the other; `on_idle` is called when nothing came for `idle_s`."""
        while True:
            try:
                message = self._messages.get(timeout=idle_s)
            except queue.Empty:
                on_idle()
                continue
            yield json.loads(message)

    def say(self, **answer: Any) -> None:  # noqa: ANN401 (plain values)
        self._out.write(json.dumps(answer) + "\n")
        self._out.flush()
