"""From a recording to speech features: for every video frame a window over the layers of a speech encoder.

Axes: T samples at 16 kHz, F video frames, S all video frames of the padded track, C channels.
"""

import math
import tempfile
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from joyhallo.errors import UserError
from joyhallo.media.audio import stream_speech
from joyhallo.models.speech_encoder import NUM_AROUND

if TYPE_CHECKING:
    from transformers import Wav2Vec2Model

    from joyhallo.conditioning.vocals import VocalSeparator

SAMPLE_RATE_HZ = 16000
WINDOW_RADIUS = NUM_AROUND // 2  # frames on either side: five in all
SILENCE_DBFS = -60.0
NORM_EPSILON = 1e-7  # of the published feature extractor
SPOOL_BYTES = 64 * 2**20  # longer recordings wait on disk
NUM_CACHED_CHUNKS = 2  # a window can lie over the border of two


class SpeechEncoder(Protocol):
    """What turns normalised speech into features."""

    num_blocks: int  # layers kept for every frame
    channels: int
    chunk_s: float  # up to this long, a recording is encoded as a whole
    context_s: float  # what a longer one's chunks hear on either side of what they are kept for

    def encode(self, waveform: Tensor, num_frames: int) -> Tensor:
        """Features [num_frames, blocks, C] float32 of `waveform` [T], which may end within the last frame."""
        ...

    def shut_logits(self, windows: Tensor) -> Tensor | None:
        """Log-odds [F] float32 that lips are shut, from windows of features [F, 5, blocks, C]; None: it cannot tell."""
        ...


