"""Mandarin without video: recorded words and syllables → a sentence of nonsense and a plausible movement of the lips for it.

What is said is in the file's name, as pinyin (`niu4.opus`) or in Chinese characters (`苹果.opus`). Initials and finals give
mouth shapes at times found from the sound (`borders`); bilabials shut the lips. The shapes are set by hand and not checked
against filmed Mandarin; half of the movement is what lips of filmed speech do for such a sound (`hearing`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from joyhallo.conditioning import anatomy
from joyhallo.data.heldout import is_held_out_person
from joyhallo.data.synthesis.borders import Timed, time_syllables
from joyhallo.data.synthesis.gestures import Gesture
from joyhallo.data.synthesis.hearing import Hearing, fit_hearing
from joyhallo.data.synthesis.spelling import BILABIALS, STOPS, initial_of, phones, read_word, spelled
from joyhallo.data.synthesis.voice_change import stretched
from joyhallo.errors import UserError
from joyhallo.media.audio import read_speech
from joyhallo.models.speech_encoder import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME

NUM_DONORS = 20  # films whose lips the shapes are fitted on, and whose heads the sentences are given
NUM_HEARD = 150  # films from whose sound and lips the movement for a sound is learnt
_VIDEO_FPS = SAMPLE_RATE_HZ // SAMPLES_PER_FRAME
# Centimetres against the closed rest: opening of the lips, drop of the chin, change of the mouth's width, protrusion.
_SHAPES = {
    "rest": (0.0, 0.0, 0.0, 0.0),
    "shut": (0.0, 0.12, -0.04, 0.03),
    "f": (0.06, 0.18, 0.0, -0.03),
    "tongue-tip": (0.28, 0.27, 0.07, 0.0),
    "back": (0.33, 0.35, 0.0, 0.0),
    "palatal": (0.25, 0.18, 0.22, -0.05),
    "retroflex": (0.28, 0.20, -0.2, 0.15),
    "sibilant": (0.2, 0.15, 0.14, -0.03),
    "a": (1.05, 0.95, 0.07, -0.03),
    "o": (0.55, 0.5, -0.34, 0.18),
    "e": (0.5, 0.47, 0.08, -0.03),
    "ê": (0.6, 0.5, 0.17, -0.05),
    "i": (0.3, 0.22, 0.27, -0.08),
    "u": (0.21, 0.25, -0.48, 0.3),
    "ü": (0.18, 0.2, -0.5, 0.32),
    "er": (0.45, 0.4, -0.1, 0.08),
    "n": (0.27, 0.27, 0.06, 0.0),
    "ng": (0.38, 0.35, 0.0, 0.0),
    "apical": (0.24, 0.18, 0.1, 0.0),
}
_AMPLITUDE = 1.4  # at the pace of speech no shape is reached in full: this brings the openings to those of filmed speech
_SPELLED = np.array([0.5, 0.5, 0.7, 0.7])  # share of the controls that the spelling gives; the rest is heard
_REACH = np.array([1.2, 1.2, 1.0, 1.0])  # two that disagree now and then stay nearer to the mean
_SHUT_CM = 0.02
_BROWS = (70, 63, 105, 66, 107, 46, 53, 52, 65, 55, 300, 293, 334, 296, 336, 276, 283, 282, 295, 285)
_EYES_AND_BROWS = (*anatomy.RIGHT_EYE, *anatomy.LEFT_EYE, *_BROWS)
_LEAD_S = 0.05  # the lips are ahead of the sound
_CLOSURE_S = 0.12  # lips stay together so long for b, p and m: three frames, since small networks shorten what is short
_SHARE_SHUT = 0.35  # of what is drawn has b, p or m: a sixth of the syllables begin with them
_HELD_S = 0.2  # a single vowel of this length is a shape that stays
PHRASE = (3, 9)  # syllables from pause to pause; the second number is not reached
_PAUSE_S, _GAP_S = (0.15, 0.45), (0.0, 0.04)  # between phrases; within them
_BEFORE_STOP_S = (0.02, 0.05)  # it is quiet before they burst
_MISSES = 4  # recordings too long for what is left of a sentence end it
_MARGIN_S = 0.02  # kept before and after what is heard of a recording


@dataclass(frozen=True, eq=False)
class Sentence:
    """Speech [F·640] at 16 kHz and the controls [F, 4] (see the shapes) that its spelling gives for the F video frames."""

    speech: np.ndarray
    controls: np.ndarray


@dataclass(frozen=True, eq=False)
class LipBasis:
    """How points move per unit of the four controls, [4, 478·3], and the opening's profile along the lips [11]."""

    points: np.ndarray
    profile: np.ndarray


