"""The voice without the music behind it: the MDX-Net separation that the published preprocessing runs first.

The network (Kim_Vocal_2, MIT) sees 5.9 seconds of a stereo spectrogram and returns that of the voice. Its constants are those
of the public model list. Pieces overlap by a quarter and are blended with Hann weights, so that memory does not grow with the
length of the recording. One step is left out: the public tool first lowers recordings whose peak is above 0.9.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from joyhallo.errors import UserError
from joyhallo.media.audio import check_length, decode_sound

SAMPLE_RATE_HZ = 44100
FFT_SIZE = 7680
HOP = 1024
NUM_BINS = 3072  # of the 3841: the network hears up to 17.6 kHz
NUM_STEPS = 256
NUM_MUTED_BINS = 3  # below 15 Hz the published separation passes nothing
COMPENSATION = 1.009  # the network's voice is a little too quiet
MARGIN = FFT_SIZE // 2  # beside the ends of a piece the spectrogram holds reflected sound
PIECE = HOP * (NUM_STEPS - 1)
STEP = PIECE * 3 // 4

SpectrogramNetwork = Callable[[np.ndarray], np.ndarray]  # [1, 4, NUM_BINS, NUM_STEPS] → the same shape, float32


class VocalSeparator:
    """Takes the voice out of a recording."""

    def __init__(self, model: Path | str | SpectrogramNetwork) -> None:
        """`model`: the file Kim_Vocal_2.onnx, or anything callable from spectrogram to spectrogram of the voice.

        Raises UserError when onnxruntime or the file is missing, or the file is no such network.
        """
        self._network = _load(Path(model)) if isinstance(model, (str, Path)) else model
        self._window = torch.hann_window(FFT_SIZE)

    def stream_vocals(self, path: Path | str, sample_rate_hz: int = 16000) -> Iterator[np.ndarray]:
        """The voice in a sound file as mono blocks [T] float32 at `sample_rate_hz`.

        Raises AudioError as `stream_speech` does.
        """
        import soxr

        resampler = soxr.ResampleStream(SAMPLE_RATE_HZ, sample_rate_hz, 1, dtype="float32")
        num_samples = 0
        for block in self.separate(_stereo_blocks(path)):
            num_samples += block.shape[1]
            check_length(path, num_samples / SAMPLE_RATE_HZ, is_whole=False)
            yield resampler.resample_chunk(block.mean(axis=0, dtype=np.float32))
        check_length(path, num_samples / SAMPLE_RATE_HZ, is_whole=True)
        yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)

    def separate(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The voice in stereo sound at 44.1 kHz, given and returned as blocks [2, T] float32; as many samples in all."""
        weights = np.hanning(PIECE + 2)[1:-1]  # without the two zeros: every sample keeps a weight
        waiting = np.zeros((2, MARGIN), np.float32)  # sound not yet stepped over; first the silence before the recording
        blended, total = np.zeros((2, PIECE)), np.zeros(PIECE)
        num_given = num_returned = 0
        num_skipped = MARGIN
        for block in _with_end(blocks):
            if block is not None:
                num_given += block.shape[1]
                waiting = np.concatenate([waiting, block.astype(np.float32, copy=False)], axis=1)
            while waiting.shape[1] >= PIECE or (block is None and num_returned < num_given):
                piece = np.pad(waiting[:, :PIECE], ((0, 0), (0, max(0, PIECE - waiting.shape[1]))))
                blended += self._separate_piece(piece) * weights
                total += weights
                ready = (blended[:, :STEP] / total[:STEP])[:, num_skipped:]
                num_skipped = 0
                ready = ready[:, : num_given - num_returned]
                num_returned += ready.shape[1]
                yield ready.astype(np.float32)
                waiting = waiting[:, STEP:]
                blended = np.pad(blended[:, STEP:], ((0, 0), (0, STEP)))
                total = np.pad(total[STEP:], (0, STEP))

    def _separate_piece(self, piece: np.ndarray) -> np.ndarray:
        """The voice in one piece [2, PIECE]."""
        spectrum = self._to_network(torch.from_numpy(np.ascontiguousarray(piece)))
        voice = np.asarray(self._network(spectrum.numpy()), dtype=np.float32)
        return self._to_sound(torch.from_numpy(voice)).numpy() * COMPENSATION

    def _to_network(self, sound: Tensor) -> Tensor:
        """[2, PIECE] → [1, 4, NUM_BINS, NUM_STEPS]: left real, left imaginary, right real, right imaginary."""
        spectrum = torch.stft(sound, FFT_SIZE, HOP, window=self._window, center=True, return_complex=True)[:, :NUM_BINS]
        spectrum[:, :NUM_MUTED_BINS] = 0
        return torch.view_as_real(spectrum).permute(0, 3, 1, 2).reshape(1, 4, NUM_BINS, NUM_STEPS)

    def _to_sound(self, spectrum: Tensor) -> Tensor:
        """The way back; the bins that the network does not hear are silent."""
        parts = spectrum.reshape(2, 2, NUM_BINS, NUM_STEPS).permute(0, 2, 3, 1).contiguous()
        full = functional.pad(torch.view_as_complex(parts), (0, 0, 0, FFT_SIZE // 2 + 1 - NUM_BINS))
        return torch.istft(full, FFT_SIZE, HOP, window=self._window, center=True, length=PIECE)


def _with_end(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray | None]:
    """The blocks, then None."""
    yield from blocks
    yield None


def _stereo_blocks(path: Path | str) -> Iterator[np.ndarray]:
    """A file's sound as [2, T] blocks at 44.1 kHz; one channel goes to both sides, of several the first two count."""
    import soxr

    resampler, rate = None, 0
    for block in decode_sound(path):
        if resampler is None or block.sample_rate_hz != rate:  # a joined recording may change its rate half-way
            if resampler is not None:
                yield resampler.resample_chunk(np.zeros((0, 2), np.float32), last=True).T
            rate = block.sample_rate_hz
            resampler = soxr.ResampleStream(rate, SAMPLE_RATE_HZ, 2, dtype="float32")
        sides = block.samples[[0, min(1, len(block.samples) - 1)]]
        yield resampler.resample_chunk(np.ascontiguousarray(sides.T)).T
    if resampler is not None:
        yield resampler.resample_chunk(np.zeros((0, 2), np.float32), last=True).T


def _load(path: Path) -> SpectrogramNetwork:
    """The network in an onnx file, on an accelerator where onnxruntime has one."""
    try:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as problems  # pyright: ignore[reportAttributeAccessIssue]
    except ImportError as error:
        raise UserError("vocal separation needs onnxruntime: pip install 'joyhallo[vocals]', or go on without") from error
    if not path.is_file():
        raise UserError(f"no vocal separation model at {path}: fetch Kim_Vocal_2.onnx, or go on without separation")
    wanted = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
    broken = (problems.Fail, problems.InvalidProtobuf, problems.InvalidGraph, problems.InvalidArgument)
    try:
        session: Any = onnxruntime.InferenceSession(str(path), providers=providers)
    except broken as error:
        raise UserError(f"{path} is not a readable onnx model: fetch Kim_Vocal_2.onnx again") from error
    given = session.get_inputs()[0]
    if list(given.shape[1:]) != [4, NUM_BINS, NUM_STEPS]:
        raise UserError(f"{path} takes {given.shape}, not [1, 4, {NUM_BINS}, {NUM_STEPS}]: give Kim_Vocal_2.onnx")
    return lambda spectrum: session.run(None, {given.name: spectrum})[0]
