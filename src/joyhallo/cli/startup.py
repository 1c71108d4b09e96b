"""What makes a command start sooner."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


def leave_out_unused() -> None:
    """Load diffusers without PyTorch's compiler (one and a half seconds of imports), with which it decorates models of its own,
    and without transformers (half a second), of which it wants the settings of quantised weights.

    diffusers does without where it finds none: only for a process that is ours, and where none of them has been loaded. Later
    imports find both.
    """
    if {"torch._dynamo", "diffusers", "transformers"} & sys.modules.keys():
        return
    with _hidden("torch._dynamo"):
        import diffusers.utils.torch_utils
    with _hidden("transformers"):
        import diffusers.quantizers  # noqa: F401


@contextmanager
def _hidden(name: str) -> Iterator[None]:
    sys.modules[name] = None  # type: ignore[assignment]  # what Python itself takes as "not there"
    try:
        yield
    finally:
        sys.modules.pop(name, None)
