"""Recorded words: their spelling, the borders of what is heard in them, and lips that shut where they must."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from joyhallo.data.synthesis import mandarin
from joyhallo.data.synthesis.borders import Timed, time_syllables
from joyhallo.data.synthesis.spelling import read_word, spelled
from joyhallo.errors import UserError

RATE_HZ = 16000
FRAME_S = 0.04
SOUNDS = {  # overtones of 200 Hz by their strength, and how loud the sound is
    "a": ([1.0, 1.0, 1.6, 1.6, 1.0, 1.0, 0.5, 0.3, 0.2, 0.2, 0.2, 0.2], 0.5),
    "i": ([1.5, 0.8, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.2, 0.4, 0.5, 0.5, 0.4], 0.4),
    "m": ([1.0, 0.3, 0.02], 0.25),
    "": ([], 0.0),  # a closure
}


def sound_of(name: str, length_s: float) -> np.ndarray:
    num_samples = round(length_s * RATE_HZ)
    if name in ("s", "burst"):
        noise = np.diff(np.random.default_rng(0).normal(size=num_samples + 1))
        return (0.08 if name == "s" else 0.12) * noise
    strengths, level = SOUNDS[name]
    times = np.arange(num_samples) / RATE_HZ
    tone = sum((share * np.sin(2 * np.pi * 200 * (k + 1) * times) for k, share in enumerate(strengths)), np.zeros(num_samples))
    return level * tone / max(float(tone.std()), 1e-9) * (tone.std() > 0)


def made(sounds: list[tuple[str, float]]) -> tuple[np.ndarray, list[float]]:
    """A word made of sounds and their lengths, after 0.1 s of silence, and when each of them begins."""
    parts = [np.zeros(1600), *(sound_of(name, length_s) for name, length_s in sounds), np.zeros(1600)]
    starts = 0.1 + np.cumsum([0.0, *(length_s for _, length_s in sounds)])
    word = np.concatenate(parts) + 0.0005 * np.random.default_rng(1).normal(size=sum(map(len, parts)))
    return word.astype(np.float32), starts.tolist()


class TestSpelling:
    @pytest.mark.parametrize(
        ("word", "expected"),
        [
            ("苹果", ("ping2", "guo3")),
            ("桌子", ("zhuo1", "zi5")),
            ("绿色", ("lü4", "se4")),
            ("玩儿", ("wanr2",)),
            ("有点儿", ("you3", "dianr3")),
            ("女儿", ("nü3", "er2")),
            ("幼儿园", ("you4", "er2", "yuan2")),
            ("儿童", ("er2", "tong2")),
        ],
    )
    def test_words_become_syllables_with_tones(self, word, expected):
        assert read_word(word) == expected

    @pytest.mark.parametrize(("name", "why"), [("越_越_", "other signs"), ("niu4", "other signs"), ("嗯", "not of the tables")])
    def test_what_is_no_word_says_why(self, name, why):
        assert why in read_word(name)
        assert name == "niu4" or not spelled(name)

    def test_recordings_are_split_and_the_others_left_out_with_a_reason(self, tmp_path):
        words = [f"{first}{second}" for first in "天地人山水火木金土日月大小" for second in "上下左右前后东西南北中门人"]
        for name in (*words, "越_越_", "嗯"):
            (tmp_path / f"{name}.opus").touch()
        found, left_out = mandarin.read_words(tmp_path)
        assert {path.stem for path in left_out} == {"越_越_", "嗯"}
        assert len(found[True]) + len(found[False]) == len(words)
        assert 0.02 < len(found[True]) / len(words) < 0.14
        (tmp_path / "s").mkdir()
        (tmp_path / "s/niu4.opus").touch()
        every = mandarin.read_recordings(tmp_path / "s", tmp_path)
        assert sum(map(len, every.values())) == len(words) + 1


class TestBorders:
    @pytest.mark.parametrize(
        ("syllables", "sounds", "second"),
        [
            (("ba1", "ma1"), [("burst", 0.01), ("a", 0.35), ("m", 0.09), ("a", 0.12)], (2, 3)),
            (("ma1", "ba1"), [("m", 0.09), ("a", 0.12), ("", 0.07), ("burst", 0.012), ("a", 0.35)], (3, 4)),
            (("sa1", "mi1"), [("s", 0.14), ("a", 0.12), ("m", 0.08), ("i", 0.36)], (2, 3)),
            (("ma1", "sa1"), [("m", 0.08), ("a", 0.36), ("s", 0.13), ("a", 0.12)], (2, 3)),
        ],
    )
    def test_the_second_syllable_is_found_where_it_begins(self, syllables, sounds, second):
        word, starts = made(sounds)
        first, found = time_syllables(word, syllables)
        assert abs(first.start - starts[0]) < FRAME_S
        assert abs(found.start - starts[second[0]]) < FRAME_S
        assert abs(found.vowel - starts[second[1]]) < FRAME_S
        assert abs(found.end - starts[-1]) < FRAME_S
        half = (starts[0] + starts[-1]) / 2
        assert abs(half - starts[second[0]]) > FRAME_S  # equal parts would be wrong

    def test_syllables_follow_one_another_and_silence_has_none(self):
        word, _ = made([("burst", 0.01), ("a", 0.2), ("", 0.06), ("burst", 0.01), ("i", 0.2), ("m", 0.08), ("a", 0.2)])
        found = time_syllables(word, ("ba1", "di4", "ma5"))
        assert [timed.pinyin for timed in found] == ["ba1", "di4", "ma5"]
        assert all(timed.start <= timed.vowel < timed.end for timed in found)
        assert all(before.end <= after.start for before, after in pairwise(found))
        assert time_syllables(np.zeros(8000, np.float32), ("ba1",)) == []

    def test_a_word_too_short_for_its_spelling_is_cut_evenly(self):
        found = time_syllables(sound_of("a", 0.03).astype(np.float32), ("shuang1", "shuang1", "shuang1"))
        assert len(found) == 3
        assert all(before.end <= after.start for before, after in pairwise(found))


class TestLips:
    def test_they_are_shut_where_ba_ma_needs_it_and_open_between(self):
        word, starts = made([("burst", 0.01), ("a", 0.35), ("m", 0.09), ("a", 0.3)])
        speech = np.pad(word, (8000, 3200))[: 640 * 32]
        said = [timed.moved(0.5) for timed in time_syllables(word, ("ba1", "ma1"))]
        controls = mandarin.pronounced(speech, said, np.random.default_rng(0)).controls
        burst, hum = 0.5 + starts[0], 0.5 + (starts[2] + starts[3]) / 2
        shut = (np.flatnonzero(controls[:, 0] == 0) + 0.5) * FRAME_S
        for closure in (burst - FRAME_S, hum):
            near = shut[np.abs(shut - closure) < 2 * FRAME_S]
            assert len(near) >= 3
            assert abs(near.mean() - closure) < 2 * FRAME_S
        vowels = [round((0.5 + (start + end) / 2) / FRAME_S) for start, end in ((starts[1], starts[2]), (starts[3], starts[4]))]
        assert controls[vowels, 0].min() > 0.6

    def test_a_long_hum_is_shut_to_its_end(self):
        timed = Timed("ma1", 0.4, 0.7, 1.0)
        controls = mandarin.pronounced(np.zeros(640 * 40, np.float32), [timed], np.random.default_rng(0)).controls
        frames = np.arange(40) * FRAME_S + FRAME_S / 2
        assert not controls[(frames > 0.4) & (frames < 0.69), 0].any()
        assert controls[frames > 0.75, 0].max() > 0.6


class TestSentences:
    @pytest.fixture
    def recorded(self, monkeypatch):
        """Words that all sound the same: ma, and sa after it."""
        word, starts = made([("m", 0.08), ("a", 0.3), ("s", 0.13), ("a", 0.2)])
        monkeypatch.setattr(mandarin, "read_speech", lambda _path: word)
        return starts

    def test_a_faster_word_keeps_the_places_of_its_syllables(self, recorded):
        piece = mandarin._piece(Path("妈撒.opus"), 1.5)
        assert abs(len(piece.sound) / RATE_HZ - (0.71 + 2 * mandarin._MARGIN_S) / 1.5) < 0.03
        hiss = np.abs(np.diff(np.sign(piece.sound))).reshape(-1)  # it crosses zero far more often than the tones do
        rate = np.convolve(hiss, np.ones(320) / 640, "same")
        middle = (piece.syllables[1].start + piece.syllables[1].vowel) / 2
        assert rate[int(middle * RATE_HZ)] > 0.25
        assert rate[int((piece.syllables[0].vowel + 0.05) * RATE_HZ)] < 0.2
        assert abs(piece.syllables[1].start - piece.syllables[0].start - (recorded[2] - recorded[0]) / 1.5) < FRAME_S

    def test_a_sentence_has_pauses_and_is_the_same_for_the_same_seed(self, recorded):
        assert recorded
        paths = [Path(f"{name}.opus") for name in ("妈撒", "妈洒")]
        first, second = (mandarin.speak(paths, 250, np.random.default_rng(3)) for _ in range(2))
        assert np.array_equal(first.speech, second.speech)
        assert np.array_equal(first.controls, second.controls)
        assert first.controls.shape == (250, 4)
        loud = np.square(first.speech.reshape(250, 640)).mean(1) > 0.02
        edges = np.flatnonzero(np.diff(loud.astype(int)))
        pauses = [end - start for start, end in pairwise(edges) if not loud[start + 1]]
        assert sum(length >= 3 for length in pauses) >= 3
        assert loud.mean() > 0.5

    def test_recordings_too_long_for_the_clip_do_not_silence_it(self, monkeypatch):
        sounds = {"妈": made([("m", 0.08), ("a", 0.2)])[0], "妈撒": made([("m", 0.08), ("a", 0.9), ("s", 0.13), ("a", 0.9)])[0]}
        monkeypatch.setattr(mandarin, "read_speech", lambda path: sounds[path.stem])
        for seed in range(5):
            sentence = mandarin.speak([Path("妈.opus"), Path("妈撒.opus")], 24, np.random.default_rng(seed))
            assert sentence.controls[:, 0].max() > 0.5

    def test_a_silent_recording_is_an_error(self, monkeypatch):
        monkeypatch.setattr(mandarin, "read_speech", lambda _path: np.zeros(8000, np.float32))
        with pytest.raises(UserError, match="is silent"):
            mandarin.speak([Path("妈.opus")], 50, np.random.default_rng(0))
