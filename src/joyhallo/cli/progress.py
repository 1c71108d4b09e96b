"""How a render shows where it stands: a bar on a terminal, one line a clip elsewhere."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from joyhallo.render import Progress


@contextmanager
def progress_shown() -> Iterator[Callable[[Progress], None]]:
    """A bar on standard error with clips, frames and time left; one line a clip where that is no terminal."""
    if not sys.stderr.isatty():
        yield _LinePerClip().show
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("starting", total=None, text="")

        def show(progress: Progress) -> None:
            total = progress.frames_total or None
            bars.update(task, description=progress.stage, total=total, completed=progress.frames_done, text=_text(progress))

        yield show


class _LinePerClip:
    def __init__(self) -> None:
        self.last: tuple[str, int] | None = None

    def show(self, progress: Progress) -> None:
        now = (progress.stage, progress.clips_done)
        if now != self.last:
            print(f"{progress.stage}: {_text(progress)}".rstrip(": "), file=sys.stderr, flush=True)
        self.last = now


def _text(progress: Progress) -> str:
    if not progress.clips_total:
        return ""
    parts = [
        f"clip {progress.clips_done}/{progress.clips_total}",
        f"frame {progress.frames_done}/{progress.frames_total}",
    ]
    if progress.left_s is not None:
        minutes, seconds = divmod(round(progress.left_s), 60)
        parts.append(f"{minutes}:{seconds:02d} left")
    return ", ".join(parts)
