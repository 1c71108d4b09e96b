"""The numbers of all clips as tables, and their place in the model card."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from joyhallo.data.preparation.lip_sync_fit import auc
from joyhallo.errors import UserError
from joyhallo.media.files import written_whole
from mini_report.effort import Effort
from mini_report.people import FROM_MESH, SEEN_BY_EYE, STYLES, TURNED
from mini_report.sayings import OTHER_VOICE
from mini_report.scores import ClipScores, mean_of, share_of

BEGIN, END = "<!-- mini_report: begin -->", "<!-- mini_report: end -->"
NO_VALUE = "–"


@dataclass(frozen=True)
class Shown:
    """A made clip and what belongs to it."""

    scores: ClipScores
    groups: tuple[str, ...]  # of its portrait, or its style
    is_styled: bool
    filmed: ClipScores | None = None  # the real clip whose sound it has
    engine_amplitude: float | None = None

    @property
    def amplitude_ratio(self) -> float | None:
        """Against the same movement rendered by the engine."""
        known = self.engine_amplitude
        return None if known is None or not known > 0 else self.scores.amplitude / known


@dataclass(frozen=True)
class Findings:
    """Everything that the report says."""

    shown: tuple[Shown, ...]
    filmed: tuple[ClipScores, ...]  # real clips, each once
    num_lost: int  # clips in which the face is lost
    num_refused: int  # clips whose picture is refused before the run, with the reason
    size_mb: float
    effort: Effort | None  # None in a quick look

    @property
    def everybody(self) -> list[Shown]:
        """The clips of portraits as they are, and of voices as they are."""
        return [clip for clip in self.shown if not clip.is_styled and clip.scores.kind != OTHER_VOICE]

    @property
    def plain(self) -> list[ClipScores]:
        """Their scores."""
        return [clip.scores for clip in self.everybody]


@dataclass(frozen=True)
class Row:
    """One line of the first table."""

    title: str
    target: str
    value: float | None
    is_met: bool | None  # None: not to be said
    measured_on: str
    decimals: int = 2
    unit: str = ""
    ceiling: str = NO_VALUE
    note: str = field(default="", compare=False)

    def cells(self) -> list[str]:
        mark = {True: " ✓", False: " ✗", None: ""}[self.is_met if self.value is not None else None]
        value = NO_VALUE if self.value is None else f"{in_words(self.value, self.decimals, self.unit)}{mark}"
        return [self.title, self.target, value + (f" ({self.note})" if self.note else ""), self.ceiling, self.measured_on]


def in_words(value: float | None, decimals: int, unit: str = "") -> str:
    """A number as the tables write it; a share with the unit "%" is given as such."""
    if value is None:
        return NO_VALUE
    return f"{100 * value:.{decimals}f} %" if unit == "%" else f"{value:.{decimals}f}{' ' + unit if unit else ''}"


def _at_least(title: str, target: float, value: float | None, measured_on: str, **look: object) -> Row:
    unit, decimals = str(look.get("unit", "")), int(str(look.get("decimals", 2)))
    is_met = None if value is None else value >= target
    return Row(title, in_words(target, decimals, unit), value, is_met, measured_on, **look)  # type: ignore[arg-type]


def rows_of(findings: Findings) -> list[Row]:
    """The first table."""
    plain = findings.plain
    english = [clip for clip in plain if clip.kind == "english"]
    mandarin = [clip for clip in plain if clip.kind != "english"]
    voices = [clip.scores for clip in findings.shown if clip.scores.kind == OTHER_VOICE]
    return [
        *_lip_rows(english, mandarin, findings.filmed),
        *_closure_rows(english, mandarin, findings.filmed),
        *_voice_rows(voices),
        *_face_rows(findings, plain),
        *_cost_rows(findings, plain),
    ]


def _lip_rows(english: list[ClipScores], mandarin: list[ClipScores], filmed: Sequence[ClipScores]) -> list[Row]:
    on = f"{len(english)} clips"
    rows = [
        _at_least("lip-sync score, English", 0.65, mean_of([clip.sync for clip in english]), on,
                  ceiling=in_words(mean_of([clip.sync for clip in filmed]), 2)),
        _at_least("offset within 1 frame", 0.9, share_of([abs(clip.offset_frames) <= 1 for clip in english]), on, unit="%",
                  decimals=0, ceiling=in_words(share_of([abs(clip.offset_frames) <= 1 for clip in filmed]), 0, "%")),
        _at_least("in time or shifted, Mandarin (AUC)", 0.97, shifted_auc(mandarin), f"{len(mandarin)} clips", decimals=3,
                  ceiling=f"{in_words(shifted_auc(filmed), 3)} (English)"),
    ]  # fmt: skip
    for kind, title in (("sentence", "of these, spoken sentences"), ("syllables", "of these, syllables in a row")):
        part = [clip for clip in mandarin if clip.kind == kind]
        rows.append(Row(title, "", shifted_auc(part), None, f"{len(part)} clips", 3))
    return rows


def shifted_auc(clips: Sequence[ClipScores]) -> float | None:
    """How surely clips in time are told from clips whose sound is moved by 5 to 15 frames."""
    shifted = [score for clip in clips for score in clip.shifted]
    return auc([clip.sync for clip in clips], shifted) if shifted else None


def _closure_rows(english: list[ClipScores], mandarin: list[ClipScores], filmed: Sequence[ClipScores]) -> list[Row]:
    rows = []
    for language, clips, known in (("English", english, filmed), ("Mandarin", mandarin, ())):
        for title, target, name in (("lips close on b, p, m", 0.85, "bilabials"), ("lips close on others", 0.6, "others")):
            events, real = _closures(clips, name), share_of(_closures(known, name))
            value, text = share_of(events), f"{title}, {language}"
            is_met = None if value is None else (value >= target if name == "bilabials" else value < target)
            aim = in_words(target, 0, "%") if name == "bilabials" else f"below {in_words(target, 0, '%')}"
            rows.append(Row(text, aim, value, is_met, f"{len(events)} onsets", 0, "%", in_words(real, 0, "%")))
    return rows


def _voice_rows(voices: list[ClipScores]) -> list[Row]:
    rows = [Row("in other voices: in time or shifted (AUC)", "", shifted_auc(voices), None, f"{len(voices)} clips", 3)]
    for title, name in (("lips close on b, p, m", "bilabials"), ("lips close on others", "others")):
        events = _closures(voices, name)
        rows.append(Row(f"in other voices: {title}", "", share_of(events), None, f"{len(events)} onsets", 0, "%"))
    return rows


def _closures(clips: Iterable[ClipScores], name: str) -> list[bool]:
    """Whether lips close, at all onsets of a kind: "bilabials" or "others"."""
    return [closed for clip in clips for closed in getattr(clip, name)]


def _face_rows(findings: Findings, plain: list[ClipScores]) -> list[Row]:
    filmed, silent = findings.filmed, sum(clip.num_silent for clip in plain)
    ratios = [clip.amplitude_ratio for clip in findings.everybody]
    ratio = float(np.median([value for value in ratios if value is not None])) if any(ratios) else None
    is_like = None if ratio is None else 0.85 <= ratio <= 1.15
    flicker, real = mean_of([clip.flicker for clip in plain]), mean_of([clip.flicker for clip in filmed])
    num_still = sum(clip.flicker is not None for clip in plain)
    is_steady = None if flicker is None or real is None else flicker < real
    on = f"{len(plain)} clips"
    return [
        _at_least("lips at rest in silence", 0.95, _at_rest(plain), f"{silent} frames", unit="%", decimals=0,
                  ceiling=in_words(_at_rest(filmed), 0, "%")),
        Row("lip amplitude over the engine's", "0.85 to 1.15", ratio, is_like, f"{sum(r is not None for r in ratios)} clips"),
        _at_least("identity outside the mouth", 34, mean_of([clip.psnr_db for clip in plain]), on, unit="dB", decimals=1,
                  ceiling=f"{in_words(mean_of([clip.psnr_db for clip in filmed]), 1, 'dB')} (first frame)"),
        Row("flicker outside the mouth", "below the real", flicker, is_steady, f"{num_still} clips", 3,
            ceiling=in_words(real, 3)),
        Row("clips in which the face is lost", "0", float(findings.num_lost), findings.num_lost == 0,
            f"{len(findings.shown) + findings.num_lost} clips", 0),
        Row("clips whose picture is refused, with the reason", "", float(findings.num_refused), None,
            f"{len(findings.shown) + findings.num_lost + findings.num_refused} clips", 0),
    ]  # fmt: skip


def _at_rest(clips: Iterable[ClipScores]) -> float | None:
    counts = [(clip.num_at_rest, clip.num_silent) for clip in clips]
    num_silent = sum(silent for _, silent in counts)
    return sum(rest for rest, _ in counts) / num_silent if num_silent else None


def _cost_rows(findings: Findings, plain: list[ClipScores]) -> list[Row]:
    effort = findings.effort
    alone = mean_of([clip.spent_s for clip in plain])
    rows = [
        Row("processor time of the frames alone, one thread", "", alone, None, f"{len(plain)} clips", 1, "s a second"),
        Row("size of all weights in float16", "60 MB", findings.size_mb, findings.size_mb <= 60, "the folder", 1, "MB"),
    ]
    if effort is not None:
        note = f"{effort.processor_s:.1f} s of processor time"
        title = "seconds for a second of video, 2 cores, everything counted"
        rows.insert(0, Row(title, "2.5 s", effort.wall_s, effort.wall_s <= 2.5, "the example", 1, "s", note=note))
    return rows


def group_cells(findings: Findings) -> list[list[str]]:
    """The second table: one line for each group."""
    everybody = findings.everybody
    lines = [_group_line("everybody", everybody)]
    for group in (*SEEN_BY_EYE, *FROM_MESH):
        lines.append(_group_line(group, [clip for clip in everybody if group in clip.groups]))
    for style in (*STYLES, TURNED):
        lines.append(_group_line(style, [clip for clip in findings.shown if clip.is_styled and style in clip.groups]))
    return lines


def _group_line(title: str, clips: list[Shown]) -> list[str]:
    scores = [clip.scores for clip in clips]
    bilabials = _closures(scores, "bilabials")
    ratios = [clip.amplitude_ratio for clip in clips if clip.amplitude_ratio is not None]
    return [
        title,
        str(len(clips)),
        in_words(mean_of([score.sync for score in scores if score.kind == "english"]), 2),
        f"{in_words(share_of(bilabials), 0, '%')} of {len(bilabials)}" if bilabials else NO_VALUE,
        in_words(_at_rest(scores), 0, "%"),
        in_words(float(np.median(ratios)) if ratios else None, 2),
        in_words(mean_of([score.psnr_db for score in scores]), 1),
        in_words(mean_of([score.flicker for score in scores]), 3),
    ]


def as_markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *lines))


def report_text(findings: Findings, made_on: str, others: Mapping[str, str] | None = None) -> str:
    """Both tables with what must be said of them. `others`: the numbers of other weights by the rows' titles, to compare."""
    head = ["", "at least", "these weights", "real clips", "measured on"]
    group_head = ("group", "clips", "lip sync, English", "closed on b, p, m", "at rest", "amplitude", "identity, dB", "flicker")
    lines = [row.cells() for row in rows_of(findings)]
    if others is not None:
        head.insert(3, "embedded weights")
        for line in lines:
            line.insert(3, others.get(line[0], NO_VALUE))
    first = as_markdown(head, lines)
    return f"{made_on}\n\n{first}\n\n{as_markdown(group_head, group_cells(findings))}\n"


def write_between_marks(path: Path, text: str) -> None:
    """Put the text between the marks of a document, whole or not at all; a document that is not there is begun."""
    before = path.read_text(encoding="utf-8") if path.exists() else f"# Report\n\n{BEGIN}\n{END}\n"
    if before.count(BEGIN) != 1 or before.count(END) != 1 or before.index(BEGIN) > before.index(END):
        raise UserError(f"'{path}' does not have the lines {BEGIN} and {END} once each: write them where the tables belong")
    start, end = before.index(BEGIN) + len(BEGIN), before.index(END)
    with written_whole(path, "report", UserError) as temporary:
        temporary.write_text(f"{before[:start]}\n{text}{before[end:]}", encoding="utf-8")
