"""The Mandarin viseme test on faces whose lips are told what to do."""

from pathlib import Path

import numpy as np
import pytest

from joyhallo.errors import UserError
from joyhallo.evaluation.head import hold_still
from joyhallo.evaluation.pinyin import BILABIALS, Syllable, read_sentence, read_syllable, syllables_of_name
from joyhallo.evaluation.stimuli import SYLLABLES
from joyhallo.evaluation.viseme_scores import ASKED, Event, score_events, viseme_measures
from joyhallo.evaluation.visemes import time_syllables, viseme_events
from made_films import FPS, made_film, made_points, still

RATE = 16_000
# Opening and width of lips that articulate clearly, in eye distances.
SHAPES = {"open": (0.11, 0.6), "spread": (0.035, 0.635), "rounded": (0.03, 0.545), "closed": (0.0, 0.6), "apart": (0.05, 0.6)}
LENGTH_S, REST_S = 0.4, 0.5


@pytest.mark.parametrize(
    ("text", "initial", "asked"),
    [
        ("ba1", "b", "open"), ("niu4", "n", "spread rounded"), ("lü3", "l", "rounded"), ("lv3", "l", "rounded"),
        ("nǚ", "n", "rounded"), ("ju2", "j", "rounded"), ("zhi1", "zh", ""), ("si4", "s", ""), ("yi1", "", "spread"),
        ("wu3", "", "rounded"), ("yu2", "", "rounded"), ("you3", "", "spread rounded"), ("shuang1", "sh", "rounded open"),
        ("xian4", "x", "spread"), ("yan2", "", "spread"), ("guo2", "g", "rounded"), ("er2", "", ""), ("ke4", "k", ""),
        ("xióng", "x", "rounded"), ("yue4", "", "rounded"), ("hao3", "h", "open"),
    ],
)  # fmt: skip
def test_pinyin_is_read(text, initial, asked):
    syllable = read_syllable(text)
    assert syllable.initial == initial
    assert " ".join(part.asked for part in syllable.parts) == asked
    assert all(0 <= part.start < part.end <= 1 for part in syllable.parts)


@pytest.mark.parametrize("text", ["", "hello", "qa1", "gi2", "ng", "zho1", "ba9"])
def test_what_is_no_syllable(text):
    assert read_syllable(text) is None


def test_sentences_and_file_names():
    assert [s.text for s in read_sentence("ni3 hao3, shi4 jie4")] == [
        "ni3",
        "hao3",
        "shi4",
        "jie4",
    ]
    with pytest.raises(UserError, match="'hello' is not a pinyin syllable"):
        read_sentence("ni3 hello")
    with pytest.raises(UserError, match="empty"):
        read_sentence(" ")
    assert [s.text for s in syllables_of_name("ni3_hao3")] == ["ni3", "hao3"]
    assert [s.text for s in syllables_of_name("lv4")] == ["lv4"]
    assert syllables_of_name("man") == syllables_of_name("clip1") == syllables_of_name("take-2_ba1") == []


def test_the_stimuli_cover_every_class_and_have_recordings():
    read = [read_syllable(name) for name in SYLLABLES]
    assert None not in read
    assert len(set(SYLLABLES)) == len(SYLLABLES)
    asked = [part.asked for syllable in read for part in syllable.parts]
    assert min(asked.count(name) for name in ("open", "spread", "rounded")) >= 20
    bilabials = sum(syllable.initial in BILABIALS for syllable in read)
    assert bilabials >= 20
    assert len(read) - bilabials >= 40
    folder = Path(__file__).parents[3] / "shared" / "data" / "speech_cmn" / "syllables"
    if folder.is_dir():
        assert not [name for name in SYLLABLES if not (folder / f"{name}.opus").is_file()]


def speech_of(num_syllables: int) -> np.ndarray:
    """Syllables of 0.4 s that swell and fade, with half a second of rest around them."""
    times = np.arange(int(LENGTH_S * RATE)) / RATE
    one = np.sin(2 * np.pi * 200 * times) * np.minimum(1, np.minimum(times / 0.02, (LENGTH_S - times) / 0.1) + 0.12)
    rest = np.zeros(int(REST_S * RATE))
    return np.concatenate([rest, *[one] * num_syllables, rest]).astype(np.float32)


