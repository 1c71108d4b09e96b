"""Many films: means by each metric's own rule, and two systems beside each other."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from joyhallo.errors import UserError
from joyhallo.evaluation.measures import Measure
from joyhallo.evaluation.suite import FilmReport

_NUM_DRAWS = 10_000
_COVERAGE = 0.95
MIN_PAIRS = 3  # with fewer an interval would only pretend


@dataclass(frozen=True)
class Summary:
    """One column over all films."""

    name: str
    value: float | None  # the weighted mean of the films that have a value
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
        valued = [measure for measure in found if measure.value is not None]
        note = next((measure.note for measure in found if measure.value is None), "")
        result.append(Summary(name, _mean(valued), len(valued), note))
    return result


def _mean(measures: Sequence[Measure]) -> float | None:
    if not measures:
        return None
    values = [measure.value or 0.0 for measure in measures]
    weights = [measure.weight for measure in measures]
    return float(np.average(values, weights=weights)) if sum(weights) > 0 else float(np.mean(values))


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
    rows = []
    for pair in pairs:
        found = [next((m for m in report.measures if m.name == name and m.value is not None), None) for report in pair]
        if found[0] is not None and found[1] is not None:
            rows.append((found[0].value, found[1].value, found[0].weight, found[1].weight))
    if not rows:
        return Difference(name, None, None, None, None, None, 0)
    table = np.array(rows, np.float64)
    means = _weighted(table[None])[0]
    low = high = None
    if len(rows) >= MIN_PAIRS:
        draws = np.random.default_rng(seed).integers(len(rows), size=(_NUM_DRAWS, len(rows)))
        drawn = np.concatenate([np.diff(_weighted(table[part]), axis=1) for part in np.array_split(draws, 20)])
        low, high = (-float(v) for v in np.percentile(drawn, [50 + 50 * _COVERAGE, 50 - 50 * _COVERAGE]))
    return Difference(name, float(means[0]), float(means[1]), float(means[0] - means[1]), low, high, len(rows))


def _weighted(tables: np.ndarray) -> np.ndarray:
    """Means [D, 2] of both systems in tables [D, pairs, 4] of values and weights."""
    values, weights = tables[..., :2], tables[..., 2:]
    return (values * weights).sum(1) / np.maximum(weights.sum(1), 1e-12)
