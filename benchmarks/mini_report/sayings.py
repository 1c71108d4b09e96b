"""What the portraits are given to say: held-out English films, held-out Mandarin syllables in a row, Mandarin sentences.

Axes: F frames at 25 a second, T samples at 16 kHz.
"""

from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path

import numpy as np

from joyhallo.conditioning.face import FaceMesh
from joyhallo.data.frames import FPS, SAMPLES_PER_FRAME
from joyhallo.data.heldout import split_videos
from joyhallo.data.synthesis import mandarin
from joyhallo.data.synthesis.speakers import Film, load_tracked, save_tracked, track
from joyhallo.data.synthesis.voice_change import Voice, faster, in_voice
from joyhallo.errors import UserError
from joyhallo.evaluation.lips import is_silent, loudness_db
from joyhallo.evaluation.pinyin import BILABIALS, read_syllable
from joyhallo.media.audio import read_speech
from joyhallo.models.speech_encoder import SAMPLE_RATE_HZ

NUM_FRAMES = 64  # of a clip: four windows of the sampler
_ALIGNED_PER_FRAME = 1000  # units of an alignment: 25,000 a second
_SILENT_WORDS = ("sil", "sp")
_NO_ONSET = ("m", "f", "v")  # letters said "em", "ef", "vee": the lips close later, or half
_HALF_CLOSED = ("f",)  # the lower lip meets the teeth: neither closed nor open
_MOST_SILENT = 0.5  # share of a piece of a recording
_PACE = 1.5  # isolated syllables are slow
OTHER_VOICE = "other voice"  # the kind of syllables that another voice speaks
_OTHER_VOICES = (-4, 4, -7, 7)  # semitones of its pitch; formants go the same way by three tenths of it


@dataclass(frozen=True)
class Onset:
    """Where a word or a syllable begins, right after another."""

    frame: int
    is_bilabial: bool  # b, p, m


@dataclass(frozen=True, eq=False)
class Saying:
    """F frames of held-out speech."""

    name: str
    kind: str  # "english", "syllables", "sentence", or OTHER_VOICE
    speech: np.ndarray  # [F·640] float32
    onsets: tuple[Onset, ...] = ()
    film: Path | None = None  # whose sound it is
    first_frame: int = 0  # of the film
    words: tuple[int, int] | None = None  # first and last frame of speech where an alignment tells

    @property
    def silent(self) -> np.ndarray:
        """[F] bool: quiet, and not just before or after speech."""
        return is_silent(loudness_db(self.speech, NUM_FRAMES, FPS), FPS)

    @property
    def spoken(self) -> np.ndarray:
        """Numbers of the frames from the first to the last with speech."""
        if self.words is not None:
            return np.arange(max(0, self.words[0]), min(NUM_FRAMES, self.words[1]))
        loud = np.flatnonzero(~self.silent)
        return np.arange(loud[0], loud[-1] + 1)


