"""How long a video will take on this machine: measured by `joyhallo bench` while nothing is made, then put right by what
finished videos took."""

import json
import logging
import math
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any

from joyhallo._version import __version__
from joyhallo.errors import UserError
from joyhallo.media.files import written_whole
from joyhallo.presets import time_of_steps
from joyhallo.serve.jobs import Jobs
from joyhallo.serve.records import ACTIVE

_LOOK_S = 0.3
_LIMIT_S = 1800.0  # a measurement that takes longer is given up
_KEPT_S = 20.0
_NEWEST = 10  # finished videos that count
_log = logging.getLogger("joyhallo.serve")


@dataclass(frozen=True)
class Measured:
    """What one clip costs here."""

    fixed_s: float  # computing time of a clip without its steps
    step_s: float  # guided
    first_step_s: float
    plain_step_s: float
    guidance_end: float  # share of the way that is guided
    clip_s: float  # of video
    when_s: float  # since 1970


class Speed:
    """Expected computing times, from a measurement kept in the service's folder."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs, self.render = jobs, jobs.settings.render
        self._path = jobs.settings.folder / "speed.json"
        self._made_by = {"version": __version__, **{name: str(value) for name, value in sorted(self.render.items())}}
        self._measured = self._read()
        self._thread: threading.Thread | None = None
        self._corrected = (-math.inf, 1.0)  # when, and how much

    @property
    def is_known(self) -> bool:
        return self._measured is not None

    @property
    def is_measuring(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def expected_s(self, num_steps: int, speech_s: float) -> float | None:
        """Computing time of a video of that length with that many steps a clip; None before anything was measured."""
        cost = self._measured
        return None if cost is None else _foreseen_s(cost, num_steps, speech_s) * self._correction(cost)

    def measure_soon(self) -> None:
        """Measure in a process apart once nothing is made, unless that was done; returns at once. It ends with the jobs."""
        if self._measured is None and self._thread is None:
            self._thread = threading.Thread(target=self._measure)  # no daemon: its process must not outlive ours
            self._thread.start()

    def _correction(self, cost: Measured) -> float:
        """How much longer videos took than was foreseen: of those that were made in one go, with settings whose cost is
        foreseen. Read from the table now and then: pages ask every second."""
        known_s, known = self._corrected
        if time.monotonic() - known_s < _KEPT_S:
            return known
        jobs = [
            job
            for job in self.jobs.records.of_status("done")
            if (job.started_s or 0.0) > cost.when_s
            and job.turn == 0
            and "steps" in job.settings
            and "guidance" not in job.settings
        ]
        newest = sorted(jobs, key=lambda job: job.finished_s or 0.0)[-_NEWEST:]
        ratios = [
            ((job.finished_s or 0.0) - (job.started_s or 0.0)) / _foreseen_s(cost, int(job.settings["steps"]), job.duration_s)
            for job in newest
        ]
        # The median: one that waited through a night without power must not speak for all.
        self._corrected = (time.monotonic(), statistics.median(ratios) if ratios else 1.0)
        return self._corrected[1]

    def _read(self) -> Measured | None:
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
            return Measured(**found["measured"]) if found["made_by"] == self._made_by else None
        except (OSError, ValueError, KeyError, TypeError):  # none yet, or of another form: it is measured again
            return None

    def _is_busy(self) -> bool:
        return any(self.jobs.records.of_status(status) for status in ACTIVE)

    def _measure(self) -> None:
        from sqlalchemy.exc import DBAPIError

        while self.jobs.is_open:
            time.sleep(_LOOK_S)
            try:
                report = None if self._is_busy() else self._bench()
            except (OSError, ValueError, DBAPIError) as error:
                _log.warning("speed not measured", extra={"note": f"{type(error).__name__}: {error}"})
                return
            if report is not None:
                self.keep(report)
                return

    def _bench(self) -> dict[str, Any] | None:
        """The report of `joyhallo bench`; None when a job came first: jobs have the device for themselves.

        Raises:
            ValueError: it ended without a report, or took too long.
        """
        command = [sys.executable, "-m", "joyhallo", "bench", "--json", "--model", str(self.render.get("model", "mini"))]
        for name in ("device", "dtype"):
            if name in self.render:
                command += [f"--{name}", str(self.render[name])]
        pipe, deadline = subprocess.PIPE, time.monotonic() + _LIMIT_S
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        try:
            while process.poll() is None:
                time.sleep(_LOOK_S)
                if not self.jobs.is_open or self._is_busy():
                    return None
                if time.monotonic() > deadline:
                    raise ValueError(f"bench took more than {_LIMIT_S:g} s")
            return dict(json.loads(process.communicate()[0] or "null") or {})
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()

    def keep(self, report: dict[str, Any]) -> None:
        """Take the report of `joyhallo bench --json` for this machine."""
        try:
            cost = report["models"][0]
            self._measured = Measured(
                fixed_s=sum(cost["parts_s"].values()),
                step_s=cost["step_s"],
                first_step_s=cost["first_step_s"],
                plain_step_s=cost["plain_step_s"],
                guidance_end=cost["guidance_end"],
                clip_s=cost["frames"] / cost["fps"],
                when_s=time.time(),
            )
            with written_whole(self._path, "measurement", UserError) as temporary:
                temporary.write_text(
                    json.dumps({"made_by": self._made_by, "measured": asdict(self._measured)}), encoding="utf-8"
                )
        except (KeyError, UserError) as error:  # it is measured again at the next start
            _log.warning("speed not kept", extra={"note": str(error)})


def _foreseen_s(cost: Measured, num_steps: int, speech_s: float) -> float:
    steps_s = time_of_steps(num_steps, cost.guidance_end, cost.first_step_s, cost.step_s, cost.plain_step_s)
    return (cost.fixed_s + steps_s) * speech_s / cost.clip_s
