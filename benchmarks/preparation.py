"""How fast videos become clips: seconds of video a second on one core, and where the time goes.

    python benchmarks/preparation.py VIDEOS… [--preset mini] [--limit 10] [--hours 29]

Everything runs in this process on one thread; writing the tars, which the disk decides, is not in it. Prints the rate, the
share of each step, and how long a collection of that many hours takes.
"""

import argparse
import functools
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import torch

from joyhallo.data import framing, samples
from joyhallo.data.preparation import footage, one_video, tracking
from joyhallo.data.preparation.equipment import Equipment, open_equipment
from joyhallo.data.preparation.films import find_videos, identify, settings_for

STEPS = ("decode", "convert and reduce", "track", "count faces", "crop", "encode clips", "speech features", "sound", "other")


class Clock:
    """Processor time of each step; a step inside another is not counted twice."""

    def __init__(self) -> None:
        self.spent_s: dict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._since = 0.0

    def _switch(self) -> None:
        now = time.process_time()
        if self._open:
            self.spent_s[self._open[-1]] += now - self._since
        self._since = now

    def timed(self, step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401
            self.enter(step)
            try:
                return function(*arguments, **named)
            finally:
                self.leave()

        return wrapper

    def timed_generator(self, step: str, function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        @functools.wraps(function)
        def wrapper(*arguments: Any) -> Iterator[Any]:  # noqa: ANN401
            items = function(*arguments)
            while True:
                self.enter(step)
                try:
                    item = next(items)
                except StopIteration:
                    return
                finally:
                    self.leave()
                yield item

        return wrapper

    def enter(self, step: str) -> None:
        self._switch()
        self._open.append(step)

    def leave(self) -> None:
        self._switch()
        self._open.pop()


def measure_steps(clock: Clock, equipment: Equipment) -> None:
    """Put the clock around the functions that do the work; for this process only."""
    footage._decoded = clock.timed_generator("decode", footage._decoded)
    footage._Still.pixels = clock.timed("convert and reduce", footage._Still.pixels)
    mesh: Any = equipment.mesh
    mesh.track = clock.timed("track", mesh.track)
    mesh.detect = clock.timed("count faces", mesh.detect)
    framing.FaceCrop.cut = clock.timed("crop", framing.FaceCrop.cut)
    samples.write_clip = clock.timed("encode clips", samples.write_clip)
    one_video._Sound.read = clock.timed("sound", one_video._Sound.read)
    Equipment.encode_speech = clock.timed("speech features", Equipment.encode_speech)
    tracking.SpeakerTracker.follow = clock.timed_generator("other", tracking.SpeakerTracker.follow)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path, nargs="+")
    parser.add_argument("--preset", default="mini")
    parser.add_argument("--limit", type=int, default=10, help="videos to measure")
    parser.add_argument("--hours", type=float, default=29.0, help="of the collection to reckon for")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    settings = settings_for(arguments.preset)
    equipment = open_equipment(settings.preset, separate_vocals=False)
    clock = Clock()
    measure_steps(clock, equipment)
    preparer = one_video.VideoPreparer(settings, equipment)
    seen_s = kept_s = 0.0
    clock.enter("other")
    started = time.perf_counter()
    for path in find_videos(arguments.videos)[: arguments.limit]:
        with tempfile.TemporaryDirectory() as folder:
            _, *parts = preparer.prepare(identify(path), Path(folder))
        lengths = [(part.is_kept, (part.end_s or 0) - (part.start_s or 0)) for part in parts]
        seen_s += sum(length for _, length in lengths)
        kept_s += sum(length for is_kept, length in lengths if is_kept)
    clock.leave()
    wall_s, total_s = time.perf_counter() - started, sum(clock.spent_s.values())
    if not seen_s:
        raise SystemExit("none of the videos could be read")
    rate = seen_s / total_s
    print(f"{seen_s:.1f} s of video, {kept_s:.1f} s kept; {total_s:.1f} s of processor time, {wall_s:.1f} s by the clock")
    print(f"{rate:.2f} video seconds per second per core ({1000 * total_s / seen_s / 25:.1f} ms a frame)")
    for step in STEPS:
        spent_s = clock.spent_s[step]
        print(f"  {step:20s} {100 * spent_s / total_s:5.1f} %  {1000 * spent_s / seen_s / 25:6.2f} ms a frame")
    for cores in (2, 16, 64):
        print(f"  {arguments.hours:g} hours on {cores:2d} cores: {arguments.hours / rate / cores:.1f} hours")


if __name__ == "__main__":
    main()