def english(videos: Path, work: Path, mesh: FaceMesh) -> list[Saying]:
    """The held-out films, cut to their words; the tracked points are kept in `work`."""
    sayings = []
    for path in split_videos(videos.glob("*.mp4")).held_out:
        tracked_path = tracked_file(work, path)
        if not tracked_path.exists():
            tracked_path.parent.mkdir(parents=True, exist_ok=True)
            save_tracked(track(Film(path.stem, path, is_held_out=True), mesh), tracked_path)
        tracked = load_tracked(tracked_path)
        if tracked.reason is not None or len(tracked.points) < NUM_FRAMES:
            continue
        words = read_alignment(videos / "align" / f"{path.stem}.align")
        begin, end = words[0][0], words[-1][1]
        first = int(np.clip((begin + end - NUM_FRAMES) // 2, 0, len(tracked.points) - NUM_FRAMES))
        speech = tracked.speech[first * SAMPLES_PER_FRAME :][: NUM_FRAMES * SAMPLES_PER_FRAME].astype(np.float32) / 32767
        onsets = word_onsets(words, first)
        sayings.append(Saying(path.stem, "english", speech, onsets, path, first, (begin - first, end - first)))
    if not sayings:
        raise UserError(f"no held-out film in '{videos}' can be used: give a folder of talking clips with align/*.align")
    return sayings


def tracked_file(work: Path, film: Path) -> Path:
    """Where the points of a film are kept."""
    return work / "films" / f"{film.stem}.npz"


def read_alignment(path: Path) -> list[tuple[int, int, str]]:
    """Begin, end (frames, the end not included) and text of the words; silences are left out."""
    if not path.is_file():
        raise UserError(f"the alignment '{path}' is missing: the words of the videos are read from align/NAME.align")
    rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    words = [(round(int(start) / _ALIGNED_PER_FRAME), round(int(end) / _ALIGNED_PER_FRAME), text) for start, end, text in rows]
    return [word for word in words if word[2] not in _SILENT_WORDS]


def word_onsets(words: list[tuple[int, int, str]], first_frame: int) -> tuple[Onset, ...]:
    """The beginnings of words that follow another at once: before the first word lips are shut anyhow."""
    onsets = []
    for before, (start, _, text) in pairwise(words):
        if start == before[1] and text not in _NO_ONSET and text[0] not in _HALF_CLOSED:
            onsets.append(Onset(start - first_frame, text[0] in BILABIALS))
    return tuple(onset for onset in onsets if 3 <= onset.frame < NUM_FRAMES - 2)


def syllables_in_a_row(folder: Path, count: int) -> list[Saying]:
    """Sentences of held-out syllables, every other one with b, p or m where there are enough."""
    held_out = mandarin.read_syllables(folder)[True]
    lips = [path for path in held_out if _initial(path) in BILABIALS]
    others = [path for path in held_out if _initial(path) not in (*BILABIALS, *_HALF_CLOSED)]
    if not lips or not others:
        raise UserError(f"too few held-out syllables in '{folder}': give a folder of recordings like niu4.opus")
    return [_in_a_row(lips, others, number) for number in range(count)]


def _initial(path: Path) -> str:
    syllable = read_syllable(path.stem)
    return syllable.initial if syllable else ""


def _in_a_row(lips: list[Path], others: list[Path], number: int) -> Saying:
    """One sentence; begins and ends with silence."""
    random = np.random.default_rng([7, number])
    speech = random.normal(0, 0.0005, NUM_FRAMES * SAMPLES_PER_FRAME).astype(np.float32)
    onsets: list[Onset] = []
    at, turn = round(0.28 * FPS * SAMPLES_PER_FRAME), int(random.integers(2))
    while True:
        choice = (lips, others)[turn % 2]
        path = choice[int(random.integers(len(choice)))]
        sound = read_speech(path)
        begin, end = (round(time * FPS * SAMPLES_PER_FRAME) for time in _speaking_part(sound))
        sound = faster(sound[begin:end], _PACE)
        if at + len(sound) > len(speech) - 5 * SAMPLES_PER_FRAME:
            return Saying(f"syllables-{number:02d}", "syllables", speech, tuple(onsets[1:]))
        speech[at : at + len(sound)] += sound * (0.08 / max(float(sound.std()), 1e-6))
        onsets.append(Onset(int(at / SAMPLES_PER_FRAME), turn % 2 == 0))
        at, turn = at + len(sound), turn + 1


def in_another_voice(saying: Saying) -> Saying:
    """The same, spoken at the same times by one of four voices: its number says which."""
    semitones = _OTHER_VOICES[int(saying.name.rpartition("-")[2]) % len(_OTHER_VOICES)]
    voice = Voice(2 ** (semitones / 12), 2 ** (0.3 * semitones / 12))
    speech = in_voice(saying.speech, voice, len(saying.speech))
    return replace(saying, name=f"{saying.name}-voice", kind=OTHER_VOICE, speech=speech)


def _speaking_part(speech: np.ndarray) -> tuple[float, float]:
    """Start and end of the sound in a recording of one syllable, seconds."""
    energy = np.sqrt(np.convolve(speech**2, np.ones(320) / 320, "same"))[::80]
    loud = np.flatnonzero(energy > 0.06 * energy.max())
    return loud[0] * 80 / SAMPLE_RATE_HZ, (loud[-1] + 1) * 80 / SAMPLE_RATE_HZ


def sentences(folder: Path, count: int) -> list[Saying]:
    """Pieces of recorded Mandarin, each of another recording as long as there are any."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".opus", ".wav", ".mp3", ".flac", ".m4a"))
    if not paths:
        raise UserError(f"there is no recording in '{folder}': give a folder of Mandarin sentences")
    size, pieces = NUM_FRAMES * SAMPLES_PER_FRAME, []
    for path in paths:
        speech = read_speech(path)
        pieces.append([(path, start, speech[start : start + size]) for start in range(0, len(speech) - size + 1, size)])
    longest = max(map(len, pieces))
    turns = [row[turn] for turn in range(longest) for row in reversed(pieces) if turn < len(row)]
    found = (
        Saying(f"{path.stem}-{start // SAMPLES_PER_FRAME:04d}", "sentence", speech.astype(np.float32))
        for path, start, speech in turns
    )
    return list(islice((saying for saying in found if saying.silent.mean() < _MOST_SILENT), count))
