"""The report as one HTML file that needs nothing else: tables, frames and curves."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from joyhallo.errors import UserError
from joyhallo.evaluation.columns import PAPER, Column, columns_of
from joyhallo.evaluation.corpus import Difference, measure_names, summaries
from joyhallo.evaluation.curves import Line, draw
from joyhallo.evaluation.report import Report
from joyhallo.evaluation.suite import FilmReport
from joyhallo.evaluation.viseme_scores import SEEN, VisemeScores
from joyhallo.media.files import written_whole

_MAX_DETAILED = 40  # films that get frames and curves; the tables hold all of them
_CURVE_TITLES = {
    "lip_amplitude": "Opening of the lips, in eye distances",
    "blink_rate": "Eyes: distance of the lids over their width",
    "head_motion": "Head: degrees from its mean",
}
_STYLE = """
:root{color-scheme:light dark;--ink:#1c2330;--soft:#68707f;--rule:#d9dde4;--paper:#fff;
--a:#1f6feb;--b:#d9730d;--good:#137a3f;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ef;--soft:#9aa3b2;--rule:#333b48;--paper:#12161d;
--a:#6ea8ff;--b:#f0a35e;--good:#5fce8d;--bad:#ff8a80}}
body{margin:0 auto;max-width:1180px;padding:24px;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
h1{font-size:1.5em;margin:0}h2{font-size:1.15em;margin:2em 0 .4em}h3{font-size:1em;margin:1.8em 0 .3em}
p,.soft{color:var(--soft);overflow-wrap:anywhere}p b{color:var(--ink);font-weight:600}.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}th{font-weight:600}
th,td{padding:4px 12px 4px 0;text-align:right;border-bottom:1px solid var(--rule);white-space:nowrap}
th:first-child,td:first-child{text-align:left}
td.note{white-space:normal;text-align:left;color:var(--soft);padding-left:14px}
td.cell{text-align:center;min-width:4em;padding:4px 6px;background:color-mix(in srgb,var(--a) var(--share),transparent)}
.good{color:var(--good)}.bad{color:var(--bad)}.key-a{color:var(--a)}.key-b{color:var(--b)}
td.cell+td:last-child{padding-left:14px}details{margin-top:.6em}summary{cursor:pointer;color:var(--soft)}
.frames{display:flex;gap:4px;flex-wrap:wrap}.frames img{height:132px;border-radius:4px}
.curves{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(420px,100%),1fr));gap:6px 24px}
figure{margin:8px 0}figcaption{font-size:.87em}
svg{width:100%;height:auto}svg text{font-size:10px;fill:var(--soft)}.axis{fill:none;stroke:var(--rule)}
.line{fill:none;stroke-width:1.4;stroke-linejoin:round}.line.a{stroke:var(--a)}.line.b{stroke:var(--b)}.line.c{stroke:var(--soft)}
@media(max-width:640px){body{padding:14px}.frames img{height:96px}
.means tr{display:grid;grid-template-columns:1fr auto;border-bottom:1px solid var(--rule)}
.means td{border:0}.means td.note{grid-column:1/-1;padding:0 0 6px;font-size:.87em}}
"""


def write_page(report: Report, path: Path) -> None:
    """Write the page, whole or not at all.

    Raises
    ------
    UserError : the folder is missing or cannot be written.
    """
    with written_whole(path, "page", UserError) as temporary:
        temporary.write_text(page_of(report), encoding="utf-8")


def page_of(report: Report) -> str:
    """The page's text."""
    count = len(report.films)
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<title>Evaluation of {escape(report.title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>Evaluation of {escape(report.title)}</h1>",
        f"<p>{count} video{'s' if count != 1 else ''}, {sum(film.num_frames for film in report.films)} frames</p>",
        _paper(report),
        _means(report),
    ]
    if report.differences:
        parts.append(_differences(report.differences, report.title, report.against_title))
    for scores, films, title in (
        (report.visemes, report.films, report.title),
        (report.visemes_against, report.against, report.against_title),
    ):
        if scores is not None:
            parts.append(_visemes(scores, films, title if report.against else ""))
    if count > 1:
        parts.append(_all_films(report))
    others = {film.name: film for film in report.against}
    titles = report.title, report.against_title
    parts += [_film(film, others.get(film.name), titles) for film in report.films[:_MAX_DETAILED]]
    if count > _MAX_DETAILED:
        parts.append(f"<p>Frames and curves of the first {_MAX_DETAILED} videos are shown.</p>")
    return "\n".join([*parts, "</body></html>"])


def _paper(report: Report) -> str:
    """The columns of the paper's tables, a row for each system; nothing where none was asked for."""
    if not measure_names(report.films) & {column.name for column in PAPER}:
        return ""
    systems = [(report.title, report.summaries)]
    if report.against:
        systems.append((report.against_title, tuple(summaries(report.against))))
    rows = []
    for title, means in systems:
        known = {summary.name: summary.value for summary in means}
        values = [(column, known.get(column.name)) for column in PAPER]
        cells = "".join(f"<td>{'–' if value is None else _text(column, value)}</td>" for column, value in values)
        rows.append(f"<tr><td>{escape(title)}</td>{cells}</tr>")
    head = "".join(f"<th>{escape(column.heading)}</th>" for column in PAPER)
    return f'<h2>The paper\'s columns</h2><div class="scroll"><table><tr><th></th>{head}</tr>{"".join(rows)}</table></div>'


def _means(report: Report) -> str:
    """One row for each column that has a value, with what it means; below, why others have none."""
    rows, lacking = [], {}
    for column in columns_of(measure_names(report.films)):
        summary = report.summary(column.name)
        if summary.value is None:
            lacking.setdefault(summary.note, []).append(column.title)
            continue
        is_part = summary.num_films < len(report.films)
        held = f" ({summary.num_films} of {len(report.films)} videos)" if is_part else ""
        value = _text(column, summary.value)
        note = escape(column.meaning + held)
        rows.append(f'<tr><td>{escape(column.heading)}</td><td>{value}</td><td class="note">{note}</td></tr>')
    table = f'<h2>Means</h2><table class="means">{"".join(rows)}</table>' if rows else ""
    notes = "".join(f"<p><b>{escape(', '.join(titles))}</b>: {escape(note)}</p>" for note, titles in lacking.items())
    return table + (f"<h2>Not computed</h2>{notes}" if notes else "")


def _differences(differences: Sequence[Difference], ours: str, theirs: str) -> str:
    rows = []
    known = {difference.name: difference for difference in differences}
    for column in columns_of(set(known)):
        found = known[column.name]
        if found.difference is None or found.ours is None or found.theirs is None:
            continue
        interval = "too few pairs"
        if found.low is not None and found.high is not None:
            interval = f"{_text(column, found.low, '+')} to {_text(column, found.high, '+')}"
        style = ("good" if found.difference * column.better > 0 else "bad") if found.is_clear and column.better else ""
        cells = [
            _text(column, found.ours),
            _text(column, found.theirs),
            _text(column, found.difference, "+"),
            interval,
            str(found.num_pairs),
        ]
        cells[2] = f'<span class="{style}">{cells[2]}</span>'
        rows.append(f"<tr><td>{escape(column.heading)}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    head = "".join(f"<th>{escape(t)}</th>" for t in ("Measure", ours, theirs, "Difference", "95 % interval", "Pairs"))
    note = "Paired by name; intervals by drawing pairs again. Coloured where the interval leaves out zero."
    return (
        f'<h2>Against {escape(theirs)}</h2><p>{note}</p><div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>'
    )


def _visemes(scores: VisemeScores, films: Sequence[FilmReport], system: str) -> str:
    head = "".join(f"<th>{name}</th>" for name in ("asked for", *SEEN, "right"))
    rows = []
    for asked, seen in scores.confusion.items():
        count = max(1, sum(seen.values()))
        cells = [f'<td class="cell" style="--share:{70 * seen[name] / count:.0f}%">{seen[name]}</td>' for name in SEEN]
        score = scores.scores[asked]
        rows.append(f"<tr><td>{asked}</td>{''.join(cells)}<td>{'–' if score is None else f'{score:.0%}'}</td></tr>")
    total = "–" if scores.total is None else f"{scores.total:.0%}"
    note = f"Rows: what the sound asks of the lips. Columns: what they did. Total {total}, the mean of the classes."
    return (
        f"<h2>Mandarin visemes{escape(f' of {system}' if system else '')}</h2><p>{note}</p>"
        f'<div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>{_mistakes(films)}'
    )


def _mistakes(films: Sequence[FilmReport]) -> str:
    """The sounds whose shape was missed, by class, folded up."""
    missed: dict[str, list[str]] = {}
    for event in (event for film in films for event in film.events if not event.is_right):
        seen = "" if event.asked == "apart" else f" {event.seen}"
        missed.setdefault(event.asked, []).append(f"{event.syllable}{seen} at {event.time_s:.2f} s")
    lines = "".join(f"<p>{asked}: {escape(', '.join(found))}</p>" for asked, found in missed.items())
    return f"<details><summary>What was missed</summary>{lines}</details>" if lines else ""


def _all_films(report: Report) -> str:
    columns = columns_of(measure_names(report.films))
    columns = [column for column in columns if report.summary(column.name).value is not None]
    head = "".join(f"<th>{escape(column.heading)}</th>" for column in columns)
    rows = []
    for film in report.films:
        values = [film.value(column.name) for column in columns]
        cells = "".join(f"<td>{'–' if v is None else _text(c, v)}</td>" for c, v in zip(columns, values, strict=True))
        rows.append(f"<tr><td>{escape(film.name)}</td>{cells}</tr>")
    return f'<h2>All videos</h2><div class="scroll"><table><tr><th>Video</th>{head}</tr>{"".join(rows)}</table></div>'


def _film(film: FilmReport, other: FilmReport | None, titles: tuple[str, str]) -> str:
    height, width = film.size
    facts = f"{film.num_frames} frames, {film.fps:g} a second, {width}×{height} px"
    rows = [_pictures(film, titles[0] if other else "")]
    if other is not None and other.pictures:
        rows.append(_pictures(other, titles[1]))
    legend = f'<span class="key-a">{escape(titles[0])}</span>, <span class="key-b">{escape(titles[1])}</span>' if other else ""
    return (
        f"<h3>{escape(film.name)}</h3><p>{facts} {legend}</p>{''.join(rows)}"
        f'<div class="curves">{"".join(_figures(film, other))}</div>{_notes(film)}'
    )


def _pictures(film: FilmReport, title: str) -> str:
    images = "".join(f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(p).decode()}">' for p in film.pictures)
    return (
        f'<div class="frames">{images}</div><p class="soft">{escape(title)}</p>'
        if title
        else f'<div class="frames">{images}</div>'
    )


def _figures(film: FilmReport, other: FilmReport | None) -> list[str]:
    """Drawings of all curves, a second system's on the same axes; the lips together with what the speech asks for."""
    curves, theirs = _curves(film), {} if other is None else _curves(other)
    duration_s = film.num_frames / film.fps
    figures = []
    opening, expected = curves.get("lip_amplitude"), curves.pop("lip_sync", None)
    if opening is not None and expected is not None:
        drawing = draw([Line("seen", opening, "a"), Line("asked for", expected, "c")], duration_s, "opening of the lips")
        figures.append(_figure(drawing, "Opening of the lips, and (grey) what the speech asks for"))
    if film.loudness_db is not None:
        loudness = np.maximum(film.loudness_db, film.loudness_db.max() - 50)
        figures.append(_figure(draw([Line("loudness", loudness, "c")], duration_s, "loudness"), "Loudness of the speech, dB"))
    for name, curve in curves.items():
        if name == "lip_amplitude" and expected is not None and name not in theirs:
            continue  # shown above
        title = _CURVE_TITLES.get(name) or columns_of({name})[0].title
        lines = [Line(title, curve)] + ([Line(title, theirs[name], "b")] if name in theirs else [])
        figures.append(_figure(draw(lines, duration_s, title), escape(title)))
    return figures


def _curves(film: FilmReport) -> dict[str, np.ndarray]:
    return {measure.name: measure.curve for measure in film.measures if measure.curve is not None}


def _figure(drawing: str, caption: str) -> str:
    return f"<figure><figcaption>{caption}</figcaption>{drawing}</figure>" if drawing else ""


def _notes(film: FilmReport) -> str:
    notes: dict[str, list[str]] = {}
    for measure in film.measures:
        if measure.note:
            notes.setdefault(measure.note, []).append(columns_of({measure.name})[0].title)
    return "".join(f'<p class="soft">{escape(", ".join(names))}: {escape(note)}.</p>' for note, names in notes.items())


def _text(column: Column, value: float, sign: str = "") -> str:
    return f"{value:{sign}.{column.decimals}f}"
