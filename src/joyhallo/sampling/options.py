"""What may be changed from run to run."""

import difflib
from dataclasses import dataclass, fields, replace
from typing import Any

from joyhallo.errors import UserError
from joyhallo.models.conditions import AS_TRAINED, RegionScale


@dataclass(frozen=True)
class Options:
    """What a user may change from run to run; None takes the checkpoint's own value."""

    num_steps: int | None = None
    guidance_scale: float | None = None  # 1 or less: no unconditional half is computed
    region_scale: RegionScale = AS_TRAINED
    seed: int = 42


DEFAULTS = Options()


def changed(options: Options | None, changes: dict[str, Any]) -> Options:
    """Options with fields changed by name.

    Raises:
        UserError: there is no such option.
    """
    known = [field.name for field in fields(Options)]
    for name in changes:
        if name not in known:
            nearest = (*difflib.get_close_matches(name, known, n=1), *known)[0]
            raise UserError(f"option {name!r} is not known (did you mean {nearest!r}?): use {', '.join(known)}")
    return replace(options or Options(), **changes)
