"""What a metric gives back: one number each, or the reason why there is none."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Measure:
    """One number about one film; `name` is the key in the report, and `evaluation.columns` says how it is to be read.

    A metric is a function `(Film, ...) -> list[Measure]`. What cannot be computed has the value None and a note that says
    why and, where there is one, names the command that mends it.
    """

    name: str
    value: float | None
    unit: str = ""
    note: str = ""
    weight: float = 1.0  # how much the value counts in the mean over films (frames compared, where the metric's rule says so)
    curve: np.ndarray | None = field(default=None, repr=False, compare=False)  # [F] over the film's frames, NaN where unknown

    def __post_init__(self) -> None:
        if self.value is None and not self.note:
            raise ValueError(f"the measure {self.name!r} has neither a value nor a note that says why")
        if self.value is not None and not np.isfinite(self.value):
            raise ValueError(f"the measure {self.name!r} is {self.value}: give None and a note instead")


def missing(names: tuple[str, ...], note: str) -> list[Measure]:
    """Measures without a value, all for the same reason."""
    return [Measure(name, None, note=note) for name in names]
