"""The networks.

diffusers, whose base classes they have, imports PyTorch's compiler for one decorator of models of its own, and does without
where there is none. Nothing here is compiled and the import takes one and a half seconds, so it is left out; who imports it
later finds it.
"""

import sys

if "torch._dynamo" not in sys.modules and "diffusers" not in sys.modules:
    sys.modules["torch._dynamo"] = None  # type: ignore[assignment]  # what Python itself takes as "not there"
    try:
        import diffusers.utils.torch_utils  # noqa: F401
    finally:
        del sys.modules["torch._dynamo"]
