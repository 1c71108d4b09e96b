"""The report of a run: what is written to `report.json`, and read again to compare with."""

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from joyhallo.errors import UserError
from joyhallo.evaluation.columns import columns_of
from joyhallo.evaluation.corpus import Difference, Summary, compare, measure_names, summaries
from joyhallo.evaluation.measures import Measure
from joyhallo.evaluation.suite import FilmReport
from joyhallo.evaluation.viseme_scores import Event, VisemeScores, score_events
from joyhallo.media.files import require_file, written_whole

VERSION = 1
FILE_NAME = "report.json"


@dataclass(frozen=True, eq=False)
class Report:
    """A whole run."""

    films: tuple[FilmReport, ...]
    title: str
    against_title: str = ""
    against: tuple[FilmReport, ...] = ()
    summaries: tuple[Summary, ...] = field(init=False)
    differences: tuple[Difference, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Raises UserError when `against` has not the same names as `films`."""
        object.__setattr__(self, "summaries", tuple(summaries(self.films)))
        object.__setattr__(self, "differences", tuple(compare(self.films, self.against) if self.against else ()))

    @property
    def visemes(self) -> VisemeScores | None:
        """All events of the viseme test together; None without any."""
        return _scores(self.films)

    @property
    def visemes_against(self) -> VisemeScores | None:
        """The other system's."""
        return _scores(self.against)

    @property
    def names(self) -> list[str]:
        """The measures in the order of the tables."""
        return [column.name for column in columns_of(measure_names(self.films))]

    def summary(self, name: str) -> Summary:
        """One column over all films. Raises KeyError for a measure that is not there."""
        return {summary.name: summary for summary in self.summaries}[name]


def write_json(report: Report, path: Path) -> None:
    """Write the report, whole or not at all: films with their measures and curves, means, differences.

    Raises
    ------
    UserError : the folder is missing or cannot be written.
    """
    content = {
        "version": VERSION,
        "title": report.title,
        "means": [asdict(summary) for summary in report.summaries],
        "films": [_film(film) for film in report.films],
    }
    if report.visemes is not None:
        content["visemes"] = asdict(report.visemes)
    if report.against:
        content["against"] = report.against_title
        content["differences"] = [{**asdict(pair), "is_clear": pair.is_clear} for pair in report.differences]
        if report.visemes_against is not None:
            content["visemes_against"] = asdict(report.visemes_against)
    with written_whole(path, "report", UserError) as temporary:
        temporary.write_text(json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False), encoding="utf-8")


def read_json(path: Path) -> list[FilmReport]:
    """The films of a report that `write_json` wrote.

    Raises
    ------
    UserError : it is none, or of another version.
    """
    require_file(path, "report", UserError)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != VERSION:
            raise UserError(f"the report '{path}' has version {content['version']}, {VERSION} is needed: evaluate it again")
        return [_read_film(film) for film in content["films"]]
    except UserError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"'{path}' is no report of `joyhallo evaluate`: give a folder of videos or of such a report") from error


def require_something(films: Sequence[FilmReport], wanted: Collection[str]) -> None:
    """Check that each measure in `wanted` was asked for with success: that some film has a value for one of them.

    Raises
    ------
    UserError : none has; the message is the first note.
    """
    asked = [(film, measure) for film in films for measure in film.measures if measure.name in wanted]
    if asked and all(measure.value is None for _, measure in asked):
        film, measure = asked[0]
        raise UserError(f"nothing could be computed of '{film.path}': {measure.note}")


def _film(film: FilmReport) -> dict[str, object]:
    return {
        "path": str(film.path),
        "num_frames": film.num_frames,
        "fps": film.fps,
        "size": list(film.size),
        "measures": [_measure(measure) for measure in film.measures],
        **({"visemes": [asdict(event) for event in film.events]} if film.events else {}),
    }


def _measure(measure: Measure) -> dict[str, object]:
    plain: dict[str, object] = {"name": measure.name, "value": measure.value, "unit": measure.unit, "weight": measure.weight}
    if measure.note:
        plain["note"] = measure.note
    if measure.curve is not None:
        plain["curve"] = [None if math.isnan(v) else round(v, 4) for v in np.asarray(measure.curve, np.float64).tolist()]
    return plain


def _read_film(plain: dict) -> FilmReport:
    measures = tuple(
        Measure(m["name"], m["value"], m["unit"], m.get("note", ""), m["weight"], _curve(m.get("curve")))
        for m in plain["measures"]
    )
    height, width = plain["size"]
    events = tuple(Event(**event) for event in plain.get("visemes", ()))
    size = int(height), int(width)
    return FilmReport(Path(plain["path"]), int(plain["num_frames"]), float(plain["fps"]), size, measures, events=events)


def _curve(values: list[float | None] | None) -> np.ndarray | None:
    return None if values is None else np.array([np.nan if v is None else v for v in values], np.float64)


def _scores(films: Sequence[FilmReport]) -> VisemeScores | None:
    events = [event for film in films for event in film.events]
    return score_events(events) if events else None