@dataclass(frozen=True, eq=False)
class FilmedLips:
    """What films tell of lips: how their points move, and what they do for a sound."""

    basis: LipBasis
    hearing: Hearing


def fit_lips(films: Sequence[tuple[Gesture, np.ndarray]]) -> FilmedLips:
    """Fit to films, movement and speech [T]: the first `NUM_DONORS` for the points, `NUM_HEARD` at most for the sound."""
    heard = films[:NUM_HEARD]
    basis = fit_lip_basis([gesture for gesture, _ in films[:NUM_DONORS]])
    return FilmedLips(basis, fit_hearing([(speech, controls_of(gesture)) for gesture, speech in heard]))


def fit_lip_basis(gestures: Sequence[Gesture]) -> LipBasis:
    """Least squares of all points' movement on the four controls, over filmed gestures."""
    controls = np.concatenate([controls_of(gesture) for gesture in gestures])
    shapes = np.concatenate([gesture.shape.reshape(len(gesture.blink), -1) for gesture in gestures])
    with_one = np.c_[controls, np.ones(len(controls))]
    solution = np.linalg.solve(with_one.T @ with_one + np.diag([1, 1, 1, 1, 1e-3]), with_one.T @ shapes)
    gaps = np.concatenate([gesture.gap for gesture in gestures])
    profile = gaps[controls[:, 0] > 0.5].mean(0)
    return LipBasis(solution[:4], profile / profile[3:8].mean())


def controls_of(gesture: Gesture) -> np.ndarray:
    """The four controls [F, 4] of a filmed gesture."""
    return np.stack(
        [
            gesture.gap[:, 3:8].mean(1),
            gesture.shape[:, anatomy.CHIN, 1],
            gesture.shape[:, anatomy.LEFT_MOUTH_CORNER, 0] - gesture.shape[:, anatomy.RIGHT_MOUTH_CORNER, 0],
            -gesture.shape[:, list(anatomy.LIPS), 2].mean(1),
        ],
        1,
    )


def with_heard(spelled: np.ndarray, heard: np.ndarray) -> np.ndarray:
    """The controls [F, 4] that the spelling gives, with those that are heard; what is shut stays shut."""
    heard = np.maximum(heard, [0, -np.inf, -np.inf, -np.inf])
    controls = _REACH * (_SPELLED * spelled + (1 - _SPELLED) * heard)
    controls[spelled[:, 0] <= _SHUT_CM, 0] = 0
    return controls


def act(sentence: Sentence, lips: FilmedLips, donor: Gesture) -> Gesture:
    """The movement for a sentence; head, eyes and brows come from a filmed gesture, played forth and back."""
    count, length = len(sentence.controls), len(donor.blink)
    controls = with_heard(sentence.controls, lips.hearing.controls(sentence.speech, count))
    frames = np.abs((np.arange(count) + length - 1) % (2 * length - 2) - (length - 1))
    shape = (controls @ lips.basis.points).reshape(count, -1, 3)
    filmed = donor.shape[frames]
    shape[:, _EYES_AND_BROWS] = filmed[:, _EYES_AND_BROWS]
    gap = np.maximum(0, controls[:, :1]) * lips.basis.profile
    return Gesture(shape, gap, donor.blink[frames], donor.rotation[frames], donor.scale[frames], donor.shift[frames])


