"""One video file out of frames as they come and a sound recording: encoded, muxed, checked, then named."""

import contextlib
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from joyhallo.media.files import publish, require_output, reserve_beside, writing_error
from joyhallo.media.soundtrack import SoundTrack
from joyhallo.media.video_error import VideoError

_MUXERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
_BT709 = 1  # the number of BT.709 for primaries, transfer and matrix alike (ITU-T H.273)
_LIMITED_RANGE = 1
_THREADS = "4"  # fixed: x264 gives other bytes for another number of threads
_MAX_SIDE_PX = 16_384


class VideoWriter:
    """Context manager that writes one H.264 + AAC file, whole or not at all.

    Frames go to a temporary file beside `path`. Leaving the block without an error finishes that file, reads it back
    (number of frames, every metadata entry, length of the sound), and renames it; with an error nothing stays behind.
    Frames of odd sizes are padded by one row or column that repeats the border (yuv420p needs even sides). The sound is
    `speech` as recorded: own rate where AAC has it, mono or stereo kept, cut or padded with silence to the picture's length.

    Parameters
    ----------
    path : .mp4, .mov or .mkv (other containers cannot carry the AI label).
    size : (height, width) of the frames.
    fps : frames per second.
    speech : the recording, a waveform [T] at 16 kHz, or None for a silent film.
    crf : x264 quality, lower is better; 18 looks like the frames.
    metadata : written as container tags and read back; in mp4 and mov under their own names.

    Raises
    ------
    VideoError : folder missing or not writable, suffix, frame of a wrong size, disk full, file not as written.
    AudioError : the recording cannot be decoded.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        size: tuple[int, int],
        speech: str | Path | np.ndarray | None,
        metadata: Mapping[str, str],
        fps: int = 25,
        crf: int = 18,
    ) -> None:
        path = Path(path)
        if path.suffix.lower() not in _MUXERS:
            raise VideoError(
                f"the video '{path}' ends in '{path.suffix}', which cannot carry the AI label: use .mp4, .mov or .mkv"
            )
        if not 2 <= min(size) <= max(size) <= _MAX_SIDE_PX:
            raise VideoError(
                f"a video of {size[0]}x{size[1]} px (height x width) cannot be encoded: use 2 to {_MAX_SIDE_PX} px"
            )
        self.path = require_output(path, "video", VideoError)
        self.size = size
        self.fps = fps
        self.num_frames = 0
        self._crf = crf
        self._speech = speech
        self._metadata = dict(metadata)
        self._padding = ((0, size[0] % 2), (0, size[1] % 2), (0, 0))
        self._temporary: Path | None = None
        self._container: Any = None  # an av output container while the file is being made
        self._stream: Any = None
        self._sound: SoundTrack | None = None

    def __enter__(self) -> "VideoWriter":
        self._temporary = reserve_beside(self.path, "video", VideoError)
        with ExitStack() as undo:
            undo.callback(self._discard)
            try:
                self._open(self._temporary)
            except OSError as problem:
                raise writing_error(problem, self.path, "video", VideoError) from problem
            undo.pop_all()
        return self

    def write(self, frame: np.ndarray) -> None:
        """Append one frame and the sound that goes with it.

        Parameters
        ----------
        frame : [H, W, 3], uint8, RGB, of the writer's size.
        """
        import av
        from av.video.reformatter import ColorRange, Colorspace

        if frame.shape != (*self.size, 3) or frame.dtype != np.uint8:
            raise VideoError(f"frame {self.num_frames} is {frame.dtype} {list(frame.shape)}, not uint8 {[*self.size, 3]}")
        if any(after for _, after in self._padding):
            frame = np.pad(frame, self._padding, mode="edge")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture = picture.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
        picture.pts = self.num_frames
        self.num_frames += 1
        try:
            self._container.mux(self._stream.encode(picture))
            if self._sound is not None:
                self._container.mux(self._sound.encode_until(self.num_frames / self.fps))
        except OSError as problem:
            raise writing_error(problem, self.path, "video", VideoError) from problem

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._finish()
        except OSError as problem:
            raise writing_error(problem, self.path, "video", VideoError) from problem
        finally:
            self._discard()

    def _open(self, temporary: Path) -> None:
        import av

        muxer = _MUXERS[self.path.suffix.lower()]
        options = {"fflags": "bitexact"}  # no random identifiers: the same frames make the same file
        if muxer != "matroska":
            options["movflags"] = "use_metadata_tags+faststart"  # without the former, the label is dropped without a word
        self._container = av.open(str(temporary.absolute()), "w", format=muxer, options=options)
        self._container.metadata.update(self._metadata)
        stream = self._container.add_stream("libx264", rate=self.fps, options=self._quality())
        stream.height, stream.width = (side + side % 2 for side in self.size)
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.color_primaries = context.color_trc = context.colorspace = _BT709
        context.color_range = _LIMITED_RANGE
        self._stream = stream
        if self._speech is not None:
            self._sound = SoundTrack(self._speech, self._container)

    def _quality(self) -> dict[str, str]:
        """x264's options: its default preset takes 2.5 times as long, for 0.35 dB more and larger files."""
        return {"crf": str(self._crf), "threads": _THREADS, "preset": "veryfast"}

    def _finish(self) -> None:
        if not self.num_frames:
            raise VideoError(f"no frame was written to the video '{self.path}': nothing to save")
        container, temporary = self._container, self._temporary
        assert temporary is not None
        container.mux(self._stream.encode())
        if self._sound is not None:
            container.mux(self._sound.finish(self.num_frames / self.fps))
        self._container = None
        container.close()
        self._verify(temporary)
        publish(temporary, self.path)

    def _verify(self, temporary: Path) -> None:
        """Read the file back; a label that got lost or frames that are missing must never go unnoticed."""
        import av
        from av.error import FFmpegError

        problem = None
        try:
            with av.open(str(temporary.absolute())) as container:
                for key, value in self._metadata.items():
                    if container.metadata.get(key) != value:
                        problem = f"lost its '{key}' entry"
                ends = {"video": 0.0, "audio": 0.0}
                num_frames = 0
                for packet in container.demux():
                    if packet.size and packet.pts is not None:
                        ends[packet.stream.type] = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                        num_frames += packet.stream.type == "video"
        except FFmpegError as error:
            raise VideoError(f"the video '{self.path}' cannot be read back ({error.strerror}): check the disk") from error
        duration_s = self.num_frames / self.fps
        if num_frames != self.num_frames:
            problem = f"holds {num_frames} frames instead of {self.num_frames}"
        elif self._sound is not None and abs(ends["audio"] - duration_s) > max(1 / self.fps, self._sound.frame_s):
            problem = f"has {ends['audio']:.3f} s of sound for {duration_s:.3f} s of picture"
        if problem:
            raise VideoError(f"the video '{self.path}' {problem} when read back: it was not kept; check the disk and try again")

    def _discard(self) -> None:
        """Close and remove what is there; after a success the temporary file has moved and nothing is found."""
        self._sound = None  # lets go of the recording
        container, self._container = self._container, None
        if container is not None:
            with contextlib.suppress(OSError, ValueError):  # an unfinished file may not close well; it is removed next
                container.close()
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)
