"""Means by rule, two systems beside each other, the report's files and the page."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from joyhallo.errors import UserError
from joyhallo.evaluation.columns import ALWAYS, MANDARIN, PAPER, columns_of
from joyhallo.evaluation.corpus import compare, summaries
from joyhallo.evaluation.curves import Line, draw
from joyhallo.evaluation.measures import Measure
from joyhallo.evaluation.page import page_of, write_page
from joyhallo.evaluation.report import Report, read_json, require_something, write_json
from joyhallo.evaluation.suite import FilmReport
from joyhallo.evaluation.viseme_scores import Event, score_events, viseme_measures

JPEG = b"\xff\xd8\xff\xe0 a picture \xff\xd9"


def film(name: str, *measures: Measure, events: tuple[Event, ...] = ()) -> FilmReport:
    loudness = np.linspace(-60, -20, 10)
    return FilmReport(Path(f"{name}.mp4"), 10, 25.0, (64, 48), measures, loudness, (JPEG,), events)


def system(values: list[float], weight: float = 1.0, name: str = "flicker") -> list[FilmReport]:
    return [film(f"clip{index}", Measure(name, value, weight=weight)) for index, value in enumerate(values)]


def test_the_papers_columns_are_named_and_ordered_as_in_the_paper():
    assert [column.title for column in PAPER] == ["IQA", "VQA", "Sync-C", "Sync-D", "Smooth", "Subject", "Background"]
    assert {column.title: column.better for column in PAPER}["Sync-D"] == -1
    names = [column.name for column in (*PAPER, *ALWAYS, *MANDARIN)]
    assert len(set(names)) == len(names)
    assert [column.name for column in columns_of({"flicker", "iqa", "unheard_of"})] == ["iqa", "flicker", "unheard_of"]


def test_means_count_as_each_measure_says():
    films = [
        film("long", Measure("subject", 0.9, weight=300), Measure("sync_c", 6.0)),
        film("short", Measure("subject", 0.6, weight=100), Measure("sync_c", 3.0)),
        film("mute", Measure("subject", 0.3, weight=0), Measure("sync_c", None, note="no sound")),
    ]
    found = {summary.name: summary for summary in summaries(films)}
    assert found["subject"].value == pytest.approx((0.9 * 300 + 0.6 * 100) / 400)  # by frames
    assert found["sync_c"].value == pytest.approx(4.5)  # by films that have one
    assert (found["sync_c"].num_films, found["sync_c"].note) == (2, "no sound")
    alone = summaries([film("mute", Measure("sync_c", None, note="no sound"))])[0]
    assert (alone.value, alone.num_films) == (None, 0)


def test_paired_differences_find_what_unpaired_ones_would_not():
    random = np.random.default_rng(3)
    theirs = random.normal(10, 5, 30)  # films differ a lot
    ours = theirs + 0.5 + random.normal(0, 0.3, 30)
    found = compare(system(list(ours)), system(list(theirs)))[0]
    assert found.difference == pytest.approx(float((ours - theirs).mean()))
    assert found.low < found.difference < found.high
    assert found.is_clear
    normal = 1.96 * (ours - theirs).std(ddof=1) / np.sqrt(30)
    assert found.high - found.low == pytest.approx(2 * normal, rel=0.15)
    swapped = compare(system(list(theirs)), system(list(ours)))[0]
    assert (swapped.difference, swapped.low) == (pytest.approx(-found.difference), pytest.approx(-found.high))
    assert found == compare(system(list(ours)), system(list(theirs)))[0]  # seeded
    same = compare(system(list(theirs)), system(list(theirs + random.normal(0, 0.3, 30))))[0]
    assert not same.is_clear


def test_intervals_hold_the_truth_as_often_as_they_say():
    random = np.random.default_rng(0)
    held = 0
    for _ in range(60):
        theirs = random.normal(0, 3, 20)
        ours = theirs + 1.0 + random.normal(0, 1, 20)
        found = compare(system(list(ours)), system(list(theirs)))[0]
        held += found.low <= 1.0 <= found.high
    assert 50 <= held <= 60


def test_pairs_without_a_value_are_left_out_and_few_pairs_get_no_interval():
    ours = [film("a", Measure("iqa", 0.8)), film("b", Measure("iqa", None, note="x")), film("c", Measure("iqa", 0.6))]
    theirs = [film("c", Measure("iqa", 0.5)), film("a", Measure("iqa", 0.7)), film("b", Measure("iqa", 0.1))]
    found = compare(ours, theirs)[0]
    assert (found.num_pairs, found.low, found.high) == (2, None, None)
    assert found.difference == pytest.approx(0.1)
    assert compare(ours[1:2], theirs[2:])[0].difference is None


@pytest.mark.parametrize(
    ("ours", "theirs", "words"),
    [
        (["a", "b"], ["a"], "'b' has no partner of that name in --against"),
        (["a"], ["a", "b", "c"], "'b' and 1 more has no partner of that name in the videos given"),
        (["a", "a"], ["a"], "two videos are called 'a'"),
    ],
)
def test_systems_must_have_the_same_films(ours, theirs, words):
    with pytest.raises(UserError, match=words):
        compare([film(name, Measure("iqa", 1.0)) for name in ours], [film(name, Measure("iqa", 1.0)) for name in theirs])


EVENTS = (Event("f", "ba1", "closed", "closed", 0.1), Event("f", "ba1", "open", "spread", 0.2))


def spoken(name: str, **right: str) -> FilmReport:
    """A film of the viseme test: for each class a 1 for every sound that was right and a 0 for every other."""
    events = [
        Event(name, "ba1", asked, asked if mark == "1" else "spread" if asked != "spread" else "open", 0.1)
        for asked, marks in right.items()
        for mark in marks
    ]
    return film(name, *viseme_measures(events), events=tuple(events))


OURS = [spoken("a", closed="11", open="1"), spoken("b", closed="0"), spoken("c", open="0011"), spoken("d")]
THEIRS = [spoken("a", closed="01", open="0"), spoken("b", closed="0"), spoken("c", open="0001"), spoken("d")]


def test_the_viseme_total_is_a_mean_of_classes_and_not_of_films():
    found = {summary.name: summary for summary in summaries(OURS)}
    assert found["viseme_closed"].value == pytest.approx(2 / 3)  # of all sounds together
    assert found["viseme_open"].value == pytest.approx(3 / 5)
    assert found["viseme_total"].value == pytest.approx((2 / 3 + 3 / 5) / 2)
    assert found["viseme_total"].value == pytest.approx(score_events([e for f in OURS for e in f.events]).total)
    assert found["viseme_rounded"].value is None


def test_the_difference_of_totals_is_that_of_the_totals_with_an_interval_over_films():
    found = {pair.name: pair for pair in compare(OURS, THEIRS)}["viseme_total"]
    assert found.ours == pytest.approx((2 / 3 + 3 / 5) / 2)
    assert found.theirs == pytest.approx((1 / 3 + 1 / 5) / 2)
    assert found.difference == pytest.approx(11 / 30)
    assert found.num_pairs == 3  # the fourth has no sound of these classes
    # By hand: of three films a, b, c drawn with repetition, the extremes are b alone (0) and a alone ((1/2 + 1) / 2).
    assert 0 <= found.low < found.difference < found.high <= 0.75
    assert found.low == pytest.approx(0)
    assert found.high == pytest.approx(0.75)
    many = [spoken(str(index), closed="1", open="01") for index in range(12)]
    worse = [spoken(str(index), closed="0" if index % 2 else "1", open="01") for index in range(12)]
    pair = {pair.name: pair for pair in compare(many, worse)}["viseme_total"]
    assert pair.difference == pytest.approx(0.25)
    # Of twelve films, Binomial(12, 1/2) / 12 / 2 are worse: its 2.5 and 97.5 percent points are 3 and 9 films.
    assert (pair.low, pair.high) == (pytest.approx(3 / 24), pytest.approx(9 / 24))
    assert pair.is_clear


def test_differences_weigh_as_the_means_do():
    ours = [film("a", Measure("subject", 0.9, weight=300)), film("b", Measure("subject", 0.5, weight=100))]
    theirs = [film("a", Measure("subject", 0.8, weight=300)), film("b", Measure("subject", 0.9, weight=100))]
    found = compare(ours, theirs)[0]
    assert found.difference == pytest.approx(0.75 * 0.1 - 0.25 * 0.4)
    # Three equal pairs of each: an interval of draws of nothing but one of them cannot be left.
    ours, theirs = ([film(f"{f.name}{i}", *f.measures) for i in range(20) for f in system] for system in (ours, theirs))
    wide = compare(ours, theirs)[0]
    assert wide.difference == pytest.approx(found.difference)
    assert -0.4 < wide.low < wide.difference < wide.high < 0.1


def whole_report(against: bool = False) -> Report:
    curve = np.array([0.1, np.nan, 0.3, *[0.2] * 7])
    names = [f"clip {index} <&>" for index in range(4)]
    films = [
        film(
            name,
            Measure("lip_amplitude", 0.1 + index / 100, "eye distances", curve=curve),
            Measure("lip_sync", 0.8, "correlation", curve=curve + 0.05),
            Measure("flicker", 0.2 * index, curve=curve),
            Measure("iqa", None, note="the weights are not here: joyhallo models pull metrics-quality"),
            events=EVENTS if index == 0 else (),
        )
        for index, name in enumerate(names)
    ]
    others = [film(name, Measure("flicker", 1.0, curve=curve), Measure("lip_sync", 0.5)) for name in names if against]
    return Report(tuple(films), "ours", "theirs" if against else "", tuple(others))


def test_reports_are_read_as_they_were_written(tmp_path):
    report = whole_report(against=True)
    write_json(report, tmp_path / "report.json")
    content = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert content["against"] == "theirs"
    assert {d["name"]: d["num_pairs"] for d in content["differences"]} == {"flicker": 4, "lip_sync": 4}
    assert content["visemes"]["confusion"]["open"]["spread"] == 1
    assert content["films"][0]["visemes"][1] == {
        "film": "f", "syllable": "ba1", "asked": "open", "seen": "spread", "time_s": 0.2
    }  # fmt: skip
    films = read_json(tmp_path / "report.json")
    assert films[0].events == EVENTS
    assert [f.name for f in films] == [f.name for f in report.films]
    assert [m for f in films for m in f.measures] == [m for f in report.films for m in f.measures]
    first = films[0].measures[0].curve
    assert np.isnan(first[1])
    assert first[2] == pytest.approx(0.3)
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": 1, "films": [{}]}', "\x00"])
def test_what_is_no_report_is_one_line(tmp_path, content):
    path = tmp_path / "report.json"
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        read_json(path)
    assert "\n" not in str(caught.value)
    path.write_text('{"version": 99, "films": []}')
    with pytest.raises(UserError, match="version 99"):
        read_json(path)


def test_asking_by_name_for_what_cannot_be_computed_is_an_error():
    films = whole_report().films
    require_something(films, {"flicker"})
    with pytest.raises(UserError, match="models pull metrics-quality"):
        require_something(films, {"iqa", "vqa"})


class Outline(HTMLParser):
    """Checks that tags close in order and collects what a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.fetched, self.texts = [], [], []

    def handle_starttag(self, tag, attributes):
        self.fetched += [value for name, value in attributes if name in ("src", "href", "data", "srcset")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in ("meta", "img", "br"):
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.mark.parametrize("against", [False, True])
def test_the_page_is_one_file_that_fetches_nothing(against, tmp_path):
    report = whole_report(against)
    write_page(report, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    outline = Outline()
    outline.feed(text)
    assert outline.open == []
    assert all(place.startswith("data:image/jpeg;base64,") for place in outline.fetched)
    assert len(outline.fetched) == (8 if against else 4)
    assert not re.search(r"https?://|@import|url\(|<script", text)
    assert "nan" not in re.sub(r"base64,[^\"]*", "", text).lower().replace("nance", "")
    shown = " ".join(outline.texts)
    for words in ("clip 1 <&>", "Lip sync ↑", "joyhallo models pull metrics-quality", "Mandarin visemes"):
        assert words in shown
    assert ("Against theirs" in shown) == against
    assert text.count("<svg") == 3 * 4  # the lips with what is asked of them, loudness, flicker
    assert "open: ba1 spread at 0.20 s" in shown
    assert text.count('class="line b"') == (4 if against else 0)  # the second system's flicker


def test_only_the_first_films_of_many_get_curves():
    films = tuple(film(f"c{index}", Measure("flicker", 0.1, curve=np.zeros(10))) for index in range(60))
    text = page_of(Report(films, "many"))
    assert text.count("data:image") == 40
    assert text.count("<td>c") == 60


def test_curves_keep_their_gaps_and_their_size_bounded():
    drawing = draw([Line("a", np.array([0.0, 1.0, np.nan, 0.5, 0.6, 0.7]))], 1.0, "t")
    assert drawing.count("M") - drawing.count('<path class="axis"') == 2
    assert draw([Line("a", np.full(5, np.nan))], 1.0, "t") == ""
    assert len(draw([Line("a", np.random.default_rng(0).normal(size=100_000))], 1.0, "t")) < 20_000
    flat = draw([Line("a", np.full(5, 2.0))], 1.0, "t")
    assert "inf" not in flat
    assert "nan" not in flat
