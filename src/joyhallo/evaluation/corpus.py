"""Many films: means by each metric's own rule, and two systems beside each other."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from joyhallo.errors import UserError
from joyhallo.evaluation.suite import FilmReport
from joyhallo.evaluation.viseme_scores import ASKED

_NUM_DRAWS = 10_000
_COVERAGE = 0.95
_PARTS = {"viseme_total": tuple(f"viseme_{asked}" for asked in ASKED)}  # a mean of classes, and not of films
MIN_PAIRS = 3  # with fewer an interval would only pretend


@dataclass(frozen=True)
class Summary:
    """One column over all films."""

    name: str
    value: float | None  # the weighted mean of the films that have a value; of a total, the mean of its classes
    num_films: int  # that have one
    note: str = ""  # why others, or all, have none


@dataclass(frozen=True)
class Difference:
    """One column of two systems, over the films for which both have a value."""

    name: str
    ours: float | None
    theirs: float | None
    difference: float | None  # ours minus theirs
    low: float | None  # of the interval that holds the difference in 95 of 100 corpora like this one
    high: float | None
    num_pairs: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def measure_names(reports: Sequence[FilmReport]) -> set[str]:
    """Every measure of the reports."""
    return {measure.name for report in reports for measure in report.measures}


def summaries(reports: Sequence[FilmReport]) -> list[Summary]:
    """The means over films, by name; frames compared count where the metric's rule says so (`Measure.weight`)."""
    result = []
    for name in sorted(measure_names(reports)):
        found = [measure for report in reports for measure in report.measures if measure.name == name]
        note = next((measure.note for measure in found if measure.value is None), "")
        table = np.array([[_value_and_weight(report, part) for part in _PARTS.get(name, (name,))] for report in reports])
        value = float(_means(table[None, ..., None, :])[0, 0]) if table[..., 1].any() else None
        result.append(Summary(name, value, sum(measure.value is not None for measure in found), note))
    return result


def compare(ours: Sequence[FilmReport], theirs: Sequence[FilmReport], seed: int = 0) -> list[Difference]:
    """Paired differences of films of the same name, with bootstrap intervals (films are drawn, percentiles taken).

    Raises
    ------
    UserError : the two sets have not the same names.
    """
    require_pairs([report.name for report in ours], [report.name for report in theirs])
    partner = {report.name: report for report in theirs}
    names = sorted(measure_names(ours) & measure_names(theirs))
    return [_difference(name, [(report, partner[report.name]) for report in ours], seed) for name in names]


def require_pairs(ours: Sequence[str], theirs: Sequence[str]) -> None:
    """Check that two systems have the same films, by name, each once.

    Raises
    ------
    UserError : they have not; the message names the first that lacks a partner.
    """
    for names, others, where in ((ours, theirs, "--against"), (theirs, ours, "the videos given")):
        twice = sorted({name for name in names if list(names).count(name) > 1})
        if twice:
            raise UserError(f"two videos are called '{twice[0]}': names must differ so that pairs can be found")
        alone = sorted(set(names) - set(others))
        if alone:
            more = f" and {len(alone) - 1} more" if len(alone) > 1 else ""
            raise UserError(f"'{alone[0]}'{more} has no partner of that name in {where}: both need the same file names")


def _difference(name: str, pairs: Sequence[tuple[FilmReport, FilmReport]], seed: int) -> Difference:
    """The table is [pairs, parts, 2 systems, value and weight]; what only one film of a pair has does not count."""
    rows = [[[_value_and_weight(film, part) for film in pair] for part in _PARTS.get(name, (name,))] for pair in pairs]
    table = np.array(rows)
    table[~(table[..., 1] > 0).all(-1)] = 0.0
    table = table[table[..., 1].any(axis=(1, 2))]
    if not len(table):
        return Difference(name, None, None, None, None, None, 0)
    ours, theirs = (float(mean) for mean in _means(table[None])[0])
    low = high = None
    if len(table) >= MIN_PAIRS:
        draws = np.random.default_rng(seed).integers(len(table), size=(_NUM_DRAWS, len(table)))
        means = np.concatenate([_means(table[part]) for part in np.array_split(draws, 20)])
        tails = 50 - 50 * _COVERAGE, 50 + 50 * _COVERAGE
        low, high = (float(edge) for edge in np.percentile(means[:, 0] - means[:, 1], tails))
    return Difference(name, ours, theirs, ours - theirs, low, high, len(table))


def _value_and_weight(film: FilmReport, name: str) -> tuple[float, float]:
    """Of one measure; both 0 where the film has no value."""
    found = next((m for m in film.measures if m.name == name and m.value is not None), None)
    return (0.0, 0.0) if found is None or found.value is None else (found.value, found.weight)


def _means(tables: np.ndarray) -> np.ndarray:
    """Means [D, systems] in tables [D, films, parts, systems, value and weight]: over films by weight, then over parts."""
    values, weights = tables[..., 0], tables[..., 1]
    total = weights.sum(1)  # [D, parts, systems]
    means = (values * weights).sum(1) / np.where(total > 0, total, 1)
    return means.sum(1) / (total > 0).sum(1)
