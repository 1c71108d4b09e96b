"""`joyhallo evaluate` from the outside: what it prints and writes, and one line for everything a user can do wrong."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from joyhallo.cli import main
from made_films import tone, write_film

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
CLIPS = [DATA / "grid_s1" / f"{name}.mp4" for name in ("bbaf2n", "bbaf3s", "bgaa8p")]
BUNDLE = DATA / "models" / "face_landmarker_v2_with_blendshapes.task"
needs_data = pytest.mark.skipif(not (CLIPS[0].is_file() and BUNDLE.is_file()), reason="no shared data folder")


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch) -> Path:
    """A folder with films without a face, where no face model is needed for what looks at pixels alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JOYHALLO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "100")
    if BUNDLE.is_file():
        monkeypatch.setenv("JOYHALLO_WEIGHTS", str(BUNDLE))
    else:
        monkeypatch.delenv("JOYHALLO_WEIGHTS", raising=False)
    random = np.random.default_rng(0)
    for folder, noise in (("ours", 2), ("theirs", 12)):
        Path(folder).mkdir()
        for index in range(3):
            still = np.kron(random.integers(40, 200, (6, 8, 3)), np.ones((8, 8, 1)))
            frames = [np.clip(still + random.normal(0, noise, still.shape), 0, 255).astype(np.uint8) for _ in range(12)]
            write_film(Path(folder) / f"clip{index}.mp4", frames, tone(np.full(12, 0.3)))
    return tmp_path


def test_two_systems_beside_each_other(capsys):
    assert main(["evaluate", "ours", "--against", "theirs", "--metrics", "flicker", "-o", "out"]) == 0
    printed = capsys.readouterr().out
    for words in ("Flicker", "ours", "theirs", "difference", "95 % interval", "out/report.html"):
        assert words in printed
    content = json.loads(Path("out/report.json").read_text())
    found = content["differences"][0]
    assert (found["name"], found["num_pairs"]) == ("flicker", 3)
    assert found["ours"] < found["theirs"] / 2
    assert found["high"] < 0
    assert main(["evaluate", "theirs", "--metrics", "flicker", "-o", "saved"]) == 0
    assert main(["evaluate", "ours", "--against", "saved", "--metrics", "flicker", "-o", "again"]) == 0  # from its report
    again = json.loads(Path("again/report.json").read_text())["differences"][0]
    assert again == found


@needs_data
def test_real_clips_with_a_portrait(capsys):
    shutil.copy(CLIPS[0], "ba1.mp4")  # not what he says, but what the name claims
    portrait = ROOT / "examples" / "portrait.png"
    code = main(["evaluate", "ba1.mp4", "--reference", str(portrait), "--metrics", "always", "-o", "out"])
    printed = capsys.readouterr().out
    assert code == 0
    for words in ("Lip sync ↑", "Identity likeness", "Visemes", "Blinks"):
        assert words in printed
    measures = {m["name"]: m for m in json.loads(Path("out/report.json").read_text())["films"][0]["measures"]}
    assert measures["identity_likeness"]["value"] < 0.8  # another man
    assert measures["identity_stability"]["value"] > 0.95
    assert measures["viseme_closed"]["value"] is not None
    assert "ba1" in Path("out/report.html").read_text()


def fails(capsys, *arguments: str) -> str:
    """The one line of a command that must fail with code 2 and leave no report."""
    assert main(["evaluate", *arguments]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("joyhallo: ")
    assert not Path("out/report.json").exists()
    return line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing.mp4"], "'nothing.mp4' does not exist"),
        (["empty"], "no video in the folder 'empty'"),
        (["ours", "--speech", "ours/clip0.mp4", "ours/clip1.mp4"], "--speech has 2 files for 3 videos"),
        (["ours", "--reference", "p.png", "p.png"], "--reference has 2 files for 3 videos"),
        (["ours", "--reference", "missing.png"], "'missing.png' does not exist"),
        (["ours", "--against", "nowhere"], "--against 'nowhere' is no folder"),
        (["ours/clip0.mp4", "--against", "theirs"], "has no partner of that name in the videos given"),
        (["ours", "ours", "--against", "theirs"], "two videos are called 'clip0'"),
        (["ours", "--metrics", "flikker"], "there is no metric 'flikker': did you mean flicker?"),
        (["ours", "--pinyin", "ni3 hao3"], "--pinyin belongs to one video, but 3 were given"),
        (["ours/clip0.mp4", "--pinyin", "hello"], "'hello' is not a pinyin syllable"),
        (["note.mp4", "--metrics", "flicker"], "not a video"),
        (["silent.mp4", "--speech", "silent.mp4", "--metrics", "flicker"], "has no sound"),
        (["ours", "--metrics", "flicker", "-o", "note.mp4"], "is a file"),
        (["broken", "--metrics", "flicker", "--against", "broken"], "no video in the folder"),
    ],
)
def test_mistakes_are_one_line(capsys, arguments, words):
    Path("empty").mkdir()
    Path("broken").mkdir()
    Path("note.mp4").write_text("not a video")
    write_film(Path("silent.mp4"), [np.zeros((32, 32, 3), np.uint8)] * 4, None)
    output = [] if "-o" in arguments else ["-o", "out"]
    assert words in fails(capsys, *arguments, *output)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ours", "--metrics", "identity-likeness"], "identity-likeness compares with a portrait, and none was given"),
        (["silent.mp4", "--metrics", "flicker", "Sync-C"], "Sync-C listens to the speech, and the video has no sound"),
        (["silent.mp4", "--metrics", "lips", "always"], "lips listens to the speech"),
        (["ours", "--metrics", "viseme-total"], "viseme-total: no video is named by its syllables"),
    ],
)
def test_what_cannot_be_is_refused_before_the_run(capsys, arguments, words):
    write_film(Path("silent.mp4"), [np.zeros((32, 32, 3), np.uint8)] * 4, None)
    assert words in fails(capsys, *arguments, "-o", "out")
    assert not Path("out").exists()


@needs_data
def test_mistakes_with_faces_are_one_line(capsys):
    Image.new("RGB", (200, 200), "green").save("green.png")
    assert "no face was found" in fails(capsys, "ours/clip0.mp4", "--metrics", "motion", "-o", "out")
    assert "the reference 'green.png'" in fails(
        capsys, "ours", "--reference", "green.png", "--metrics", "likeness", "-o", "out"
    )
    write_film(Path("silent.mp4"), [np.zeros((32, 32, 3), np.uint8)] * 4, None)
    assert "no face" in fails(capsys, "silent.mp4", "--metrics", "motion", "-o", "out")
