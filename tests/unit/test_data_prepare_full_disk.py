"""A disk that fills up while videos are prepared."""

import resource
import subprocess
import sys

from joyhallo.data.dataset import Dataset
from talking import open_face_mesh, write_talking_film


def limited(num_bytes):
    """In a new process: files cannot grow beyond this, as on a full disk."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))

    return limit


def test_a_full_disk_is_one_line_and_what_is_finished_stays(tmp_path):
    """The limit lets the record of the broken film through, and not the clip of the other, which comes second."""
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"\0" * 1_000_000)
    open_face_mesh()
    film = write_talking_film(tmp_path / "a.mp4", 26)
    given = [
        sys.executable,
        "-m",
        "joyhallo",
        "data",
        "prepare",
        *map(str, (broken, film, "-o", tmp_path / "out", "--workers", 1)),
    ]
    done = subprocess.run(given, capture_output=True, text=True, preexec_fn=limited(12_000))
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("joyhallo: the disk is full"), done.stderr
    assert "Traceback" not in done.stderr
    again = subprocess.run(given, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "1 prepared now, 1 before" in again.stdout
    assert Dataset(tmp_path / "out").index.num_samples == 1
