"""A whole run: stopped, gone on with, added to, with copies and broken films, on a disk that fills up."""

import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from joyhallo.cli import main
from joyhallo.cli.data import app
from joyhallo.data.dataset import Dataset
from joyhallo.data.one_video import Settings, is_held_out
from joyhallo.data.prepare import Crew, find_videos, prepare, settings_for
from joyhallo.data.report import read_lines
from joyhallo.errors import UserError
from talking import Film, babble, open_face_mesh, steady, talking, write_film

NUM_FRAMES = 26


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two talking films, a copy of the first, a broken one."""
    open_face_mesh()
    folder = tmp_path_factory.mktemp("videos")
    for seed, name in ((0, "a.mp4"), (1, "b.mp4")):
        pictures = talking(steady(NUM_FRAMES / 25), seed=seed)
        write_film(folder / name, pictures, Film(steady(NUM_FRAMES / 25)), babble(NUM_FRAMES / 25, seed))
    (folder / "sub").mkdir()
    (folder / "sub" / "copy.mp4").write_bytes((folder / "a.mp4").read_bytes())
    (folder / "broken.mp4").write_bytes(b"\0" * 5000)
    (folder / "notes.txt").write_text("no film")
    return folder


@pytest.fixture(scope="module")
def first_run(videos, tmp_path_factory):
    """A dataset of the first film and the broken one, then of all."""
    dataset = tmp_path_factory.mktemp("out") / "dataset"
    seen = []
    one = prepare([videos / "a.mp4", videos / "broken.mp4"], dataset, Settings(), Crew(num_workers=1), seen.append)
    before = {path.name: path.read_bytes() for path in (dataset / "shards").iterdir()}
    two = prepare([videos], dataset, Settings(), Crew(num_workers=1), seen.append)
    return dataset, one, before, two, seen


def test_finished_work_is_not_done_twice_and_what_comes_later_is_added(first_run, videos):
    dataset, one, before, two, seen = first_run
    assert (one.num_new, one.num_known, one.num_clips) == (2, 0, 1)
    assert (two.num_new, two.num_known, two.num_clips) == (1, 2, 2)
    prepared = [progress.lines[0].source for progress in seen if progress.lines]
    assert sorted(prepared) == [str(videos / name) for name in ("a.mp4", "b.mp4", "broken.mp4")]  # each once, the copy never
    assert {path.name: path.read_bytes() for path in (dataset / "shards").iterdir() if path.name in before} == before
    assert [fact.key.split("-")[0] for fact in Dataset(dataset).facts] == ["a", "b"]
    assert len(Dataset(dataset).index.shards) == 2


def test_progress_reckons_the_time_left(first_run):
    *_, seen = first_run
    assert [(p.done, p.total) for p in seen] == [(0, 2), (1, 2), (2, 2), (0, 1), (1, 1)]
    assert seen[0].left_s is None
    assert seen[1].left_s > 0
    assert seen[2].left_s == 0


def test_the_report_says_what_became_of_every_film(first_run, videos):
    dataset, *_ = first_run
    whole = {Path(str(line["source"])).name: line for line in read_lines(dataset) if line["key"] is None}
    assert whole["a.mp4"]["is_kept"]
    assert (whole["broken.mp4"]["is_kept"], whole["broken.mp4"]["reason"]) == (False, "unreadable video")
    assert (whole["copy.mp4"]["is_kept"], whole["copy.mp4"]["reason"]) == (False, "copy")
    assert str(videos / "a.mp4") in whole["copy.mp4"]["detail"]


def test_the_same_face_in_two_films_is_one_speaker(first_run):
    dataset, *_ = first_run
    facts = Dataset(dataset).facts
    assert len({fact.source for fact in facts}) == 2
    assert len({fact.speaker for fact in facts}) == 1
    assert facts[0].speaker.startswith("speaker-")


def test_other_settings_are_refused(first_run, videos):
    dataset, *_ = first_run
    other = replace(Settings(), thresholds=replace(Settings().thresholds, min_face_px=50.0))
    with pytest.raises(UserError, match=r"min_face_px=100.0, not 50.0"):
        prepare([videos], dataset, other)


def limited(megabytes):
    """In a new process: files cannot grow beyond this, as on a full disk."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (megabytes, megabytes))

    return limit


