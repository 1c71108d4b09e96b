"""The paper's columns: which module computes them, and the networks it needs, loaded once for all films."""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from joyhallo.evaluation.catalogue import Metric
from joyhallo.evaluation.film import Film
from joyhallo.evaluation.measures import Measure

# Metric → what loads its networks (None where their files are not here), and what measures a film with them.
_PLACES = {
    "sync": (("sync.load_expert", "sync.measure_sync"),),
    "quality": (("quality.load_q_realign", "quality.measure_quality"),),
    "consistency": (
        ("consistency.load_dino", "consistency.measure_subject"),
        ("consistency.load_clip", "consistency.measure_background"),
    ),
    "smoothness": (("amt.load_amt", "smoothness.measure_smooth"),),
}
PUBLISHED = frozenset(_PLACES)


@dataclass(eq=False)
class Experts:
    """The networks of the published metrics."""

    _loaded: dict[str, Any] = field(default_factory=dict)

    def measure(self, metric: Metric, film: Film) -> list[Measure]:
        """The measures of one of the published metrics; without its weights they say which command brings them."""
        found: list[Measure] = []
        for load, measure in _PLACES[metric.name]:
            if load not in self._loaded:
                self._loaded[load] = _function(load)()
            found += _function(measure)(film, self._loaded[load])
        return found


def _function(place: str) -> Callable[..., Any]:
    """A function of this room; its module is imported when it is needed, since some need large packages."""
    module, _, name = place.partition(".")
    return getattr(import_module(f"joyhallo.evaluation.{module}"), name)
