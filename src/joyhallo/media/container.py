"""Opening a file that somebody gave, as sound or as film."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from joyhallo.errors import UserError

if TYPE_CHECKING:
    from av import Packet
    from av.container import InputContainer

# Only formats that hold their content themselves: a playlist could make the decoder open other files or addresses.
_FORMATS = (
    "wav,w64,rf64,aiff,au,caf,mp3,aac,flac,ogg,amr,ac3,eac3,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,avi,flv,asf,mpeg,mpegts"
)


def open_container(path: Path, unreadable: UserError) -> "InputContainer":
    """The file as PyAV sees it; raises `unreadable` when it is none that can be read."""
    import av
    from av.error import FFmpegError

    options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
    try:
        # Tags may be in any old encoding; they must not stop the rest.
        return av.open(str(path.absolute()), metadata_errors="replace", options=options)
    except (FFmpegError, ValueError, MemoryError) as problem:
        raise unreadable from problem


def packets_of(container: "InputContainer", stream: Any) -> Iterator["Packet"]:  # noqa: ANN401 (sound or picture)
    """The packets of a stream; a file cut short ends where it was cut."""
    from av.error import FFmpegError

    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, FFmpegError):
            return
        yield packet


def frames_in(packet: "Packet") -> list[Any]:
    """The frames of a packet; none when it is damaged: players skip it too."""
    from av.error import FFmpegError

    try:
        return packet.decode()
    except (FFmpegError, ValueError):
        return []
