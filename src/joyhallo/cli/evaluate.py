"""`joyhallo evaluate`: the paper's columns, measures that need no download, and the Mandarin viseme test, in one table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from joyhallo.evaluation.catalogue import Metric
    from joyhallo.evaluation.columns import Column
    from joyhallo.evaluation.report import Report
    from joyhallo.evaluation.viseme_scores import VisemeScores

_SEVERAL = Parameter(consume_multiple=True, negative="")


def evaluate(
    videos: list[Path],
    /,
    *,
    output: Annotated[Path, Parameter(alias="-o")],
    speech: Annotated[list[Path] | None, _SEVERAL] = None,
    reference: Annotated[list[Path] | None, _SEVERAL] = None,
    against: Path | None = None,
    metrics: Annotated[list[str] | None, _SEVERAL] = None,
    pinyin: str | None = None,
) -> int:
    """Measure finished videos: a table here, report.json and report.html in a folder.

    Parameters
    ----------
    videos
        Videos, or folders of them.
    output
        The folder of the report; it is made when it is missing.
    speech
        Recordings to listen to in place of the videos' own sound: one for all, or one for each.
    reference
        Portraits to compare with: one for all, or one for each.
    against
        A second system: a folder of videos of the same names, or of a report of them. Paired differences with 95 % intervals.
    metrics
        What to compute: all, paper, always, or names such as lip_sync, lips, likeness, flicker, sync-c. All when not given.
    pinyin
        What is said in the one video given, for the viseme test: 'ni3 hao3'. Videos named ba1.mp4, ni3hao3.mp4 need none.
    """
    from joyhallo.evaluation.catalogue import asked_by_name, choose_metrics
    from joyhallo.evaluation.page import write_page
    from joyhallo.evaluation.report import write_json
    from joyhallo.evaluation.run import Request, run

    chosen = choose_metrics(metrics or [])
    asked = tuple(asked_by_name(metrics or []))
    request = Request(tuple(videos), tuple(speech or ()), tuple(reference or ()), against, pinyin, asked)
    report = run(request, chosen, output, _say)
    write_json(report, output / "report.json")
    write_page(report, output / "report.html")
    _show(report, chosen)
    print(f"{output / 'report.html'} shows frames and curves; {output / 'report.json'} holds every number")
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _show(report: Report, chosen: Sequence[Metric]) -> None:
    from rich.console import Console

    from joyhallo.evaluation.columns import PAPER, columns_of

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    paper = {column.name for column in PAPER}
    if {name for metric in chosen for name in metric.names} & paper:
        _paper_table(console, report)
    columns = columns_of({summary.name for summary in report.summaries if summary.value is not None} - paper)
    if columns:
        _table(console, report, columns)
    for scores, system in ((report.visemes, report.title), (report.visemes_against, report.against_title)):
        if scores is not None:
            _confusion_table(console, scores, system)
    notes: dict[str, list[str]] = {}
    for summary in report.summaries:
        if summary.value is None:
            notes.setdefault(summary.note, []).append(columns_of({summary.name})[0].title)
    for note, titles in notes.items():
        console.print(f"– {', '.join(titles)}: {note}", soft_wrap=True, markup=False)


def _paper_table(console: Console, report: Report) -> None:
    """The columns of the paper's tables, a row for each system; with two, their differences and intervals below."""
    from rich.table import Table

    from joyhallo.evaluation.columns import PAPER

    table = Table(title="The paper's columns", title_justify="left")
    table.add_column("")
    for column in PAPER:
        table.add_column(column.heading, justify="right")
    for label, values in _rows(report, PAPER):
        table.add_row(label, *values)
    console.print(table)


def _table(console: Console, report: Report, columns: Sequence[Column]) -> None:
    """A row for each column: there are too many to stand beside each other."""
    from rich.table import Table

    rows = _rows(report, columns)
    table = Table(title="Lips, face and picture", title_justify="left")
    for heading in ("", *(label for label, _ in rows)):
        table.add_column(heading, justify="right" if heading else "left")
    if len(rows) == 1:
        table.add_column("", justify="left", ratio=1, style="dim")
    for index, column in enumerate(columns):
        meaning = [column.meaning] if len(rows) == 1 else []
        table.add_row(column.heading, *(values[index] for _, values in rows), *meaning)
    console.print(table)


def _confusion_table(console: Console, scores: VisemeScores, system: str) -> None:
    """A row for each class of sounds: what the lips did on them."""
    from rich.table import Table

    from joyhallo.evaluation.viseme_scores import SEEN

    table = Table(title=f"What the lips of {system} did", title_justify="left")
    for heading in ("asked for", *SEEN, "right"):
        table.add_column(heading, justify="left" if heading == "asked for" else "right")
    for asked, seen in scores.confusion.items():
        score = scores.scores[asked]
        table.add_row(asked, *(str(seen[name]) for name in SEEN), "–" if score is None else f"{score:.0%}")
    table.add_section()
    table.add_row("mean of the classes", *("" for _ in SEEN), "–" if scores.total is None else f"{scores.total:.0%}")
    console.print(table)


def _rows(report: Report, columns: Sequence[Column]) -> list[tuple[str, list[str]]]:
    """Label and texts of the system, or of two systems, their difference and its interval."""
    if not report.differences:
        known = {summary.name: summary.value for summary in report.summaries}
        return [(report.title, [_number(known.get(column.name), column) for column in columns])]
    pairs = {difference.name: difference for difference in report.differences}
    found = [(column, pairs.get(column.name)) for column in columns]
    rows = []
    for label, field in ((report.title, "ours"), (report.against_title, "theirs"), ("difference", "difference")):
        sign = "+" if field == "difference" else ""
        rows.append((label, [_number(getattr(pair, field, None), column, sign) for column, pair in found]))
    intervals = [
        f"{_number(pair.low, column, '+')} to {_number(pair.high, column, '+')}" if pair and pair.low is not None else "–"
        for column, pair in found
    ]
    return [*rows, ("95 % interval", intervals)]


def _number(value: float | None, column: Column, sign: str = "") -> str:
    return "–" if value is None else f"{value:{sign}.{column.decimals}f}"