def command(*arguments):
    return [sys.executable, "-m", "joyhallo", "data", "prepare", *map(str, arguments), "--workers", "1"]


def test_a_full_disk_is_one_line_and_what_is_finished_stays(videos, tmp_path):
    """The limit lets the record of the broken film through, and not the clip of the other, which comes second."""
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"\0" * 1_000_000)
    given = command(broken, videos / "a.mp4", "-o", tmp_path / "out")
    done = subprocess.run(given, capture_output=True, text=True, preexec_fn=limited(12_000))
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("joyhallo: the disk is full"), done.stderr
    assert "Traceback" not in done.stderr
    again = subprocess.run(given, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "1 prepared now, 1 before" in again.stdout
    assert Dataset(tmp_path / "out").index.num_samples == 1


def test_a_worker_killed_from_outside_is_replaced(videos, tmp_path):
    process = subprocess.Popen(command(videos / "a.mp4", "-o", tmp_path / "out"), stdout=subprocess.PIPE, text=True)
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


def test_which_films_are_found(videos, tmp_path):
    found = [path.relative_to(videos).as_posix() for path in find_videos([videos])]
    assert found == ["a.mp4", "b.mp4", "broken.mp4", "sub/copy.mp4"]
    assert find_videos([videos / "notes.txt"]) == [videos / "notes.txt"]  # who names a file means it
    with pytest.raises(UserError, match="no video"):
        find_videos([tmp_path])
    with pytest.raises(UserError, match="there is no video"):
        find_videos([tmp_path / "nothing"])


def test_settings_by_name():
    assert settings_for("published").size_px == 512
    assert settings_for("mini", min_frames=30.0).thresholds.min_frames == 30
    with pytest.raises(UserError, match="min_face_px"):
        settings_for("mini", min_nose_px=3)
    with pytest.raises(UserError, match="mini or published"):
        settings_for("maxi")


def test_a_fixed_share_is_held_out():
    chosen = [is_held_out(f"{number * 2654435761 % 2**32:08x}00000000", 0.1) for number in range(2000)]
    assert 0.08 < sum(chosen) / 2000 < 0.12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "-o", "x"], "no video was given"),
        (["prepare", "nothing.mp4", "-o", "x"], "there is no video 'nothing.mp4'"),
        (["prepare", "a", "-o", "x", "--workers", "0"], "--workers is 0"),
        (["prepare", "a", "-o", "x", "--held-out-share", "1"], "--held-out-share is 1"),
        (["prepare", "a", "-o", "x", "--set", "min_face_px"], "write NAME=NUMBER"),
        (["prepare", "a", "-o", "x", "--set", "min_face=3"], "there is no threshold 'min_face'"),
    ],
)
def test_wrong_arguments_are_one_line(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    open_face_mesh()
    assert main(["data", *arguments]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("joyhallo: ")
    assert message in said


def test_the_published_preset_says_what_to_install(capsys, videos, tmp_path):
    try:
        import insightface  # noqa: F401
    except ImportError:
        assert main(["data", "prepare", str(videos / "a.mp4"), "-o", str(tmp_path / "x"), "--preset", "published"]) == 2
        assert "joyhallo[official]" in capsys.readouterr().err
        assert not (tmp_path / "x" / "index.json").exists()


def test_help_names_the_options(capsys):
    app(["prepare", "--help"], result_action="return_value")
    text = capsys.readouterr().out
    for option in ("--preset", "--engine", "--workers", "--separate-vocals", "--held-out-share", "--set"):
        assert option in text
