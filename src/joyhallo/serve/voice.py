"""A recording from typed text, Chinese or English, with espeak-ng where it is installed: enough to try a portrait with.

Other voices take its place as any function (text, path) -> None that writes a WAV.
"""

import re
import shutil
import subprocess
from pathlib import Path

from joyhallo.errors import UserError

MAX_CHARACTERS = 600
_CHINESE = re.compile(r"[\u3400-\u9fff]")
_TIME_S = 30.0
_WORDS_PER_MINUTE = "150"


def has_voice() -> bool:
    """Whether `speak` can be used here."""
    return shutil.which("espeak-ng") is not None


def speak(text: str, path: Path) -> None:
    """Write the text as speech into a WAV file.

    Raises:
        UserError: no text, too much of it, or no espeak-ng.
    """
    text = " ".join(text.split())
    if not text or len(text) > MAX_CHARACTERS:
        raise UserError(f"the text has {len(text)} characters: give 1 to {MAX_CHARACTERS}")
    program = shutil.which("espeak-ng")
    if program is None:
        raise UserError("espeak-ng is not installed: install it (apt-get install espeak-ng), or give a recording")
    voice, spoken = "en", text
    if _CHINESE.search(text):
        from pypinyin import Style, lazy_pinyin

        # Its Mandarin voice reads characters as English letters; syllables with tone numbers it reads well.
        voice, spoken = "cmn-latn-pinyin", " ".join(lazy_pinyin(text, style=Style.TONE3, neutral_tone_with_five=True))
    command = [program, "-v", voice, "-s", _WORDS_PER_MINUTE, "-w", str(path), "--stdin"]
    try:
        done = subprocess.run(command, input=spoken.encode(), capture_output=True, timeout=_TIME_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise UserError("speaking the text took too long: give a shorter one") from error
    if done.returncode or not path.exists():
        raise UserError(
            f"espeak-ng could not speak the text ({done.stderr.decode(errors='replace').strip()[:100]}): give another"
        )
