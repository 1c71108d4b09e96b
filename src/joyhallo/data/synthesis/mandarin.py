"""Mandarin without video: recorded syllables → a sentence of nonsense and a plausible movement of the lips for it.

The syllable's pinyin is in its file name (`niu4.opus`). Initials and finals give mouth shapes at times found from the sound's
energy; bilabials shut the lips. The shapes are set by hand and not checked against filmed Mandarin; half of the movement is
what lips of filmed speech do for such a sound (`hearing`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from joyhallo.conditioning import anatomy
from joyhallo.data.heldout import is_held_out_person
from joyhallo.data.synthesis.gestures import Gesture
from joyhallo.data.synthesis.hearing import Hearing, fit_hearing
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
_INITIALS = {
    "b": "shut", "p": "shut", "m": "shut", "f": "f",
    "d": "tongue-tip", "t": "tongue-tip", "n": "tongue-tip", "l": "tongue-tip",
    "g": "back", "k": "back", "h": "back", "j": "palatal", "q": "palatal", "x": "palatal",
    "zh": "retroflex", "ch": "retroflex", "sh": "retroflex", "r": "retroflex",
    "z": "sibilant", "c": "sibilant", "s": "sibilant",
}  # fmt: skip
_FINALS = {
    "a": "a", "o": "o", "e": "e", "i": "i", "u": "u", "ü": "ü", "er": "er", "ai": "a i", "ei": "ê i", "ao": "a u", "ou": "o u",
    "an": "a n", "en": "e n", "ang": "a ng", "eng": "e ng", "ong": "u ng",
    "ia": "i a", "ie": "i ê", "iao": "i a u", "iu": "i o u",
    "ian": "i ê n", "in": "i n", "iang": "i a ng", "ing": "i ng", "iong": "ü ng", "ua": "u a", "uo": "u o", "uai": "u a i",
    "ui": "u ê i", "uan": "u a n", "un": "u e n", "uang": "u a ng", "ueng": "u e ng", "üe": "ü ê", "üan": "ü ê n", "ün": "ü n",
}  # fmt: skip
_SPELLED_WITHOUT_INITIAL = {
    "yi": "i", "yin": "in", "ying": "ing", "yu": "ü", "yue": "üe", "yuan": "üan", "yun": "ün", "you": "iu", "yong": "iong",
    "ye": "ie", "wu": "u", "wei": "ui", "wen": "un", "weng": "ueng", "wo": "uo",
}  # fmt: skip
_AMPLITUDE = 1.4  # at the pace of speech no shape is reached in full: this brings the openings to those of filmed speech
_SPELLED = np.array([0.5, 0.5, 0.7, 0.7])  # share of the controls that the spelling gives; the rest is heard
_REACH = np.array([1.2, 1.2, 1.0, 1.0])  # two that disagree now and then stay nearer to the mean
_SHUT_CM = 0.02
_BROWS = (70, 63, 105, 66, 107, 46, 53, 52, 65, 55, 300, 293, 334, 296, 336, 276, 283, 282, 295, 285)
_EYES_AND_BROWS = (*anatomy.RIGHT_EYE, *anatomy.LEFT_EYE, *_BROWS)
_LEAD_S = 0.05  # the lips are ahead of the sound
_CLOSURE_S = 0.12  # lips stay together so long for b, p and m: three frames, since small networks shorten what is short
_SHARE_SHUT = 0.35  # of the syllables drawn begin with b, p or m: a sixth of the recordings do


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


def phones(pinyin: str) -> list[str] | None:
    """The mouth shapes of a syllable such as `niu4`, its initial first; None for what is not a syllable of the tables."""
    found = re.fullmatch(r"([a-zü]+?)[1-5]?", pinyin.lower().replace("v", "ü").replace("u:", "ü"))
    if not found:
        return None
    spelled = found[1]
    if spelled in _SPELLED_WITHOUT_INITIAL:
        return _FINALS[_SPELLED_WITHOUT_INITIAL[spelled]].split()
    if spelled[0] in "yw":
        spelled = {"y": "i", "w": "u"}[spelled[0]] + spelled[1:]
        return _FINALS[spelled].split() if spelled in _FINALS else None
    initial = next((spelled[:size] for size in (2, 1) if spelled[:size] in _INITIALS), "")
    final = spelled[len(initial) :]
    if initial in {"j", "q", "x"} and final.startswith("u"):
        final = "ü" + final[1:]
    if initial in {"zh", "ch", "sh", "r", "z", "c", "s"} and final == "i":
        return [_INITIALS[initial], "apical"]
    if final not in _FINALS:
        return None
    return ([_INITIALS[initial]] if initial else []) + _FINALS[final].split()


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


def _speaking_part(speech: np.ndarray) -> tuple[float, float]:
    """Start and end of the sound in a recording of one syllable, seconds."""
    energy = np.sqrt(np.convolve(speech**2, np.ones(320) / 320, "same"))[::80]
    loud = np.flatnonzero(energy > 0.06 * energy.max())
    return loud[0] * 80 / SAMPLE_RATE_HZ, (loud[-1] + 1) * 80 / SAMPLE_RATE_HZ


def _keys(shapes: list[str], start: float, end: float) -> list[tuple[float, str]]:
    """Times and names of the shapes of one syllable."""
    duration, keys, onset = end - start, [], 0.0
    if shapes[0] in _INITIALS.values() and len(shapes) > 1:
        onset = min(0.11, 0.32 * duration)
        keys.append((start + (0.0 if shapes[0] == "shut" else 0.3 * onset) - _LEAD_S, shapes[0]))
        shapes = shapes[1:]
    places = np.linspace(0, 1, len(shapes) + 2)[1:-1] if len(shapes) > 1 else [0.4]
    keys += [
        (start + onset + place * (duration - onset) - 0.6 * _LEAD_S, shape) for place, shape in zip(places, shapes, strict=True)
    ]
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
    paths = [path for path in sorted(folder.glob("*.opus")) if phones(path.stem)]
    return {is_held: [path for path in paths if is_held_out_person(path.stem) == is_held] for is_held in (True, False)}


def _shapes(recording: Path) -> list[str]:
    return phones(recording.stem) or ["rest"]


def speak(paths: Sequence[Path], num_frames: int, random: np.random.Generator) -> Sentence:
    """Random syllables one after another until the frames are full; the pauses between them are random too."""
    speech = np.zeros(num_frames * SAMPLES_PER_FRAME, np.float32)
    keys: list[tuple[float, str]] = []
    time = float(random.uniform(0.05, 0.3))
    shut = [path for path in paths if _shapes(path)[0] == "shut"] or list(paths)
    while True:
        drawn = shut if random.random() < _SHARE_SHUT else paths
        path = drawn[int(random.integers(len(drawn)))]
        shapes = _shapes(path)
        sound = read_speech(path)
        start, end = _speaking_part(sound)
        # Isolated syllables are slow; in speech they are about half as long.
        pace = float(random.uniform(1.1, 1.6))
        sound = _faster(sound[int(start * SAMPLE_RATE_HZ) : int(end * SAMPLE_RATE_HZ)], pace)
        duration = len(sound) / SAMPLE_RATE_HZ
        if time + duration > num_frames / _VIDEO_FPS:
            break
        first = int(time * SAMPLE_RATE_HZ)
        speech[first : first + len(sound)] += sound[: len(speech) - first] / (sound.std() + 1e-6)
        keys += _keys(shapes, time, time + duration)
        time += duration + (float(random.uniform(0.15, 0.4)) if random.random() < 0.2 else float(random.uniform(0, 0.04)))
    speech += random.normal(0, 0.003, len(speech)).astype(np.float32)
    return Sentence(speech, _trajectory(keys or [(0.2, "rest")], num_frames))


def _faster(sound: np.ndarray, pace: float) -> np.ndarray:
    """Shorter at the same pitch: pieces of 40 ms added with overlap, each shifted to fit the last one best."""
    size, hop, reach = 640, 320, 80
    window = np.hanning(size).astype(np.float32)
    num_pieces = int((len(sound) - size - 2 * reach) / pace) // hop
    if num_pieces < 2:
        return sound
    result = np.zeros(num_pieces * hop + size, np.float32)
    for index in range(num_pieces):
        at, target = int(index * hop * pace) + reach, index * hop
        shifts = range(-reach, reach + 1, 4)
        overlap = result[target : target + hop]
        shift = max(shifts, key=lambda move: float(overlap @ sound[at + move : at + move + hop])) if index else 0
        result[target : target + size] += window * sound[at + shift : at + shift + size]
    return result
