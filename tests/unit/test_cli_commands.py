"""What the commands print, and that JSON output is one object."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from joyhallo._version import __version__
from joyhallo.cli import animate as animating
from joyhallo.cli import main
from joyhallo.cli.progress import progress_shown
from joyhallo.errors import UserError
from joyhallo.weights.registry import FILES, SETS


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("JOYHALLO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("JOYHALLO_WEIGHTS", raising=False)


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


def test_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "joyhallo", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == __version__


def test_every_known_file_is_listed_with_source_hash_and_licence(capsys):
    assert main(["models", "list"]) == 0
    text = capsys.readouterr().out
    for file in FILES:
        assert file.name in text
        assert str(file.source) in text
        assert file.licence in text
        assert (file.sha256 or "unknown") in text
    assert main(["models", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in listed["sets"]] == [entry.name for entry in SETS]


def test_pull_from_a_folder_then_list_shows_it(capsys, tmp_path, monkeypatch):
    from dataclasses import replace

    from joyhallo.weights import registry

    name = registry.VOCALS_FILE
    monkeypatch.setitem(registry._FILES_BY_NAME, name, replace(registry.known_file(name), size_bytes=5, sha256=None))
    given = tmp_path / "given"
    given.mkdir()
    (given / Path(name).name).write_bytes(b"model")
    assert main(["models", "pull", "vocals", "--from", str(given)]) == 0
    folder = Path(capsys.readouterr().out.strip())
    assert (folder / name).read_bytes() == b"model"
    assert main(["models", "list"]) == 0
    assert f"here  {name}" in capsys.readouterr().out


def test_doctor_says_what_is_here_and_what_mends_the_rest(capsys):
    code = main(["doctor"])
    text = capsys.readouterr().out
    assert "torch" in text
    assert "libx264" in text
    assert "joyhallo models pull joyhallo-v1" in text
    assert "bf16" in text or "compute capability" in text, "the device decision comes with its reason"
    assert main(["doctor", "--json"]) == code
    found = json.loads(capsys.readouterr().out)
    assert found["is_ready"] == (code == 0)
    assert {finding["topic"] for finding in found["findings"]} >= {"system", "package", "device", "codec", "weights"}
    assert all(finding["remedy"] for finding in found["findings"] if finding["state"] != "ok")


@pytest.mark.parametrize(
    ("text", "size"), [(None, None), ("512", (512, 512)), ("512x384", (512, 384)), (" 256X320 ", (256, 320))]
)
def test_sizes(text, size):
    assert animating.read_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "0x0", "512x", "-512", "512.5", "99999x99999", "512x512x3"])
def test_sizes_that_are_none(text):
    with pytest.raises(UserError, match="HEIGHTxWIDTH"):
        animating.read_size(text)


@dataclass(frozen=True)
class FakeProgress:
    stage: str
    clips_done: int
    clips_total: int
    frames_done: int
    frames_total: int
    elapsed_s: float = 1.0
    left_s: float | None = None


def test_progress_is_a_line_a_clip_where_there_is_no_terminal(capsys):
    with progress_shown() as show:
        show(FakeProgress("speech", 0, 0, 0, 0))
        for frames in range(1, 17):
            show(FakeProgress("animating", 0, 2, frames, 32, left_s=75.4))
        show(FakeProgress("animating", 1, 2, 16, 32, left_s=30))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "speech",
        "animating: clip 0/2, frame 1/32, 1:15 left",
        "animating: clip 1/2, frame 16/32, 0:30 left",
    ]


@pytest.mark.parametrize(("largest", "code"), [(1e-6, 0), (1e-2, 1), (float("nan"), 1)])
def test_models_verify_reports_each_quantity_and_exits_by_the_worst(capsys, tmp_path, monkeypatch, largest, code):
    """The comparison itself is tested on the goldens; here it is what becomes of its result."""
    from joyhallo.weights import parity

    found = [parity.Difference("hallo", "denoise", 0.0, 2e-5), parity.Difference("hallo", "reference", largest, 2e-5)]
    monkeypatch.setattr(parity, "compare_goldens", lambda *_: iter(found))
    assert main(["models", "verify", "--goldens", str(tmp_path)]) == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["hallo", "denoise"]
    assert lines[0].endswith("equal")
    assert lines[1].endswith("equal" if code == 0 else "DIFFERS")
    assert main(["models", "verify", "--goldens", str(tmp_path), "--json"]) == code
    assert json.loads(capsys.readouterr().out)["is_equal"] == (code == 0)
