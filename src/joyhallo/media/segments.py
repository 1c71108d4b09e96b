"""Finished frames kept losslessly on disk, so that an interrupted rendering goes on where it stopped.

H.264 in RGB with quantiser 0 is exact to the bit, decodes fast, and takes about a third of the raw bytes on talking heads.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from joyhallo.media.files import require_file, written_whole
from joyhallo.media.video_error import VideoError


def write_segment(path: str | Path, frames: Sequence[np.ndarray]) -> None:
    """Write frames losslessly, whole or not at all.

    Parameters
    ----------
    path : the file; any suffix.
    frames : at least one [H, W, 3], uint8, all of one size.

    Raises
    ------
    VideoError : no frame, frames of different sizes or of another type, or the file cannot be written.
    """
    import av

    shapes = {(frame.shape, frame.dtype.str) for frame in frames}
    if len(shapes) != 1 or any(len(shape) != 3 or shape[2] != 3 or kind != "|u1" for shape, kind in shapes):
        raise VideoError(f"a segment needs frames of one size, uint8 [H, W, 3], got {sorted(shapes) or 'none'}")
    height, width = frames[0].shape[:2]
    with written_whole(Path(path), "segment", VideoError) as temporary:
        # bitexact: the same frames make the same bytes; no random identifiers, no library versions
        with av.open(str(temporary), "w", format="matroska", options={"fflags": "bitexact"}) as container:
            options = {"qp": "0", "preset": "ultrafast", "threads": "2"}
            stream = container.add_stream("libx264rgb", rate=25, options=options)
            stream.height, stream.width, stream.pix_fmt = height, width, "rgb24"
            for index, frame in enumerate(frames):
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                picture.pts = index
                container.mux(stream.encode(picture))
            container.mux(stream.encode())
        with av.open(str(temporary), format="matroska") as container:
            num_back = sum(packet.size > 0 for packet in container.demux(video=0))
        if num_back != len(frames):
            raise VideoError(f"the segment '{path}' holds {num_back} frames instead of {len(frames)}: check the disk")


def read_segment(path: str | Path) -> Iterator[np.ndarray]:
    """Give back the frames of `write_segment`, equal to the bit.

    Yields
    ------
    [H, W, 3], uint8.

    Raises
    ------
    VideoError : missing, not readable, or not a whole segment.
    """
    yield from _decode(require_file(path, "segment", VideoError))


def _decode(path: Path) -> Iterator[np.ndarray]:
    import av
    from av.error import FFmpegError

    try:
        with av.open(str(path.absolute()), options={"format_whitelist": "matroska,webm"}) as container:
            if not container.streams.video or container.streams.video[0].codec_context.pix_fmt != "gbrp":
                raise VideoError(f"'{path}' is not a segment of lossless frames: delete it and render that part again")
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")
    except FFmpegError as problem:
        raise VideoError(f"the segment '{path}' is broken: delete it and render that part again") from problem
