"""Do the measures of closed lips see what real lips do? Filmed English with the words' times, and mouths that do nothing.

Two definitions are held to it: that of the report of the embedded weights (from three frames before an onset to two after, the
opening falls under 0.15 of the clip's range), and that of the viseme test (the lips touch around the onset).
"""

import sys
from pathlib import Path

import numpy as np
import pytest

from joyhallo.conditioning.face import FaceMesh
from joyhallo.evaluation.film import open_film
from joyhallo.evaluation.head import hold_still
from joyhallo.evaluation.lips import CLOSED, lips_of
from joyhallo.evaluation.visemes import _APART_S, _CLOSURE_S, _frames, classify

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from mini_report.scores import closes_at, normalised  # noqa: E402

DATA = ROOT.parent / "shared" / "data"
BUNDLE = DATA / "models" / "face_landmarker_v2_with_blendshapes.task"
CLIPS = sorted((DATA / "grid_s1").glob("*.mp4"))[::85] if (DATA / "grid_s1").is_dir() else []
needs_clips = pytest.mark.skipif(not (CLIPS and BUNDLE.is_file()), reason="no shared data folder")
FPS = 25.0
HALF_CLOSED = ("f", "v", "w", "one")  # teeth on the lip, or rounded: neither closed nor open
UNITS_A_SECOND = 25_000  # of the align files


class Word:
    """A word of a clip."""

    def __init__(self, text: str, start_s: float, is_first: bool) -> None:
        self.text, self.start_s, self.is_first = text, start_s, is_first
        self.is_bilabial = text[0] in "bp"  # the letter m begins with its vowel, and no other word begins with m
        self.is_plain = not self.is_bilabial and text != "m" and not text.startswith(HALF_CLOSED)


def words_of(clip: Path) -> list[Word]:
    words, before = [], "sil"
    for line in (clip.parent / "align" / f"{clip.stem}.align").read_text().splitlines():
        start, _, text = line.split()
        if text not in ("sil", "sp"):
            words.append(Word(text, int(start) / UNITS_A_SECOND, before in ("sil", "sp")))
        before = text
    return words


@pytest.fixture(scope="module")
def openings() -> list[tuple[np.ndarray, list[Word]]]:
    mesh = FaceMesh.from_path(BUNDLE)
    films = [open_film(clip, face_mesh=mesh) for clip in CLIPS]
    return [(lips_of(hold_still(f.points)).opening, words_of(f.path)) for f in films]


def share(marks: list[bool]) -> float:
    assert len(marks) >= 12
    return float(np.mean(marks))


def closed_by_range(opening: np.ndarray, word: Word) -> bool:
    return closes_at(normalised(np.nan_to_num(opening, nan=float(np.nanmedian(opening)))), round(word.start_s * FPS))


def class_seen(opening: np.ndarray, word: Word, span: tuple[float, float], late_s: float = 0.0) -> str:
    """As the viseme test decides, with the width left out."""
    start_s = word.start_s + late_s
    around = opening[_frames(start_s + span[0], start_s + span[1], FPS, len(opening))]
    value = np.nanmin(around) if span == _CLOSURE_S else np.nanmedian(around)
    return classify(float(value), 0.0, is_onset=True)


@needs_clips
def test_filmed_lips_close_on_b_and_p_by_the_range_of_the_clip(openings):
    pairs = [(opening, word) for opening, words in openings for word in words]
    assert share([closed_by_range(*pair) for pair in pairs if pair[1].is_bilabial]) >= 0.9
    assert share([closed_by_range(*pair) for pair in pairs if not pair[1].is_bilabial]) <= 0.6


@needs_clips
def test_filmed_lips_touch_on_b_and_p_and_not_on_other_sounds(openings):
    pairs = [(opening, word) for opening, words in openings for word in words]
    bilabial = [pair for pair in pairs if pair[1].is_bilabial]
    plain = [pair for pair in pairs if pair[1].is_plain and not pair[1].is_first]
    assert share([class_seen(*pair, _CLOSURE_S) == "closed" for pair in bilabial]) >= 0.9
    assert share([class_seen(*pair, _APART_S) != "closed" for pair in plain]) >= 0.8
    # Lips that are 0.16 s early or late are seen to be so.
    assert share([class_seen(*pair, _CLOSURE_S, late_s=-0.16) == "closed" for pair in bilabial]) < 0.7
    least = [float(np.nanmin(opening)) for opening, _ in openings]
    assert max(least) < CLOSED / 2  # what the mesh says of lips that touch leaves room below the limit


@needs_clips
def test_blurred_small_and_noisy_pictures_move_the_limit_little(openings):
    import cv2

    random = np.random.default_rng(0)
    ways = {
        "blurred": lambda p: cv2.GaussianBlur(p, (0, 0), 2.0),
        "half as large": lambda p: cv2.resize(p, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
        "noisy": lambda p: np.clip(p + random.normal(0, 8, p.shape), 0, 255).astype(np.uint8),
    }
    mesh = FaceMesh.from_path(BUNDLE)
    film = open_film(CLIPS[0], face_mesh=mesh)
    opening, words = openings[0]
    for name, spoil in ways.items():
        points, face = [], None
        for frame in film.frames():
            face = mesh.track(spoil(frame), face)
            points.append(face.landmarks)
        spoiled = lips_of(hold_still(np.stack(points))).opening
        assert np.corrcoef(opening, spoiled)[0, 1] > 0.95, name
        assert np.nanmin(spoiled) < CLOSED / 2, name
        for word in words:
            if word.is_bilabial:
                assert class_seen(spoiled, word, _CLOSURE_S) == "closed", (name, word.text)


def test_a_still_mouth_gets_no_more_on_bilabials_than_elsewhere():
    """The range of a mouth that does nothing is the mesh's own trembling: both shares rise alike, and only read together they
    say something. The viseme test's limit is absolute: a still open mouth never touches, a still closed one always does."""
    random = np.random.default_rng(0)
    trembling = random.normal(0.05, 0.001, 5000)
    onsets = random.integers(10, 4990, 2000)
    marks = np.array([closes_at(normalised(trembling), int(onset)) for onset in onsets])
    assert marks.mean() > 0.5
    assert abs(marks[:1000].mean() - marks[1000:].mean()) < 0.06
    word = Word("ba", 10.0, is_first=False)
    assert class_seen(trembling, word, _CLOSURE_S) != "closed"
    assert class_seen(trembling - 0.05, word, _CLOSURE_S) == "closed"
    assert class_seen(trembling - 0.05, word, _APART_S) == "closed"
