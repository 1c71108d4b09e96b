"""Typed text becomes speech: by espeak-ng where it is installed, by any other program that is named."""

import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from joyhallo.errors import UserError
from joyhallo.media.audio import probe_speech
from joyhallo.serve.voice import Voice, find_voices
from serving import write_speech

CHINESE, ENGLISH = "你好，世界", "Hello world"


def program(path: Path, body: str) -> str:
    """A voice of a line of Python: the text in `given`, the arguments in `sys.argv`."""
    path.write_text(f"import shutil, sys, time\ngiven = sys.stdin.buffer.read().decode()\n{body}\n", encoding="utf-8")
    return f"{sys.executable} {path}"


def test_another_voice_gets_the_text_its_language_and_a_place(tmp_path):
    spoken = write_speech(tmp_path / "spoken.wav", 0.6)
    keeps = f"open({str(tmp_path / 'got')!r}, 'w', encoding='utf-8').write(given + sys.argv[1])"
    command = program(tmp_path / "voice.py", f"{keeps}; shutil.copy({str(spoken)!r}, sys.argv[2])")
    voice, *_ = find_voices([f"Anna={command} {{language}} {{output}}"])
    assert voice.name == "Anna"
    place = tmp_path / "it's $HOME.wav"  # no shell reads it
    for text, language in ((f"  {CHINESE}\n{{output}} ", "zh"), (ENGLISH, "en")):
        voice.speak(text, place)
        assert (tmp_path / "got").read_text(encoding="utf-8") == f"{' '.join(text.split())}\n{language}"
        assert probe_speech(place).duration_s == pytest.approx(0.6)
        place.unlink()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("sys.exit('no such\\nspeaker')", r"Anna could not speak the text \(speaker\)"),
        ("pass", "it wrote no WAV"),
        ("open(sys.argv[1], 'w').write('no sound')", "it wrote no WAV"),
    ],
)
def test_a_voice_that_fails_is_said_and_leaves_nothing(tmp_path, body, says):
    voice, *_ = find_voices([f"Anna={program(tmp_path / 'voice.py', body)} {{output}}"])
    with pytest.raises(UserError, match=says):
        voice.speak(ENGLISH, tmp_path / "said.wav")
    assert not (tmp_path / "said.wav").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="groups of processes")
def test_a_voice_that_hangs_ends_with_all_it_started(tmp_path):
    (tmp_path / "voice.sh").write_text(f"sleep 60 & echo $! > '{tmp_path / 'pid'}'; wait")
    voice = find_voices([f"Anna=sh {tmp_path / 'voice.sh'} {{output}}"])[0]
    began = time.monotonic()
    with pytest.raises(UserError, match="more than 3 s"):
        voice.speak(ENGLISH, tmp_path / "said.wav", timeout_s=3.0)
    assert time.monotonic() - began < 20
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2]:
            return
        time.sleep(0.1)
    os.kill(pid, 9)
    raise AssertionError("what the voice started goes on")


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("piper", "no NAME=COMMAND"),
        ("piper=", "no NAME=COMMAND"),
        (f"piper={sys.executable} -f out.wav", "no NAME=COMMAND"),
        ("piper='open {output}", "open quote"),
        ("piper=/nowhere/piper {output}", "was not found"),
        (f"espeak-ng={sys.executable} {{output}}", "name of its own"),
    ],
)
def test_a_command_that_cannot_speak_is_refused_at_the_start(command, says):
    with pytest.raises(UserError, match=says):
        find_voices([command])


def test_espeak_comes_last_and_only_where_it_is(monkeypatch):
    has_espeak = shutil.which("espeak-ng") is not None
    names = [voice.name for voice in find_voices([f"Anna={sys.executable} {{output}}"])]
    assert names == (["Anna", "espeak-ng"] if has_espeak else ["Anna"])
    monkeypatch.setenv("PATH", "")
    assert find_voices() == ()


@pytest.mark.parametrize("text", ["", " \n ", "a" * 601])
def test_no_text_and_too_much_of_it(tmp_path, text):
    with pytest.raises(UserError, match="give 1 to 600"):
        Voice("Anna", (sys.executable, "{output}")).speak(text, tmp_path / "said.wav")


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
@pytest.mark.parametrize("text", [CHINESE, ENGLISH])
def test_espeak_speaks_both_languages(tmp_path, text):
    find_voices()[-1].speak(text, tmp_path / "said.wav")
    assert 0.5 < probe_speech(tmp_path / "said.wav").duration_s < 5
