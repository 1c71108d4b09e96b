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
    from joyhallo.evaluation.report import Report

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
    from joyhallo.evaluation.catalogue import choose_metrics
    from joyhallo.evaluation.page import write_page
    from joyhallo.evaluation.report import write_json
    from joyhallo.evaluation.run import Request, run

    chosen = choose_metrics(metrics or [])
    request = Request(tuple(videos), tuple(speech or ()), tuple(reference or ()), against, pinyin, is_chosen=bool(metrics))
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

    from joyhallo.evaluation.columns import ALWAYS, MANDARIN, PAPER

    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    names = {name for metric in chosen for name in metric.names}
    if names & {column.name for column in PAPER}:
        _table(console, report, [column.name for column in PAPER], "The paper's columns")
    _table(console, report, [column.name for column in ALWAYS], "Measured from the face mesh and the pixels")
    _table(console, report, [column.name for column in MANDARIN], "Mandarin visemes")
    notes = {summary.note: summary.name for summary in report.summaries if summary.value is None and summary.note}
    for note, name in notes.items():
        console.print(f"– {name}: {note}", soft_wrap=True, markup=False)


def _table(console: Console, report: Report, order: list[str], title: str) -> None:
    """A row per system and columns in the given order; with two systems a row of differences and one of intervals."""
    from rich.table import Table

    from joyhallo.evaluation.columns import columns_of

    known = {summary.name: summary for summary in report.summaries}
    columns = [column for column in columns_of(set(order)) if column.name in known]
    if not any(known[column.name].value is not None for column in columns) and title != "The paper's columns":
        return
    table = Table(title=title, title_justify="left")
    for heading in ("", *(column.heading for column in columns)):
        table.add_column(heading, justify="left" if not heading else "right")
    if not report.differences:
        means = [known[column.name].value for column in columns]
        texts = ["–" if mean is None else f"{mean:.{column.decimals}f}" for mean, column in zip(means, columns, strict=True)]
        table.add_row(report.title, *texts)
    else:
        pairs = {difference.name: difference for difference in report.differences}
        found = [(column, pairs.get(column.name)) for column in columns]
        for label, field in ((report.title, "ours"), (report.against_title, "theirs"), ("difference", "difference")):
            sign = "+" if field == "difference" else ""
            values = [None if pair is None else getattr(pair, field) for _, pair in found]
            texts = ["–" if v is None else f"{v:{sign}.{c.decimals}f}" for (c, _), v in zip(found, values, strict=True)]
            table.add_row(label, *texts)
        table.add_row("95 % interval", *(_interval(pair.low, pair.high, c.decimals) if pair else "–" for c, pair in found))
    console.print(table)


def _interval(low: float | None, high: float | None, decimals: int) -> str:
    return "–" if low is None or high is None else f"{low:+.{decimals}f} to {high:+.{decimals}f}"
