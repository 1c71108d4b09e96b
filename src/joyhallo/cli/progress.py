"""How a command shows where it stands: a bar on a terminal, lines elsewhere; always on standard error."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from joyhallo.render import Progress

T = TypeVar("T")


@dataclass(frozen=True)
class Bar:
    """What a bar shows."""

    label: str
    done: int
    total: int | None  # None: not known yet
    text: str  # behind the bar


@contextmanager
def shown(bar: Callable[[T], Bar], line: Callable[[T], str | None]) -> Iterator[Callable[[T], None]]:
    """Give a function that shows a report: as `bar` says on a terminal, elsewhere as the line of `line` unless that is None."""
    if not sys.stderr.isatty():

        def say(report: T) -> None:
            text = line(report)
            if text is not None:
                print(text, file=sys.stderr, flush=True)

        yield say
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("starting", total=None, text="")

        def show(report: T) -> None:
            now = bar(report)
            bars.update(task, description=now.label, total=now.total, completed=now.done, text=now.text)

        yield show


def time_left(left_s: float | None) -> str:
    """ ", 2:05 left", ", 1:02:05 left", or nothing where it is not known."""
    if left_s is None:
        return ""
    minutes, seconds = divmod(round(left_s), 60)
    return f", {minutes // 60}:{minutes % 60:02d}:{seconds:02d} left" if minutes >= 60 else f", {minutes}:{seconds:02d} left"


@contextmanager
def progress_shown() -> Iterator[Callable[[Progress], None]]:
    """That of a render: clips, frames and time left; one line a clip where there is no terminal."""
    last: tuple[str, int] | None = None

    def line(progress: Progress) -> str | None:
        nonlocal last
        before, last = last, (progress.stage, progress.clips_done)
        return f"{progress.stage}: {_text(progress)}".rstrip(": ") if last != before else None

    with shown(lambda p: Bar(p.stage, p.frames_done, p.frames_total or None, _text(p)), line) as show:
        yield show


def _text(progress: Progress) -> str:
    if not progress.clips_total:
        return ""
    clips = f"clip {progress.clips_done}/{progress.clips_total}"
    return f"{clips}, frame {progress.frames_done}/{progress.frames_total}{time_left(progress.left_s)}"
