"""Workers killed from outside, and runs that bring nothing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from joyhallo.data.dataset import Dataset
from joyhallo.data.preparation.films import Settings
from joyhallo.data.preparation.prepare import Crew, prepare
from joyhallo.data.report import read_lines
from joyhallo.errors import UserError
from talking import open_face_mesh, write_talking_film


def test_a_worker_killed_from_outside_is_replaced(tmp_path):
    open_face_mesh()
    film = write_talking_film(tmp_path / "a.mp4", 26)
    given = [sys.executable, "-m", "joyhallo", "data", "prepare", *map(str, (film, "-o", tmp_path / "out", "--workers", 1))]
    process = subprocess.Popen(given, stdout=subprocess.PIPE, text=True)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        pytest.skip("processes cannot be listed here")
    victim = None
    while victim is None and process.poll() is None:
        for pid in children.read_text().split():
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                victim = int(pid)
        time.sleep(0.05)
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    output, _ = process.communicate()
    assert process.returncode == 0
    assert "1 clips" in output
    assert Dataset(tmp_path / "out").index.num_samples == 1


def test_no_usable_film_is_an_error_and_the_report_is_there(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no film")
    with pytest.raises(UserError, match=r"no clip could be made of 1 videos \(unreadable video\)"):
        prepare([tmp_path / "a.mp4"], tmp_path / "out", Settings(), Crew(num_workers=1))
    assert [line["reason"] for line in read_lines(tmp_path / "out")] == ["unreadable video"]
