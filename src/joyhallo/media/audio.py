"""Speech from any file that carries sound: decoded in blocks, mixed to mono, resampled.

Axes: T samples, C channels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from joyhallo.errors import UserError
from joyhallo.media.container import frames_in, open_container, packets_of
from joyhallo.media.files import require_file

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

MIN_SPEECH_S = 0.2
MAX_SPEECH_S = 4 * 3600.0
WAVEFORM_RATE_HZ = 16000  # of speech that is given as samples

_LOUDEST = 8.0  # float files may exceed full scale a little; more than this is no sound
_READABLE = "a WAV, MP3, M4A, FLAC, OGG or Opus file, or a video with sound"


class AudioError(UserError):
    """A recording that cannot be used; the message says why and what to give instead."""


@dataclass(frozen=True)
class SpeechInfo:
    """What a recording is."""

    duration_s: float
    sample_rate_hz: int
    num_channels: int


@dataclass(frozen=True)
class SoundBlock:
    """Decoded sound at its own rate."""

    samples: np.ndarray  # [C, T] float32, finite
    sample_rate_hz: int


def probe_speech(path: str | Path) -> SpeechInfo:
    """Length, rate and channels of a recording, exactly as they will be decoded.

    Headers are not believed: a cut file, a bit rate that varies and encoder padding all make them wrong. The file is decoded
    without being kept; an hour takes a few seconds.

    Raises
    ------
    AudioError : as `stream_speech`.
    """
    num_samples: dict[int, int] = {}  # by rate: a joined recording may have several
    duration_s, first = 0.0, None
    for block in decode_sound(path):
        first = first or block
        num_samples[block.sample_rate_hz] = num_samples.get(block.sample_rate_hz, 0) + block.samples.shape[1]
        duration_s = sum(count / rate for rate, count in num_samples.items())
        check_length(path, duration_s, is_whole=False)
    assert first is not None  # otherwise decode_sound has raised
    check_length(path, duration_s, is_whole=True)
    return SpeechInfo(duration_s, first.sample_rate_hz, first.samples.shape[0])


def stream_speech(path: str | Path, sample_rate_hz: int = WAVEFORM_RATE_HZ, block_s: float = 30.0) -> Iterator[np.ndarray]:
    """Decode a recording to mono blocks; memory does not grow with its length.

    Channels are averaged; the rate is changed by soxr as one continuous stream, so the blocks joined up are what the whole
    would give. Samples that are not finite become silence. Silence itself is legal.

    Parameters
    ----------
    path : any sound file, or a video with sound.
    sample_rate_hz : rate of the blocks.
    block_s : seconds per block; the last may be shorter.

    Yields
    ------
    [T], float32, full scale at 1.

    Raises
    ------
    AudioError : missing, a folder, not readable, empty, no sound in it, nothing decodable, shorter than 0.2 s, over 4 h.
    """
    block = max(1, round(block_s * sample_rate_hz))
    waiting: list[np.ndarray] = []
    num_waiting = total = 0
    for part in _resampled(path, sample_rate_hz):
        waiting.append(part)
        num_waiting += len(part)
        total += len(part)
        check_length(path, total / sample_rate_hz, is_whole=False)
        if num_waiting >= block:
            joined = np.concatenate(waiting)
            whole = num_waiting - num_waiting % block
            yield from np.split(joined[:whole], whole // block)
            waiting, num_waiting = [joined[whole:]], num_waiting - whole
    check_length(path, total / sample_rate_hz, is_whole=True)
    if num_waiting:
        yield np.concatenate(waiting)


def read_speech(path: str | Path, sample_rate_hz: int = WAVEFORM_RATE_HZ) -> np.ndarray:
    """The whole of `stream_speech` in one array, [T] float32; an hour at 16 kHz takes 230 MB.

    Raises
    ------
    AudioError : as `stream_speech`.
    """
    return np.concatenate(list(stream_speech(path, sample_rate_hz)))


def decode_sound(path: str | Path | np.ndarray) -> Iterator[SoundBlock]:
    """The sound of a file as it is: its own rate and channels, one block per decoded frame; or a waveform [T] at 16 kHz.

    A damaged packet is left out; a damaged end ends the sound.

    Raises
    ------
    AudioError : as `stream_speech`, except for the length.
    """
    if isinstance(path, np.ndarray):
        yield SoundBlock(path[None].astype(np.float32), WAVEFORM_RATE_HZ)
        return
    path = require_file(path, "speech", AudioError)
    num_decoded = 0
    with _open(path) as container:
        stream = container.streams.audio[0]
        for packet in packets_of(container, stream):
            for frame in frames_in(packet):
                if frame.samples:
                    num_decoded += 1
                    yield _to_block(frame)
    if not num_decoded:
        raise AudioError(_nothing_decodable(path))


def _resampled(path: str | Path, sample_rate_hz: int) -> Iterator[np.ndarray]:
    import soxr

    resampler, rate = None, 0
    for block in decode_sound(path):
        mono = block.samples.mean(axis=0, dtype=np.float32)
        if resampler is None or block.sample_rate_hz != rate:  # a joined recording may change its rate half-way
            if resampler is not None:
                yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)
            rate = block.sample_rate_hz
            resampler = soxr.ResampleStream(rate, sample_rate_hz, 1, dtype="float32", quality="HQ")
        yield resampler.resample_chunk(mono)
    if resampler is not None:
        yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def _open(path: Path) -> "InputContainer":
    container = open_container(path, AudioError(f"'{path}' is not a recording that can be read: give {_READABLE}"))
    if not container.streams.audio:
        container.close()
        raise AudioError(f"'{path}' has no sound in it: give {_READABLE}")
    if container.streams.audio[0].codec_context is None:
        container.close()
        raise AudioError(f"the sound of '{path}' has an unknown coding: give {_READABLE}")
    return container


def _to_block(frame: "av.AudioFrame") -> SoundBlock:
    values: np.ndarray = frame.to_ndarray()
    num_channels = frame.layout.nb_channels
    if not frame.format.is_planar:
        values = values.reshape(-1, num_channels).T
    if values.dtype == np.uint8:
        samples = (values.astype(np.float32) - 128.0) / 128.0
    elif np.issubdtype(values.dtype, np.integer):
        samples = (values / 2.0 ** (8 * values.dtype.itemsize - 1)).astype(np.float32)
    else:
        with np.errstate(over="ignore"):
            samples = values.astype(np.float32)
        samples = np.clip(np.where(np.isfinite(samples), samples, 0.0), -_LOUDEST, _LOUDEST)
    return SoundBlock(np.ascontiguousarray(samples), frame.sample_rate)


def check_length(path: str | Path, duration_s: float, is_whole: bool) -> None:
    """Refuse a recording that is too long, or, once it has ended (`is_whole`), too short. Raises AudioError."""
    if is_whole and duration_s < MIN_SPEECH_S:
        raise AudioError(f"the speech '{path}' lasts {duration_s:.2f} s, but {MIN_SPEECH_S} s are needed: give a longer one")
    if duration_s > MAX_SPEECH_S:
        raise AudioError(f"the speech '{path}' lasts more than {MAX_SPEECH_S / 3600:.0f} hours: cut it into parts")


def _nothing_decodable(path: Path) -> str:
    return f"nothing in the sound of '{path}' can be decoded (broken or cut short): give {_READABLE}"
