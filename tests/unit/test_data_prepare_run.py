"""A whole run: stopped, gone on with, added to, with copies and broken films, on a disk that fills up."""

from dataclasses import replace
from pathlib import Path

import pytest

from joyhallo.cli import main
from joyhallo.cli.data import app
from joyhallo.data.dataset import Dataset
from joyhallo.data.heldout import is_held_out
from joyhallo.data.preparation.films import Settings, find_videos, settings_for
from joyhallo.data.preparation.prepare import Crew, prepare
from joyhallo.data.report import read_lines
from joyhallo.data.shards import pack
from joyhallo.errors import UserError
from made_data import write_made_samples
from talking import open_face_mesh, write_talking_film

NUM_FRAMES = 26


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two talking films, a copy of the first, a broken one."""
    open_face_mesh()
    folder = tmp_path_factory.mktemp("videos")
    for seed, name in ((0, "a.mp4"), (1, "b.mp4")):
        write_talking_film(folder / name, NUM_FRAMES, seed)
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


def test_a_dataset_of_another_preset_is_refused_before_any_work(videos, tmp_path):
    """Also one that was not made by `prepare` and so has no settings."""
    write_made_samples(tmp_path / "samples", ["clip"])
    pack(tmp_path / "samples", tmp_path / "dataset", preset="published")
    with pytest.raises(UserError, match="preset=published, not mini") as caught:
        prepare([videos], tmp_path / "dataset", Settings(), show=not_to_be_called)
    assert "\n" not in str(caught.value)


def not_to_be_called(progress):
    raise AssertionError(f"work was done before the dataset was looked at: {progress}")


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


def test_help_names_the_options(capsys):
    app(["prepare", "--help"], result_action="return_value")
    text = capsys.readouterr().out
    for option in ("--preset", "--engine", "--workers", "--separate-vocals", "--held-out-share", "--set"):
        assert option in text
