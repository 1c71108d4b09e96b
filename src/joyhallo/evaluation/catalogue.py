"""The metrics that can be asked for, and what the names in `--metrics` stand for."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from joyhallo.errors import UserError


@dataclass(frozen=True)
class Metric:
    """One computation; it gives the measures `names`."""

    name: str
    names: tuple[str, ...]
    needs_face: bool = True
    needs_sound: bool = False


_PAPER = (
    Metric("sync", ("sync_c", "sync_d", "sync_offset"), needs_face=False, needs_sound=True),
    Metric("quality", ("iqa", "vqa"), needs_face=False),
    Metric("consistency", ("subject", "background"), needs_face=False),
    Metric("smoothness", ("smooth",), needs_face=False),
)
_ALWAYS = (
    Metric("lip_sync", ("lip_sync", "lip_sync_offset", "lip_sync_confidence"), needs_sound=True),
    Metric("lips", ("lip_amplitude", "lips_closed_in_silence"), needs_sound=True),
    Metric("likeness", ("identity_stability", "identity_likeness", "sharpness")),
    Metric("backdrop", ("background_change",)),
    Metric("flicker", ("flicker",), needs_face=False),
    Metric("warp_error", ("warp_error",), needs_face=False),
    Metric("motion", ("head_motion", "blink_rate")),
)
VISEMES = Metric(
    "visemes",
    ("viseme_closed", "viseme_apart", "viseme_rounded", "viseme_spread", "viseme_open", "viseme_total"),
    needs_sound=True,
)
NEEDS_PORTRAIT = frozenset({"identity_likeness"})  # measures that are nothing without one to compare with
METRICS = (*_PAPER, *_ALWAYS, VISEMES)
_GROUPS = {"all": METRICS, "paper": _PAPER, "always": (*_ALWAYS, VISEMES)}


@dataclass(frozen=True)
class Asked:
    """What one word of `--metrics` asks for; a group asks for nothing in particular."""

    word: str
    names: frozenset[str]  # of measures; one of them at least must come out

    @property
    def needs_portrait(self) -> bool:
        return self.names <= NEEDS_PORTRAIT

    @property
    def needs_sound(self) -> bool:
        return all(metric.needs_sound for metric in METRICS if self.names & set(metric.names))


def asked_by_name(wanted: Sequence[str]) -> list[Asked]:
    """The words that name a metric or a column, each with its measures; groups are left out.

    Raises
    ------
    UserError : see `choose_metrics`.
    """
    asked = []
    for word in wanted:
        name = word.lower().replace("-", "_")
        if name not in _GROUPS:
            metrics = choose_metrics([word])
            names = {n for metric in metrics for n in metric.names}
            asked.append(Asked(word, frozenset(names if name == metrics[0].name else {name})))
    return asked


def choose_metrics(wanted: Sequence[str]) -> list[Metric]:
    """The metrics meant by names of metrics, of columns or of groups (all, paper, always); all for none.

    Raises
    ------
    UserError : a name that is none of them.
    """
    chosen: set[str] = set()
    for word in wanted or ("all",):
        name = word.lower().replace("-", "_")
        found = _GROUPS.get(name) or [metric for metric in METRICS if name == metric.name or name in metric.names]
        if not found:
            known = [*_GROUPS, *(metric.name for metric in METRICS)]
            near = difflib.get_close_matches(name, [*known, *(n for m in METRICS for n in m.names)], n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"choose among {', '.join(known)}"
            raise UserError(f"there is no metric '{word}': {hint}")
        chosen |= {metric.name for metric in found}
    return [metric for metric in METRICS if metric.name in chosen]
