"""What makes a command start sooner."""

import sys


def leave_out_compiler() -> None:
    """Load diffusers without PyTorch's compiler, whose import takes one and a half seconds and which no command uses.

    diffusers decorates models of its own for it, and does without where it finds none: only for a process that is ours, and
    where neither has been loaded. Later imports find the compiler.
    """
    if "torch._dynamo" in sys.modules or "diffusers" in sys.modules:
        return
    sys.modules["torch._dynamo"] = None  # type: ignore[assignment]  # what Python itself takes as "not there"
    try:
        import diffusers.utils.torch_utils  # noqa: F401
    finally:
        sys.modules.pop("torch._dynamo", None)
