"""What to say of a metric whose weights are not on this machine."""

from joyhallo.weights import hub
from joyhallo.weights.registry import known_set


def lacking(set_name: str) -> str:
    """One line for a measure without a value: which files of that set are not here, and the command that brings them.

    Raises
    ------
    UserError : no such set.
    """
    entry = known_set(set_name)
    if entry is None:
        raise ValueError(f"{set_name} is a file, not a set")
    names = [name for name in entry.files if hub.find(name) is None]
    listed = ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
    return f"{listed or 'the weights'} {'is' if len(names) == 1 else 'are'} not here: joyhallo models pull {set_name}"
