"""A film on the clock of 25 pictures a second: by its timestamps, upright, with square pixels, one picture after the other.

Nothing is kept, so memory does not grow with the length; a film is watched twice instead (find the face, then cut it out).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from joyhallo.data.frames import FPS
from joyhallo.media.container import frames_in, open_container, packets_of
from joyhallo.media.files import require_file
from joyhallo.media.video_error import VideoError

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

MAX_HOLD = 12  # slots that a picture stands for at most; a longer gap is a hole in the film
NEARLY_SQUARE = 0.02  # pixels less stretched than this are taken as square
_HDR_TRANSFERS = (16, 18)  # PQ and HLG, by their numbers in ITU-T H.273
_READABLE = "an MP4, MOV, MKV, WebM or AVI video"


@dataclass(eq=False)
class _Still:
    """One decoded picture; conversions are made when asked for, and once."""

    frame: Any  # av.VideoFrame
    turns: int  # quarter turns counter-clockwise that set it upright
    aspect: float  # width of a pixel, over its height
    converted: dict[int | None, np.ndarray] = field(default_factory=dict)

    def pixels(self, longest_px: int | None) -> np.ndarray:
        if longest_px not in self.converted:
            width, height = self.frame.width * self.aspect, float(self.frame.height)
            shrink = min(1.0, longest_px / max(width, height)) if longest_px else 1.0
            size = max(2, round(width * shrink)), max(2, round(height * shrink))
            frame = self.frame
            if size != (frame.width, frame.height):
                frame = frame.reformat(width=size[0], height=size[1], format="rgb24", interpolation="AREA")
            picture = frame.to_ndarray(format="rgb24")
            self.converted[longest_px] = np.ascontiguousarray(np.rot90(picture, self.turns)) if self.turns else picture
        return self.converted[longest_px]


@dataclass(frozen=True, eq=False)
class Picture:
    """What is seen during one 25th of a second."""

    slot: int  # number of the 25th, counted from the film's first picture
    time_s: float  # of the slot, on the film's own clock
    is_new: bool  # False where the picture before is still shown
    still: _Still

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels, upright and with square pixels."""
        height, width = self.still.frame.height, round(self.still.frame.width * self.still.aspect)
        return (width, height) if self.still.turns % 2 else (height, width)

    def pixels(self, longest_px: int | None = None) -> np.ndarray:
        """[H, W, 3] uint8 RGB, reduced to `longest_px` on its longer side when it is larger."""
        return self.still.pixels(longest_px)


def watch(path: Path) -> Iterator[Picture]:
    """All pictures of a film on the clock of 25 a second; slots that have none (a gap of half a second) are left out.

    A slot shows the last picture whose time, rounded to slots, is not after it, as ffmpeg's `fps=25` does. Damaged packets
    are left out.

    Raises
    ------
    VideoError : missing, not readable, no picture in it, nothing decodable, or HDR (whose colours would be lost).
    """
    path = require_file(path, "video", VideoError)
    shown: tuple[int, _Still] | None = None
    first_s: Fraction | None = None
    for time_s, still in _decoded(path):
        first_s = time_s if first_s is None else first_s
        slot = int((time_s - first_s) * FPS + Fraction(1, 2))
        if shown is None:
            shown = (slot, still)
        elif slot > shown[0]:
            yield from _held(shown, slot, first_s)
            shown = (slot, still)
        elif slot == shown[0]:
            shown = (slot, still)  # the later of two that fall together; earlier times are a broken clock
    if shown is None or first_s is None:
        raise VideoError(f"no frame of the video '{path}' can be decoded (broken or cut short): give {_READABLE}")
    yield from _held(shown, shown[0] + 1, first_s)


def sound_start_s(path: Path) -> float:
    """When the sound begins, on the same clock as `Picture.time_s`; 0 where the file does not say."""
    from av.error import FFmpegError

    with _open(path) as container:
        try:
            for frame in container.decode(audio=0):
                return 0.0 if frame.pts is None or frame.time_base is None else float(frame.pts * frame.time_base)
        except (FFmpegError, IndexError):  # what reads the sound itself says what is wrong with it
            return 0.0
    return 0.0


def _held(shown: tuple[int, _Still], until: int, first_s: Fraction) -> Iterator[Picture]:
    first, still = shown
    for slot in range(first, until if until - first <= MAX_HOLD else first + 1):
        yield Picture(slot, float(first_s + Fraction(slot, FPS)), slot == first, still)


def _open(path: Path) -> "InputContainer":
    return open_container(path, VideoError(f"'{path}' is not a video that can be read: give {_READABLE}"))


def _decoded(path: Path) -> Iterator[tuple[Fraction, _Still]]:
    """Times and pictures in the order in which they are shown."""
    with _open(path) as container:
        if not container.streams.video:
            raise VideoError(f"'{path}' has no picture in it, only sound: give {_READABLE}")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise VideoError(f"the picture of '{path}' has an unknown coding: give {_READABLE}")
        stream.codec_context.thread_count = 1  # preparation runs a process per core
        aspect = float(stream.sample_aspect_ratio or 1)
        aspect = aspect if 0.25 <= aspect <= 4 and abs(aspect - 1) > NEARLY_SQUARE else 1.0
        step_s = 1 / (stream.average_rate or stream.guessed_rate or Fraction(FPS))
        following_s = Fraction(0)  # for pictures without a time
        for frame in _frames(container, stream):
            if frame.color_trc in _HDR_TRANSFERS:
                raise VideoError(f"'{path}' is an HDR film (PQ or HLG): convert it to an ordinary one (BT.709) first")
            time_s = following_s
            if frame.pts is not None and frame.time_base is not None:
                time_s = Fraction(frame.pts) * frame.time_base
            following_s = time_s + step_s
            yield time_s, _Still(frame, round(frame.rotation / 90) % 4, aspect)


def _frames(container: "InputContainer", stream: "av.VideoStream") -> Iterator["av.VideoFrame"]:
    for packet in packets_of(container, stream):
        yield from (frame for frame in frames_in(packet) if not frame.is_corrupt)