def shapes_of(syllables: list[Syllable], num_frames: int, late: int = 0, size: float = 1.0) -> np.ndarray:
    """Opening and width [N, 2] of lips that do all that is asked of them, or do it late, or too little of it."""
    names = np.array(["closed"] * num_frames, dtype=object)
    for index, syllable in enumerate(syllables):
        start = REST_S + index * LENGTH_S
        onset = start + min(syllable.consonant_s, 0.4 * LENGTH_S)
        first = "closed" if syllable.initial in BILABIALS else "apart"
        if syllable.initial:
            names[round((start - 0.06) * FPS) : round(onset * FPS) + 1] = first
        for part in syllable.parts:
            length = start + LENGTH_S - onset
            early, late_edge = (onset + edge * length - 0.04 for edge in (part.start, part.end))
            first_frame = round(early * FPS) + (1 if syllable.initial == "m" else 0)
            names[first_frame : round(late_edge * FPS)] = part.asked
    values = np.array([SHAPES[name] for name in names])
    rest = np.array(SHAPES["closed"])
    return np.roll(rest + size * (values - rest), late, axis=0)


def events_of(spoken: list[str], acted: list[str] | None = None, **how) -> list[Event]:
    """Events of a film that says `spoken` with the lips of `acted`."""
    syllables = [read_syllable(text) for text in spoken]
    speech = speech_of(len(syllables))
    num_frames = len(speech) // 640
    shapes = shapes_of([read_syllable(text) for text in acted or spoken], num_frames, **how)
    points = made_points(shapes[:, 0], shapes[:, 1], np.full(num_frames, 2.0), still(num_frames))
    return viseme_events(made_film(points, speech=speech), hold_still(points), syllables)


TEXT = ["ba1", "di4", "mu4", "ga1", "pi2", "ku1", "ma1", "li4", "bu4", "ta1"]


def test_syllables_are_found_in_the_sound():
    found = time_syllables(speech_of(10), [read_syllable(text) for text in TEXT])
    starts = np.array([timed.start_s for timed in found])
    assert np.abs(starts - (REST_S + LENGTH_S * np.arange(10))).max() < 0.03
    assert time_syllables(np.zeros(16_000, np.float32), [read_syllable("ba1")]) == []


def test_lips_that_do_what_is_asked_get_every_mark():
    scores = score_events(events_of(TEXT))
    assert scores.total > 0.9
    assert min(scores.scores[name] for name in ASKED) >= 0.75
    single = [event for text in SYLLABLES for event in events_of([text])]
    assert score_events(single).total > 0.93


def test_worse_lips_get_fewer_marks():
    good = score_events(events_of(TEXT)).total
    still_lips = score_events(events_of(TEXT, size=0.0))
    assert still_lips.total == pytest.approx(0.2)
    assert still_lips.scores["closed"] == 1
    assert still_lips.scores["apart"] == 0
    late, weak = (score_events(events_of(TEXT, **how)).total for how in ({"late": 4}, {"size": 0.3}))
    other = score_events(events_of(TEXT, [*TEXT[3:], *TEXT[:3]])).total
    assert max(late, weak, other) < good - 0.2
    assert late > still_lips.total


def test_confusion_counts_every_event_once():
    events = [
        Event("f", "ba1", "open", "rounded", 0.1),
        Event("f", "ba1", "closed", "closed", 0.0),
        Event("f", "da1", "apart", "open", 0.0),
    ]
    scores = score_events(events)
    assert scores.confusion["open"] == {"closed": 0, "rounded": 1, "spread": 0, "open": 0}
    assert scores.scores == {"closed": 1.0, "apart": 1.0, "rounded": None, "spread": None, "open": 0.0}
    assert scores.total == pytest.approx(2 / 3)
    measures = {measure.name: measure for measure in viseme_measures(events)}
    assert measures["viseme_rounded"].value is None
    assert measures["viseme_total"].weight == 3
