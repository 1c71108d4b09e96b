"""The paper's columns: what measures each, and the networks they need, loaded once for all films.

Modules are imported when their metric is asked for: some need large packages.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from joyhallo.evaluation.catalogue import Metric
from joyhallo.evaluation.film import Film
from joyhallo.evaluation.measures import Measure

T = TypeVar("T")


@dataclass(eq=False)
class Experts:
    """The networks of the published metrics; None for those whose files are not here."""

    _loaded: dict[str, Any] = field(default_factory=dict)

    def measure(self, metric: Metric, film: Film) -> list[Measure]:
        """The measures of one of `PUBLISHED`; without its weights they say which command brings them.

        Raises
        ------
        UserError : files of weights are here, but broken.
        """
        return _MEASURED_BY[metric.name](self, film)

    def get(self, load: Callable[[], T]) -> T:
        """What `load` gives, loaded once."""
        name = f"{load.__module__}.{load.__qualname__}"
        if name not in self._loaded:
            self._loaded[name] = load()
        return cast("T", self._loaded[name])


def _sync(experts: Experts, film: Film) -> list[Measure]:
    from joyhallo.evaluation.sync import load_expert, measure_sync

    return measure_sync(film, experts.get(load_expert))


def _quality(experts: Experts, film: Film) -> list[Measure]:
    from joyhallo.evaluation.quality import load_judge, measure_quality

    return measure_quality(film, experts.get(load_judge))


def _consistency(experts: Experts, film: Film) -> list[Measure]:
    from joyhallo.evaluation.consistency import load_clip, load_dino, measure_background, measure_subject

    return measure_subject(film, experts.get(load_dino)) + measure_background(film, experts.get(load_clip))


def _smoothness(experts: Experts, film: Film) -> list[Measure]:
    from joyhallo.evaluation.amt import load_amt
    from joyhallo.evaluation.smoothness import measure_smooth

    return measure_smooth(film, experts.get(load_amt))


_MEASURED_BY: dict[str, Callable[[Experts, Film], list[Measure]]] = {
    "sync": _sync,
    "quality": _quality,
    "consistency": _consistency,
    "smoothness": _smoothness,
}
PUBLISHED = frozenset(_MEASURED_BY)
