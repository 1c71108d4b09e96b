"""Mandarin sentences spoken by espeak-ng where it is installed: it tells itself when each sound is heard.

Its voices are plainly machines; they are here for other pitches, tempos and mouths than the recorded speaker's.
"""

import json
import logging
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from joyhallo.data.synthesis import espeak_process
from joyhallo.data.synthesis.borders import Timed
from joyhallo.data.synthesis.mandarin import PHRASE, Sentence, Vocabulary, pronounced
from joyhallo.data.synthesis.spelling import initial_of, spelled
from joyhallo.errors import UserError
from joyhallo.models.speech_encoder import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME

logger = logging.getLogger(__name__)
_LANGUAGE = "cmn-latn-pinyin"
_VARIANTS = ("", "+m1", "+m2", "+m3", "+m4", "+m5", "+m7", "+f1", "+f2", "+f3", "+f4")
_RATES, _PITCHES = (130, 220), (30, 71)  # words a minute; from 0 to 100
_SYLLABLES_PER_S = 7.0  # more than any rate says
_TIME_S = 60.0
_FADE_S = 0.005
_REMEDY = "install it (apt-get install espeak-ng), or give --espeak 0"


@dataclass(frozen=True)
class Manner:
    """How something is said."""

    variant: str = ""  # a name of its voices, such as +f2
    rate: int = 175  # words a minute
    pitch: int = 50


def is_installed() -> bool:
    """Whether there is an espeak-ng to speak."""
    return espeak_process.library() is not None


def share_there(wanted: float) -> float:
    """What espeak-ng can speak of the share that is asked of it: none where it is not installed, which the log says."""
    if wanted == 0 or is_installed():
        return wanted
    logger.warning("espeak-ng is not installed, so recorded voices speak all Mandarin clips (apt-get install espeak-ng)")
    return 0.0


def say(phrases: Sequence[Sequence[str]], manner: Manner) -> tuple[np.ndarray, list[Timed]]:
    """Phrases of pinyin → speech [T] at 16 kHz and when each syllable is heard; the same every time.

    Raises UserError where espeak-ng is missing, fails, or leaves a syllable out.
    """
    import soxr

    text, places = "", []
    for phrase in phrases:
        for pinyin in phrase:
            places.append((len(text) + 1, pinyin))
            text += pinyin.replace("ü", "v") + " "
        text = text.rstrip() + ", "
    asked = {"text": text, "voice": _LANGUAGE + manner.variant, "rate": manner.rate, "pitch": manner.pitch}
    facts, samples = _run(json.dumps(asked))
    sounds = [(place, name, sample / facts["rate_hz"]) for place, name, sample in facts["sounds"]]
    speech = np.frombuffer(samples, np.int16).astype(np.float32) / 32768
    return soxr.resample(speech, facts["rate_hz"], SAMPLE_RATE_HZ), [_timed(sounds, *place) for place in places]


def _run(asked: str) -> tuple[dict, bytes]:
    """What the process tells of the sounds, and the samples."""
    command = [sys.executable, "-m", espeak_process.__name__]
    try:
        done = subprocess.run(command, input=asked.encode(), capture_output=True, timeout=_TIME_S, check=False)
    except subprocess.TimeoutExpired as problem:
        raise UserError(f"espeak-ng did not speak within {_TIME_S:g} s: give --espeak 0") from problem
    if done.returncode == espeak_process.NO_LIBRARY:
        raise UserError(f"espeak-ng is not installed: {_REMEDY}")
    if done.returncode == espeak_process.NO_VOICE:
        raise UserError(f"the espeak-ng that is installed has no voice {_LANGUAGE}: install 1.49 or newer, or give --espeak 0")
    facts, _, samples = done.stdout.partition(b"\n")
    if done.returncode or not samples:
        says = done.stderr.decode(errors="replace").strip().splitlines()
        raise UserError(f"espeak-ng could not speak ({says[-1][:100] if says else done.returncode}): give --espeak 0")
    return json.loads(facts), samples


def _timed(sounds: Sequence[tuple[int, str, float]], place: int, pinyin: str) -> Timed:
    """When the syllable at a place of the text is heard; `sounds` with their places, names and starts."""
    own = [index for index, (at, name, _) in enumerate(sounds) if at == place and not name.startswith("_")]
    if not own:
        raise UserError(f"the espeak-ng that is installed does not say the syllable {pinyin}: give --espeak 0")
    starts = [sounds[index][2] for index in own]
    after = sounds[own[-1] + 1 :]
    vowel = starts[1] if initial_of(pinyin) and len(starts) > 1 else starts[0]
    return Timed(pinyin, starts[0], vowel, after[0][2] if after else starts[-1] + 0.1)


def espeak_sentence(names: Sequence[str], num_frames: int, random: np.random.Generator) -> Sentence:
    """A random sentence of what recordings are named after, in a random voice; it ends before the frames do."""
    vocabulary = Vocabulary.of(name for name in names if not any(_has_erhua(pinyin) for pinyin in spelled(name)))
    num_samples = num_frames * SAMPLES_PER_FRAME
    phrases, wanted = [[]], int(random.integers(*PHRASE))
    while sum(map(len, phrases)) < num_samples / SAMPLE_RATE_HZ * _SYLLABLES_PER_S:
        if len(phrases[-1]) >= wanted:
            phrases, wanted = [*phrases, []], int(random.integers(*PHRASE))
        phrases[-1] += spelled(vocabulary.draw(random))
    variant = _VARIANTS[int(random.integers(len(_VARIANTS)))]
    sound, said = say(phrases, Manner(variant, int(random.integers(*_RATES)), int(random.integers(*_PITCHES))))
    begin_s = float(random.uniform(0.05, 0.3))
    said = [timed.moved(begin_s) for timed in said if (begin_s + timed.end) * SAMPLE_RATE_HZ < num_samples]
    speech = np.pad(sound, (int(begin_s * SAMPLE_RATE_HZ), num_samples))[:num_samples]
    last = int(said[-1].end * SAMPLE_RATE_HZ) if said else 0
    speech[last:] *= np.exp(-np.arange(num_samples - last) / (_FADE_S * SAMPLE_RATE_HZ))
    return pronounced(speech / (speech.std() + 1e-6), said, random)


def _has_erhua(pinyin: str) -> bool:
    """Syllables like wanr2 are not of its language."""
    plain = pinyin.rstrip("012345")
    return plain.endswith("r") and plain != "er"