def _keys(timed: Timed) -> list[tuple[float, str]]:
    """Times and names of the shapes of one syllable."""
    shapes = phones(timed.pinyin) or ["rest"]
    keys, initial = [], initial_of(timed.pinyin)
    if initial == "m":  # lips are together as long as it hums
        last = timed.vowel - _CLOSURE_S / 2
        keys += [(time, "shut") for time in (timed.start + _CLOSURE_S / 2, last) if time <= last]
    elif initial:
        place = 0.0 if shapes[0] == "shut" else 0.3 * (timed.vowel - timed.start)
        keys.append((timed.start + place - _LEAD_S, shapes[0]))
    shapes = shapes[1:] if initial else shapes
    length = timed.end - timed.vowel
    places = np.linspace(0, 1, len(shapes) + 2)[1:-1].tolist()
    if len(shapes) == 1:
        places = [0.4] if length < _HELD_S else [0.3, 0.7]
        shapes = shapes * len(places)
    keys += [(timed.vowel + place * length - 0.6 * _LEAD_S, shape) for place, shape in zip(places, shapes, strict=True)]
    return keys


def _trajectory(keys: list[tuple[float, str]], num_frames: int) -> np.ndarray:
    """Controls [F, 4] through the keys, at rest before, after and in long pauses; closures are really shut."""
    from scipy.interpolate import PchipInterpolator

    points = [(-0.5, "rest"), (max(-0.4, keys[0][0] - 0.16), "rest")]
    for before, key in zip([None, *keys[:-1]], keys, strict=True):
        if before is not None and key[0] - before[0] > 0.45:
            points += [(before[0] + 0.2, "rest"), (key[0] - 0.16, "rest")]
        if key[0] > points[-1][0] + 0.012:
            points.append(key)
    points += [(keys[-1][0] + 0.22, "rest"), (max(keys[-1][0] + 2, num_frames / _VIDEO_FPS + 1), "rest")]
    times = (np.arange(num_frames) + 0.5) / _VIDEO_FPS
    curve = PchipInterpolator([time for time, _ in points], [_SHAPES[name] for _, name in points])(times)
    curve[1:-1] = 0.2 * curve[:-2] + 0.6 * curve[1:-1] + 0.2 * curve[2:]
    curve[:, :2] *= _AMPLITUDE
    for time, name in keys:
        if name == "shut":
            is_shut = np.abs(times - time) <= _CLOSURE_S / 2
            is_shut[int(np.clip(round(time * _VIDEO_FPS - 0.5), 0, num_frames - 1))] = True
            curve[is_shut, 0], curve[is_shut, 1] = 0, np.minimum(curve[is_shut, 1], 0.15)
    return curve


def read_syllables(folder: Path) -> dict[bool, list[Path]]:
    """The recordings whose names are syllables: the held-out ones (True) and those to train on (False)."""
    return _split(path for path in sorted(folder.glob("*.opus")) if phones(path.stem))


def read_words(folder: Path) -> tuple[dict[bool, list[Path]], dict[Path, str]]:
    """The recordings whose names are words in Chinese characters, split as syllables are; and why others are left out."""
    read = {path: read_word(path.stem) for path in sorted(folder.glob("*.opus"))}
    left_out = {path: found for path, found in read.items() if isinstance(found, str)}
    return _split(path for path in read if path not in left_out), left_out


def read_recordings(syllables: Path | None, words: Path | None) -> dict[bool, list[Path]]:
    """Of both folders, the held-out ones (True) and those to train on (False)."""
    folders = [read_syllables(syllables)] if syllables else []
    folders += [read_words(words)[0]] if words else []
    return {is_held: [path for folder in folders for path in folder[is_held]] for is_held in (True, False)}


