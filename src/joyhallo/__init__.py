"""JoyHallo: one portrait and one speech recording become a talking video."""

from typing import TYPE_CHECKING

from joyhallo._version import __version__

if TYPE_CHECKING:
    from joyhallo.pipeline import JoyHalloPipeline

__all__ = ["JoyHalloPipeline", "__version__"]


def __getattr__(name: str) -> object:
    if name == "JoyHalloPipeline":
        from joyhallo.pipeline import JoyHalloPipeline

        return JoyHalloPipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
