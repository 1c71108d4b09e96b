"""A recording from typed text, Chinese or English: by espeak-ng where it is installed, or by any program that is named.

The protocol of another voice is a command. It is run once for each text, without a shell: the text comes on its standard input
(UTF-8, one line), `{output}` in the command stands for the WAV file that it has to write, `{language}` for zh or en. It ends
with 0, or says in the last line of its standard error why it could not.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from joyhallo.errors import UserError

MAX_CHARACTERS = 600
_CHINESE = re.compile(r"[\u3400-\u9fff]")
_TIME_S = 120.0
_ESPEAK = "espeak-ng"
_WORDS_PER_MINUTE = "150"


@dataclass(frozen=True)
class Voice:
    """Something that speaks."""

    name: str
    command: tuple[str, ...]

    def speak(self, text: str, path: Path, timeout_s: float = _TIME_S) -> None:
        """Write the text as speech into a WAV file.

        Raises:
            UserError: no text, too much of it, or the program could not speak it.
        """
        text = " ".join(text.split())
        if not text or len(text) > MAX_CHARACTERS:
            raise UserError(f"the text has {len(text)} characters: give 1 to {MAX_CHARACTERS}")
        language = "zh" if _CHINESE.search(text) else "en"
        values, spoken = {"output": str(path), "language": language}, text
        if self.name == _ESPEAK:
            values["language"], spoken = _for_espeak(text, language)
        command = [re.sub(r"\{(output|language)\}", lambda found: values[found[1]], part) for part in self.command]
        code, says = _run(command, spoken, timeout_s)
        if code is None:
            raise UserError(f"the voice took more than {timeout_s:g} s: give a shorter text")
        if code != 0 or not path.exists() or path.read_bytes()[:4] != b"RIFF":
            path.unlink(missing_ok=True)
            raise UserError(f"the voice {self.name} could not speak the text ({says or 'it wrote no WAV'}): give another")


def find_voices(commands: Sequence[str] = ()) -> tuple[Voice, ...]:
    """The voices of this machine: those named as NAME=COMMAND, in their order, then espeak-ng where it is installed.

    Raises:
        UserError: a command that cannot be run, or that has no {output}.
    """
    voices = [_named(each) for each in commands]
    names = [voice.name for voice in voices]
    for name in names:
        if names.count(name) > 1 or name == _ESPEAK:
            raise UserError(f"two voices are called {name!r}: give each a name of its own")
    program = shutil.which(_ESPEAK)
    if program is not None:
        command = (program, "-v", "{language}", "-s", _WORDS_PER_MINUTE, "-w", "{output}", "--stdin")
        voices.append(Voice(_ESPEAK, command))
    return tuple(voices)


def _named(text: str) -> Voice:
    name, _, line = text.partition("=")
    try:
        command = shlex.split(line)
    except ValueError as error:
        raise UserError(f"the voice {text!r} has an open quote: close it") from error
    if not name.strip() or not command or not any("{output}" in part for part in command):
        raise UserError(f"the voice {text!r} is no NAME=COMMAND with {{output}}: as in 'piper=piper -m zh.onnx -f {{output}}'")
    program = shutil.which(command[0])
    if program is None:
        raise UserError(f"the program {command[0]!r} of the voice {name.strip()!r} was not found: give its path")
    return Voice(name.strip(), (program, *command[1:]))


def _for_espeak(text: str, language: str) -> tuple[str, str]:
    """Its name of the language, and the text as it reads it well."""
    if language == "en":
        return "en", text
    from pypinyin import Style, lazy_pinyin

    # Its Mandarin voice reads characters as English letters; syllables with tone numbers it reads well.
    return "cmn-latn-pinyin", " ".join(lazy_pinyin(text, style=Style.TONE3, neutral_tone_with_five=True))


def _run(command: list[str], given: str, timeout_s: float) -> tuple[int | None, str]:
    """How a program ended (None: it took too long and is gone, with all that it started), and its last line of error."""
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(
            command, stdin=pipe, stdout=subprocess.DEVNULL, stderr=pipe, start_new_session=sys.platform != "win32"
        )
    except OSError as error:
        return 127, error.strerror or "it cannot be run"
    try:
        _, errors = process.communicate(given.encode() + b"\n", timeout_s)
    except subprocess.TimeoutExpired:
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return None, ""
    lines = errors.decode(errors="replace").strip().splitlines()
    return process.returncode, lines[-1].strip()[:100] if lines else ""