class SpeechFeatures:
    """The features of one recording, encoded when they are asked for; see `prepare_speech`."""

    def __init__(self, recording: "_Recording", encoder: SpeechEncoder, fps: int, clip_length: int) -> None:
        if fps < 1 or SAMPLE_RATE_HZ % fps:
            raise ValueError(f"{fps} fps: a frame must be a whole number of samples at {SAMPLE_RATE_HZ} Hz")
        self._recording, self._encoder = recording, encoder
        self._samples_per_frame = SAMPLE_RATE_HZ // fps
        self.num_blocks, self.channels = encoder.num_blocks, encoder.channels
        # Whole numbers: the published float expression gives one frame too many for some exact multiples of a frame.
        self.num_frames = -(-recording.num_samples // self._samples_per_frame)  # that the recording lasts
        missing = -self.num_frames % clip_length
        self.num_padded_frames = self.num_frames + missing  # S, a whole number of clips
        self._num_samples = recording.num_samples + missing * self._samples_per_frame
        whole = self._num_samples <= encoder.chunk_s * SAMPLE_RATE_HZ
        self._chunk_frames = self.num_padded_frames if whole else max(1, round(encoder.chunk_s * fps))
        self._context_frames = 0 if whole else math.ceil(encoder.context_s * fps)
        self._chunks: OrderedDict[int, Tensor] = OrderedDict()
        self._levels_db: np.ndarray | None = None

    @property
    def level_dbfs(self) -> float:
        """Root mean square of the recording against full scale, in decibels."""
        power = self._recording.mean_square
        return 10 * math.log10(power) if power > 0 else -math.inf

    @property
    def is_silent(self) -> bool:
        """Whether the recording is too quiet to hold speech: nothing useful would move the lips."""
        return self.level_dbfs < SILENCE_DBFS

    def levels_db(self) -> np.ndarray:
        """How loud the normalised recording is in every frame, [num_frames]; the last one may end within its frame."""
        if self._levels_db is None:
            starts = range(0, self.num_frames * self._samples_per_frame, self._samples_per_frame)
            frames = (self._recording.read(at, at + self._samples_per_frame) for at in starts)
            self._levels_db = levels_db(np.array([np.square(samples).mean() for samples in frames]))
        return self._levels_db

    def shut_logits(self) -> np.ndarray | None:
        """Log-odds that lips are shut, for every frame [num_frames]; None where the encoder does not tell."""
        told = []
        for start in range(0, self.num_frames, self._chunk_frames):
            part = self._encoder.shut_logits(self.window(start, min(self._chunk_frames, self.num_frames - start)))
            if part is None:
                return None
            told.append(part)
        return torch.cat(told).numpy()

    def window(self, start: int, num_frames: int) -> Tensor:
        """Features of frames `start` to `start + num_frames` and their neighbours: [F, 5, blocks, C] float32.

        Row i holds the frames i-2 … i+2, clamped to the padded track as a whole: windows reach over the borders of clips.
        """
        frames = torch.arange(start, start + num_frames)[:, None] + torch.arange(-WINDOW_RADIUS, WINDOW_RADIUS + 1)
        frames = frames.clamp(0, self.num_padded_frames - 1)
        first, last = int(frames.min()), int(frames.max())
        pieces = []
        for index in range(first // self._chunk_frames, last // self._chunk_frames + 1):
            begin = index * self._chunk_frames
            pieces.append(self._chunk(index)[max(first - begin, 0) : last + 1 - begin])
        return torch.cat(pieces)[frames - first]

    def _chunk(self, index: int) -> Tensor:
        """Features [≤ chunk frames, blocks, C] of one chunk."""
        if index in self._chunks:
            self._chunks.move_to_end(index)
            return self._chunks[index]
        begin = index * self._chunk_frames
        end = min(begin + self._chunk_frames, self.num_padded_frames)
        heard_begin = max(begin - self._context_frames, 0)
        heard_end = min(end + self._context_frames, self.num_padded_frames)
        waveform = self._recording.read(
            heard_begin * self._samples_per_frame, min(heard_end * self._samples_per_frame, self._num_samples)
        )
        features = self._encoder.encode(torch.from_numpy(waveform), heard_end - heard_begin)
        features = features[begin - heard_begin : end - heard_begin].clone()
        self._chunks[index] = features
        while len(self._chunks) > NUM_CACHED_CHUNKS:
            self._chunks.popitem(last=False)
        return features


def levels_db(power: np.ndarray) -> np.ndarray:
    """Decibels of a mean square; nothing at all is -100."""
    return 10 * np.log10(power + 1e-10)


def prepare_speech(
    speech: Path | str | np.ndarray | Tensor,
    encoder: SpeechEncoder,
    *,
    fps: int = 25,
    clip_length: int = 16,
    separator: "VocalSeparator | None" = None,
) -> SpeechFeatures:
    """Speech features of a file, or of a waveform [T] at 16 kHz.

    As published: 16 kHz mono, zero mean and unit variance over the whole recording, then zeros up to a whole number of clips,
    then the encoder. Up to `encoder.chunk_s` the encoder hears the whole recording at once, as published; a longer one in
    chunks that overlap by `encoder.context_s` on either side, so that memory does not grow with its length. `separator`
    takes the voice out of a file first. Raises UserError when the recording cannot be read or is digital silence.
    """
    if isinstance(speech, (str, Path)):
        blocks = stream_speech(speech, SAMPLE_RATE_HZ) if separator is None else separator.stream_vocals(speech, SAMPLE_RATE_HZ)
        name = str(speech)
    else:
        if separator is not None:
            raise UserError("a vocal separator needs the recording's file, not a waveform: give its path, or no separator")
        waveform = np.asarray(speech, dtype=np.float32)
        if waveform.ndim != 1 or not len(waveform) or not np.isfinite(waveform).all():
            raise UserError(f"a waveform must be finite samples [T] at {SAMPLE_RATE_HZ} Hz, got {list(waveform.shape)}")
        blocks, name = [waveform], "the waveform"
    recording = _Recording(blocks)
    if recording.variance == 0:
        raise UserError(f"{name} is silent from end to end: give a recording with speech in it")
    return SpeechFeatures(recording, encoder, fps, clip_length)


class _Recording:
    """A mono recording that can be read anywhere, normalised; on disk when it is long, and gone with this object."""

    def __init__(self, blocks: Iterable[np.ndarray]) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115
        self.num_samples = 0
        total = torch.zeros((), dtype=torch.float64)
        squares = torch.zeros((), dtype=torch.float64)
        for block in blocks:
            samples = np.ascontiguousarray(block, dtype=np.float32)
            exact = torch.from_numpy(samples).double()
            total += exact.sum()
            squares += exact.square().sum()
            self.num_samples += len(samples)
            try:
                self._file.write(samples.tobytes())
            except OSError as error:
                raise UserError(f"the speech does not fit into the temporary folder ({error}): free some space") from error
        count = max(self.num_samples, 1)
        self.mean_square = float(squares) / count
        mean = float(total) / count
        # Rounding leaves the variance of a constant a hair above or below zero.
        variance = self.mean_square - mean**2
        self.variance = variance if variance > 1e-12 * self.mean_square else 0.0
        self._mean, self._scale = np.float64(mean), 1 / math.sqrt(self.variance + NORM_EPSILON)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Normalised samples [stop - start] float32; zeros after the end, which were never normalised."""
        inside = max(0, min(stop, self.num_samples) - start)
        self._file.seek(4 * start)
        samples = np.frombuffer(self._file.read(4 * inside), dtype=np.float32)
        normalised = ((samples - self._mean) * self._scale).astype(np.float32)
        return np.pad(normalised, (0, stop - start - inside))


class Wav2Vec2Speech:
    """A wav2vec2 network of transformers, its convolutional features brought to the video's frame rate.

    `features`: "all" gives the output of every layer, "last" only the final one. The network normalises over all it hears and
    attends to all of it, so features of a recording beyond `chunk_s` differ slightly from those of one pass; there, frames
    also lie exactly on every second convolutional step, where one pass stretches the steps over the recording.
    """

    def __init__(
        self,
        model: "Wav2Vec2Model",
        features: Literal["all", "last"] = "all",
        *,
        chunk_s: float = 60.0,
        context_s: float = 5.0,
    ) -> None:
        if features not in ("all", "last"):
            raise UserError(f"speech features '{features}': choose 'all' or 'last'")
        if getattr(model, "adapter", None) is not None:
            raise UserError("this wav2vec2 has an adapter, which changes the frame rate: use one without")
        self._model = model.eval()  # layers are dropped at random in training
        self._only_last = features == "last"
        self.num_blocks = 1 if self._only_last else int(model.config.num_hidden_layers)
        self.channels = int(model.config.hidden_size)
        self.chunk_s, self.context_s = chunk_s, context_s

    def encode(self, waveform: Tensor, num_frames: int) -> Tensor:
        """Features [num_frames, blocks, C] float32 on the CPU of a normalised `waveform` [T]: hidden_states[1:]."""
        parameter = next(self._model.parameters())
        with torch.no_grad():
            steps = self._model.feature_extractor(waveform[None].to(parameter.device, parameter.dtype))  # [1, C', steps]
            if steps.shape[-1] != num_frames:
                steps = functional.interpolate(steps, size=num_frames, mode="linear", align_corners=True)
            hidden, _ = self._model.feature_projection(steps.transpose(1, 2))
            layers = self._run_layers(hidden)
        kept = layers[-1:] if self._only_last else layers
        return torch.stack(kept, dim=1)[0].transpose(0, 1).float().cpu()

    def shut_logits(self, windows: Tensor) -> Tensor | None:
        """None: these networks were not trained for it."""

    def _run_layers(self, hidden: Tensor) -> list[Tensor]:
        """The outputs [1, S, C] of all layers; run one by one because not every transformers hands them out."""
        encoder = self._model.encoder
        is_stable = bool(self._model.config.do_stable_layer_norm)  # then the normalisation comes after the layers
        hidden = hidden + encoder.pos_conv_embed(hidden)
        if not is_stable:
            hidden = encoder.layer_norm(hidden)
        layers = []
        for layer in encoder.layers:
            output = layer(hidden, attention_mask=None)
            hidden = output[0] if isinstance(output, tuple) else output
            layers.append(hidden)
        if is_stable:
            layers[-1] = encoder.layer_norm(layers[-1])
        return layers


class MelSpeech:
    """The bundled mini's own speech encoder; chunks are exact because its view is bounded."""

    def __init__(self, network: Any, *, chunk_s: float = 20.0) -> None:  # noqa: ANN401
        """`network`: `MelSpeechNetwork`, [B, T] → [B, T / 640, blocks, C], with `context_frames`."""
        self._network = network.eval()
        self._samples_per_frame = 640
        self.chunk_s = chunk_s
        self.context_s = int(network.context_frames) * self._samples_per_frame / SAMPLE_RATE_HZ
        self.num_blocks, self.channels = self.encode(torch.zeros(self._samples_per_frame), 1).shape[1:]

    def encode(self, waveform: Tensor, num_frames: int) -> Tensor:
        """Features [num_frames, blocks, C] float32 on the CPU of a normalised `waveform` [T], continued with zeros."""
        parameter = next(self._network.parameters())
        waveform = functional.pad(waveform, (0, num_frames * self._samples_per_frame - len(waveform)))
        with torch.no_grad():
            return self._network(waveform[None].to(parameter.device))[0].float().cpu()

    def shut_logits(self, windows: Tensor) -> Tensor | None:
        """See `SpeechEncoder`."""
        if not self._network.config["hears_shut_lips"]:
            return None
        with torch.no_grad():
            return self._network.shut_logits(windows.to(next(self._network.parameters()).device)).cpu()
