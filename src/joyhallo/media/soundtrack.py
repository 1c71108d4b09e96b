"""A recording fed to the AAC encoder step by step, as the picture advances."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from joyhallo.media.audio import SoundBlock, decode_sound

if TYPE_CHECKING:
    import av
    from av.container import OutputContainer

# AAC codes 1024 samples at a time: below 32 kHz that would be longer than a frame of 25 a second, and sound and picture could
# not end together. Lower rates are raised to a multiple.
_AAC_FRAME_SAMPLES = 1024
_AAC_RATES_HZ = (32000, 44100, 48000, 64000, 88200, 96000)
_BITS_PER_SAMPLE = 4  # ample for speech
_MAX_BIT_RATE = 128_000  # per channel


class SoundTrack:
    """Decodes `speech` on demand and encodes it into `container`; memory does not grow with its length.

    Rates from 32 kHz that AAC has are kept; others become a multiple or the next higher one. More than two channels become two.

    Parameters
    ----------
    speech : the recording, or a waveform [T] at 16 kHz.
    container : the output; the sound stream is added to it here.

    Raises
    ------
    AudioError : the recording cannot be decoded.
    """

    def __init__(self, speech: str | Path | np.ndarray, container: "OutputContainer") -> None:
        self._blocks = decode_sound(speech)
        first = next(self._blocks)
        self._num_channels = min(2, first.samples.shape[0])
        self._rate_hz = _nearest_aac_rate(first.sample_rate_hz)
        self.frame_s = _AAC_FRAME_SAMPLES / self._rate_hz  # the sound cannot end more exactly than this
        self._resampler = None
        self._resampler_rate_hz = 0
        self._waiting = [self._converted(first)]  # [T, C] each, at the rate of the track
        self._num_waiting = len(self._waiting[0])
        self._num_done = 0
        self._is_over = False
        layout = "stereo" if self._num_channels == 2 else "mono"
        self._stream = container.add_stream("aac", rate=self._rate_hz, layout=layout)
        self._stream.bit_rate = self._num_channels * min(_MAX_BIT_RATE, _BITS_PER_SAMPLE * self._rate_hz)

    def encode_until(self, end_s: float) -> list["av.Packet"]:
        """Encode the sound up to a time, in seconds; silence where the recording has ended."""
        import av

        num_wanted = round(end_s * self._rate_hz) - self._num_done
        if num_wanted <= 0:
            return []
        samples = np.ascontiguousarray(self._take(num_wanted).T)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=self._stream.layout.name)
        frame.sample_rate = self._rate_hz
        frame.pts = self._num_done
        self._num_done += num_wanted
        return self._stream.encode(frame)

    def finish(self, end_s: float) -> list["av.Packet"]:
        """Encode what is missing up to the end and empty the encoder."""
        return [*self.encode_until(end_s), *self._stream.encode(None)]

    def _take(self, num_samples: int) -> np.ndarray:
        """The next samples of the recording, [num_samples, C], zeros after its end."""
        while self._num_waiting < num_samples and not self._is_over:
            block = next(self._blocks, None)
            self._is_over = block is None
            part = self._converted(block)
            self._waiting.append(part)
            self._num_waiting += len(part)
        joined = np.concatenate(self._waiting)
        self._waiting, self._num_waiting = [joined[num_samples:]], max(0, len(joined) - num_samples)
        missing = num_samples - len(joined)
        return joined[:num_samples] if missing <= 0 else np.pad(joined, ((0, missing), (0, 0)))

    def _converted(self, block: SoundBlock | None) -> np.ndarray:
        """A block with the channels and the rate of the track, [T, C]; None gives what the resampler still holds."""
        rest = np.zeros((0, self._num_channels), np.float32)
        if block is None or block.sample_rate_hz != self._resampler_rate_hz:
            if self._resampler is not None:
                rest = self._resampler.resample_chunk(rest, last=True)
            self._resampler = None
        if block is None:
            return rest
        samples = _with_channels(block.samples, self._num_channels).T
        if block.sample_rate_hz != self._rate_hz and self._resampler is None:
            import soxr

            self._resampler = soxr.ResampleStream(block.sample_rate_hz, self._rate_hz, self._num_channels, dtype="float32")
        self._resampler_rate_hz = block.sample_rate_hz
        samples = np.ascontiguousarray(samples)
        if self._resampler is not None:
            samples = self._resampler.resample_chunk(samples)
        return np.concatenate([rest, samples])


def _nearest_aac_rate(rate_hz: int) -> int:
    higher = [rate for rate in _AAC_RATES_HZ if rate >= rate_hz]
    multiples = [rate for rate in higher if rate % rate_hz == 0]
    return (multiples or higher or [_AAC_RATES_HZ[-1]])[0]


def _with_channels(samples: np.ndarray, num_channels: int) -> np.ndarray:
    """[C, T] → [num_channels, T]: one channel is the mean; two keep left and right and share the others equally."""
    if len(samples) == num_channels:
        return samples
    if num_channels == 1 or len(samples) < 2:
        return np.repeat(samples.mean(axis=0, keepdims=True), num_channels, axis=0)
    others = samples[2:].sum(axis=0)
    return np.stack([(side + others) / (len(samples) - 1) for side in samples[:2]])
