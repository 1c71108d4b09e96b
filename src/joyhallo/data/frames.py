"""The clip of a sample: plain 25 fps mp4 with a key frame every 12 frames, and single frames of it by number.

H.264 without pictures that look ahead, so that any frame is at most 11 decoded frames after a key frame.
Axes: F frames, S pixels of a side, n frames asked for.
"""

import io
import os
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from joyhallo.media.video_error import VideoError

if TYPE_CHECKING:
    from av import AudioStream, Packet, VideoFrame, VideoStream
    from av.container import InputContainer, OutputContainer

FPS = 25
SAMPLE_RATE_HZ = 16_000
SAMPLES_PER_FRAME = SAMPLE_RATE_HZ // FPS
KEY_FRAME_EVERY = 12

_FULL_SCALE = 32768  # of 16-bit sound
_CRF = "17"
_BT709 = 1  # the number of BT.709 for primaries, transfer and matrix alike (ITU-T H.273)
_LIMITED_RANGE = 1
_SOUND_BIT_RATE = 64_000


def write_clip(path: Path, frames: Iterable[np.ndarray], speech: np.ndarray, num_frames: int, size_px: int) -> None:
    """Encode a clip; the same frames make the same bytes, on any number of cores.

    Parameters
    ----------
    path : the file to make; a half-written one is the caller's to remove.
    frames : [S, S, 3], uint8, RGB; exactly `num_frames`.
    speech : [F·640], int16, 16 kHz: becomes an AAC track, for the ear.
    num_frames, size_px : how many, and S.

    Raises
    ------
    ValueError : another number of frames, or a frame of another size or type.
    OSError : the file cannot be written.
    """
    import av

    options = {"fflags": "bitexact", "movflags": "faststart"}
    with av.open(str(path.absolute()), "w", format="mp4", options=options) as container:
        stream = _add_picture(container, size_px)
        sound = container.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono")
        sound.bit_rate = _SOUND_BIT_RATE
        number = 0
        for number, frame in enumerate(islice(frames, num_frames + 1), 1):
            if number > num_frames:
                raise ValueError(f"there are more than the {num_frames} frames that were announced")
            container.mux(stream.encode(_picture(frame, size_px, number - 1)))
            container.mux(_encode_sound(sound, speech, number - 1))
        if number != num_frames:
            raise ValueError(f"there are {number} frames, not the {num_frames} that were announced")
        container.mux(stream.encode(None))
        container.mux(sound.encode(None))


def read_clip_frames(source: io.RawIOBase, indices: Sequence[int], where: str) -> np.ndarray:
    """Frames of a clip by number, exactly: [n, S, S, 3] uint8 in the order asked for; a number may come twice.

    Parameters
    ----------
    source : the mp4 as a file that can seek; it may be a part of a larger one (`FilePart`).
    indices : numbers of frames, 0 is the first.
    where : how messages call the clip.

    Raises
    ------
    VideoError : not a clip, or a frame is missing in it.
    """
    import av
    from av.error import FFmpegError

    if not len(indices):
        raise ValueError(f"no frame of '{where}' was asked for")
    wanted = sorted({int(index) for index in indices})
    found: dict[int, np.ndarray] = {}
    try:
        with av.open(source, "r", format="mp4", metadata_errors="replace") as container:
            _decode_wanted(container, wanted, found)
    except (FFmpegError, EOFError, IndexError) as problem:
        raise VideoError(f"the clip '{where}' cannot be read (broken or cut short): prepare it again") from problem
    missing = [index for index in wanted if index not in found]
    if missing:
        raise VideoError(f"the clip '{where}' has no frame {missing[0]} (broken or cut short): prepare it again")
    return np.stack([found[int(index)] for index in indices])


def waveform_of(speech: np.ndarray) -> np.ndarray:
    """Stored speech, int16, as float32 in [-1, 1)."""
    return speech.astype(np.float32) / _FULL_SCALE


class FilePart(io.RawIOBase):
    """Some bytes of a file as a file of their own."""

    def __init__(self, path: Path, offset: int, num_bytes: int) -> None:
        self._file = path.open("rb", buffering=0)
        self._offset, self._num_bytes, self._position = offset, num_bytes, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._num_bytes}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1, /) -> bytes:
        left = max(0, self._num_bytes - self._position)
        self._file.seek(self._offset + self._position)
        content = self._file.read(left if size < 0 else min(size, left)) or b""
        self._position += len(content)
        return content

    def close(self) -> None:
        self._file.close()
        super().close()


def _add_picture(container: "OutputContainer", size_px: int) -> "VideoStream":
    settings = {
        "crf": _CRF,
        "preset": "medium",
        "threads": "1",  # preparation runs a process per core
        "x264-params": f"keyint={KEY_FRAME_EVERY}:min-keyint={KEY_FRAME_EVERY}:scenecut=0:bframes=0:open-gop=0",
    }
    stream = container.add_stream("libx264", rate=FPS, options=settings)
    stream.height = stream.width = size_px
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.color_primaries = context.color_trc = context.colorspace = _BT709
    context.color_range = _LIMITED_RANGE
    return stream


def _picture(frame: np.ndarray, size_px: int, number: int) -> "VideoFrame":
    import av
    from av.video.reformatter import ColorRange, Colorspace

    if frame.shape != (size_px, size_px, 3) or frame.dtype != np.uint8:
        raise ValueError(f"frame {number} is {frame.dtype} {list(frame.shape)}, not uint8 {[size_px, size_px, 3]}")
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    picture = picture.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
    picture.pts = number
    return picture


def _encode_sound(stream: "AudioStream", speech: np.ndarray, number: int) -> list["Packet"]:
    """The packets of the sound that belongs to frame `number`."""
    import av

    start = number * SAMPLES_PER_FRAME
    samples = waveform_of(speech[start : start + SAMPLES_PER_FRAME])
    frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
    frame.sample_rate, frame.pts = SAMPLE_RATE_HZ, start
    return stream.encode(frame)


def _decode_wanted(container: "InputContainer", wanted: list[int], found: dict[int, np.ndarray]) -> None:
    """Fill `found` with the frames `wanted` (ascending): seeks to the key frame before a gap, decodes on otherwise."""
    stream = container.streams.video[0]
    if stream.codec_context is None or stream.time_base is None:  # damaged
        return
    stream.codec_context.thread_count = 1  # readers are processes; a frame is too little work to share
    per_frame = 1 / (FPS * stream.time_base)  # clock ticks of a frame
    decoded, at = container.decode(stream), 0  # `at`: the number that the decoder gives next
    for index in wanted:
        key_frame = index - index % KEY_FRAME_EVERY
        if key_frame > at:
            container.seek(round(key_frame * per_frame), stream=stream, backward=True)
            decoded = container.decode(stream)
        for frame in decoded:
            number = -1 if frame.pts is None else round(frame.pts / per_frame)
            at = number + 1
            if number == index:
                found[index] = frame.to_ndarray(format="rgb24")
            if number >= index:
                break
