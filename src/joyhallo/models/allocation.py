"""How the C library hands out memory to the networks on a CPU."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # the names of glibc's mallopt(3)
_LARGEST = 32 * 2**20  # bytes; mallopt takes no higher threshold of the second kind
_KEPT = 2**30  # bytes


def give_freed_memory_back() -> None:
    """Hand what tensors freed and this process kept to the system (glibc; elsewhere nothing is kept)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    if trim is not None:
        trim(0)


def keep_freed_memory() -> bool:
    """Let this process keep what tensors free, for the next ones; says whether the C library here can (glibc).

    Every step allocates the same megabytes and frees them. By default glibc gives them back to the system each time, and the
    system clears every page anew: for small networks that takes as long as some of their layers. Not more is in use at once,
    so the peak of memory stays what it was.
    """
    if not sys.platform.startswith("linux"):
        return False
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:  # another C library
        return False
    return bool(set_option(_MMAP_THRESHOLD, _LARGEST)) and bool(set_option(_TRIM_THRESHOLD, _KEPT))