def _split(paths: Iterable[Path]) -> dict[bool, list[Path]]:
    sides: dict[bool, list[Path]] = {True: [], False: []}
    for path in paths:
        sides[is_held_out_person(path.stem)].append(path)
    return sides


@dataclass(frozen=True)
class Vocabulary:
    """What may be said: names of recordings, and those of them with a b, p or m."""

    names: tuple[str, ...]
    shut: tuple[str, ...]

    @classmethod
    def of(cls, names: Iterable[str]) -> "Vocabulary":
        """Names that are pinyin or words."""
        every = tuple(names)
        return cls(every, tuple(name for name in every if {initial_of(part) for part in spelled(name)} & set(BILABIALS)))

    def draw(self, random: np.random.Generator) -> str:
        """One of the names; those with lips that shut come more often than by chance."""
        drawn = self.shut if self.shut and random.random() < _SHARE_SHUT else self.names
        return drawn[int(random.integers(len(drawn)))]


@dataclass(frozen=True, eq=False)
class _Piece:
    """A recording cut out: sound [T] of unit deviation and the syllables in it."""

    sound: np.ndarray
    syllables: list[Timed]


def _piece(path: Path, pace: float) -> _Piece:
    """A recording without the silence around it, `pace` times as fast."""
    sound = read_speech(path)
    found = time_syllables(sound, spelled(path.stem))
    if not found:
        raise UserError(f"the recording '{path}' is silent: take it out of its folder")
    start, end = found[0].start - _MARGIN_S, found[-1].end + _MARGIN_S
    first, last = (int(time * SAMPLE_RATE_HZ) for time in (max(0.0, start), end))
    cut = sound[first:last]
    # Isolated words are slow: in speech they are about two thirds as long.
    cut = stretched(cut, round(len(cut) / pace))
    return _Piece(cut / (cut.std() + 1e-6), [timed.moved(-first / SAMPLE_RATE_HZ / pace, pace) for timed in found])


def speak(paths: Sequence[Path], num_frames: int, random: np.random.Generator) -> Sentence:
    """Random words and syllables in phrases with pauses between them, until the frames are full."""
    speech = np.zeros(num_frames * SAMPLES_PER_FRAME, np.float32)
    by_name = {path.stem: path for path in paths}
    vocabulary = Vocabulary.of(by_name)
    said: list[Timed] = []
    time, left = float(random.uniform(0.05, 0.3)), int(random.integers(*PHRASE))
    misses = 0
    while misses < _MISSES:
        piece = _piece(by_name[vocabulary.draw(random)], float(random.uniform(1.1, 1.6)))
        is_stop = bool(said) and initial_of(piece.syllables[0].pinyin) in STOPS
        start = time + is_stop * float(random.uniform(*_BEFORE_STOP_S))
        first = int(start * SAMPLE_RATE_HZ)
        if first + len(piece.sound) > len(speech):
            misses += 1
            continue
        speech[first : first + len(piece.sound)] += piece.sound
        said += [timed.moved(start) for timed in piece.syllables]
        left -= len(piece.syllables)
        time = start + len(piece.sound) / SAMPLE_RATE_HZ + float(random.uniform(*(_GAP_S if left > 0 else _PAUSE_S)))
        left = left if left > 0 else int(random.integers(*PHRASE))
    return pronounced(speech, said, random)


def pronounced(speech: np.ndarray, said: Sequence[Timed], random: np.random.Generator) -> Sentence:
    """Speech [F·640] of unit deviation with the mouth shapes of what is said in it, on a quiet floor of noise."""
    num_frames = len(speech) // SAMPLES_PER_FRAME
    keys = [key for timed in said for key in _keys(timed)]
    floor = random.normal(0, 0.003, len(speech)).astype(np.float32)
    return Sentence(speech + floor, _trajectory(keys or [(0.2, "rest")], num_frames))
