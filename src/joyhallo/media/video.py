"""Video files: read frame by frame, probe, write.

The writer lives in `media.writer`, the lossless store in `media.segments`; both are named here too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from joyhallo.media.container import open_container, packets_of
from joyhallo.media.files import require_file
from joyhallo.media.segments import read_segment, write_segment
from joyhallo.media.video_error import VideoError
from joyhallo.media.writer import VideoWriter

if TYPE_CHECKING:
    from av.container import InputContainer

__all__ = ["VideoError", "VideoInfo", "VideoWriter", "probe_video", "read_frames", "read_segment", "write_segment"]

_READABLE = "an MP4, MOV, MKV, WebM or AVI video"


@dataclass(frozen=True)
class VideoInfo:
    """What a video is; `num_frames` counts the packets present, height and width are those of upright frames."""

    num_frames: int
    fps: float
    height: int
    width: int
    duration_s: float
    has_audio: bool


def probe_video(path: str | Path) -> VideoInfo:
    """Measure a video without decoding more than its first frame.

    Raises
    ------
    VideoError : as `read_frames`.
    """
    first = next(read_frames(path), None)
    if first is None:
        raise VideoError(f"no frame of the video '{path}' can be decoded: give {_READABLE}")
    with _open(Path(path)) as container:
        stream = container.streams.video[0]
        num_frames, end = 0, 0.0
        for packet in packets_of(container, stream):
            if packet.size:
                num_frames += 1
                if packet.pts is not None and packet.time_base is not None:
                    end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        rate = stream.average_rate or stream.guessed_rate
        fps = float(rate) if rate else (num_frames / end if end else 0.0)
        duration_s = num_frames / fps if fps else end
        return VideoInfo(num_frames, fps, first.shape[0], first.shape[1], duration_s, bool(container.streams.audio))


def read_frames(path: str | Path) -> Iterator[np.ndarray]:
    """Decode a video, one frame after the other; memory does not grow with its length.

    The rotation that telephones write is applied. A damaged end ends the video.

    Yields
    ------
    [H, W, 3], uint8, RGB.

    Raises
    ------
    VideoError : missing, a folder, not readable, empty, no picture in it, nothing decodable.
    """
    from av.error import FFmpegError

    path = require_file(path, "video", VideoError)
    num_frames = 0
    with _open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        frames = container.decode(stream)
        while True:
            try:
                frame = next(frames)
                picture = frame.to_ndarray(format="rgb24")
            except (StopIteration, FFmpegError):
                break
            num_frames += 1
            turns = round(getattr(frame, "rotation", 0) / 90) % 4
            yield np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture
    if not num_frames:
        raise VideoError(f"no frame of the video '{path}' can be decoded (broken or cut short): give {_READABLE}")


def _open(path: Path) -> "InputContainer":
    container = open_container(path, VideoError(f"'{path}' is not a video that can be read: give {_READABLE}"))
    if not container.streams.video:
        container.close()
        raise VideoError(f"'{path}' has no picture in it, only sound: give {_READABLE}")
    return container
