"""What the viseme test counts: which class was asked for, and which one was seen."""

from collections.abc import Sequence
from dataclasses import dataclass

from joyhallo.evaluation.measures import Measure

ASKED = ("closed", "apart", "rounded", "spread", "open")
SEEN = ("closed", "rounded", "spread", "open")


@dataclass(frozen=True)
class Event:
    """One sound of a syllable, and the shape of the lips at its time."""

    film: str
    syllable: str
    asked: str  # of ASKED; "apart": an initial on which the lips must not be closed
    seen: str  # of SEEN
    time_s: float

    @property
    def is_right(self) -> bool:
        """Whether the lips did what the sound asks for."""
        return self.seen != "closed" if self.asked == "apart" else self.seen == self.asked


@dataclass(frozen=True)
class VisemeScores:
    """Shares of events that were right, and how the others were mistaken."""

    total: float | None  # the mean of the classes that occur
    scores: dict[str, float | None]  # by class asked for
    confusion: dict[str, dict[str, int]]  # asked → seen → events


def score_events(events: Sequence[Event]) -> VisemeScores:
    """Per-class shares, their mean, and the confusion table of any number of events."""
    confusion = {
        asked: {seen: sum(event.asked == asked and event.seen == seen for event in events) for seen in SEEN} for asked in ASKED
    }
    scores: dict[str, float | None] = {}
    for asked in ASKED:
        right = [event.is_right for event in events if event.asked == asked]
        scores[asked] = sum(right) / len(right) if right else None
    found = [score for score in scores.values() if score is not None]
    return VisemeScores(sum(found) / len(found) if found else None, scores, confusion)


def viseme_measures(events: Sequence[Event]) -> list[Measure]:
    """The scores of one film's events; a class that does not occur has no value, and each counts by its events."""
    scores = score_events(events)
    measures = []
    for asked in ASKED:
        count = sum(event.asked == asked for event in events)
        note = "" if count else "no such sound is in this video"
        measures.append(Measure(f"viseme_{asked}", scores.scores[asked], "share", note, weight=float(max(count, 1))))
    note = "" if events else "no sound of these classes is in this video"
    measures.append(Measure("viseme_total", scores.total, "share", note, weight=float(max(len(events), 1))))
    return measures
