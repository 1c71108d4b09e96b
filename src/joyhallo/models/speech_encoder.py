"""The small speech encoder of `mini`: a waveform to features per video frame, through log-mel bands and convolutions."""

import math

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional

from joyhallo.errors import UserError
from joyhallo.models.tables import table

SAMPLE_RATE_HZ = 16_000
SAMPLES_PER_FRAME = 640  # 25 frames a second
NUM_AROUND = 5  # frames in the windows of features that are looked at together
_HOP = 160  # 100 mel columns a second
_WINDOW = 400
_FFT = 512


def mel_filters(num_bands: int, lowest_hz: float = 60.0, highest_hz: float = 7600.0) -> Tensor:
    """Triangular filters [bands, FFT bins], evenly spaced on the mel scale (O'Shaughnessy's formula), peak 1."""
    lowest, highest = (2595 * math.log10(1 + hz / 700) for hz in (lowest_hz, highest_hz))
    # Not torch.linspace: transformers exchanges it while it loads a model, and threads that load together can leave it so.
    mels = lowest + (highest - lowest) / (num_bands + 1) * torch.arange(num_bands + 2, dtype=torch.float64)
    edges = 700 * (10 ** (mels / 2595) - 1)
    bins = torch.arange(_FFT // 2 + 1, dtype=torch.float64) * SAMPLE_RATE_HZ / _FFT
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp_min(0).float()


class _TimeBlock(nn.Module):
    """Residual: normalisation over channels, a convolution over time, a mixing of channels."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.conv = nn.Conv1d(channels, channels, kernel, padding=kernel // 2, groups=4)
        self.mix = nn.Conv1d(channels, channels, 1)
        self.mix.weight.data.mul_(0.5)

    def forward(self, hidden: Tensor) -> Tensor:
        normed = self.norm(hidden.transpose(1, 2)).transpose(1, 2)
        return hidden + self.mix(functional.silu(self.conv(normed)))


class MelSpeechNetwork(ModelMixin, ConfigMixin):
    """Waveforms [B, T] at 16 kHz of zero mean and unit variance → features [B, S, blocks, channels], S = T/640 video frames.

    Block 0 hears about ±100 ms around a frame, the last block ±200 ms; outside `context_frames` video frames on either side
    nothing reaches a frame, and beyond the ends of the waveform there is silence. With `hears_shut_lips` it also tells from the
    features whether lips are shut.
    """

    @register_to_config
    def __init__(
        self,
        num_bands: int = 80,
        channels: int = 128,
        num_blocks: int = 2,
        num_fine_blocks: int = 2,
        hears_shut_lips: bool = False,
    ) -> None:
        super().__init__()
        self.register_buffer("filters", table(lambda: mel_filters(num_bands)))
        self.register_buffer("window", table(lambda: torch.hann_window(_WINDOW)))
        # Whole-corpus statistics of the log-mel bands; set before training.
        self.register_buffer("band_mean", torch.zeros(num_bands))
        self.register_buffer("band_std", torch.ones(num_bands))
        self.input = nn.Conv1d(num_bands, channels, 3, padding=1)
        # 100 Hz to 25 Hz; the window of 8 columns is centred on the video frame.
        self.to_frames = nn.Conv1d(channels, channels, 8, stride=4, padding=2)
        self.fine = nn.Sequential(*(_TimeBlock(channels, 3) for _ in range(num_fine_blocks)))
        self.blocks = nn.ModuleList(_TimeBlock(channels, 3) for _ in range(num_blocks))
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(num_blocks))
        if hears_shut_lips:
            wide = num_blocks * channels * NUM_AROUND
            self.shut = nn.Sequential(nn.Dropout(0.1), nn.Linear(wide, 32), nn.SiLU(), nn.Dropout(0.1), nn.Linear(32, 1))

    @property
    def context_frames(self) -> int:
        """How many video frames around a frame its features depend on, on either side."""
        # The convolutions before the blocks reach with the STFT window into both neighbours; every block adds one frame.
        return 2 + self.config.num_blocks

    def shut_logits(self, windows: Tensor) -> Tensor:
        """Windows of features [..., 5, blocks, channels], two frames on either side → log-odds that lips are shut [...].

        Only with `hears_shut_lips`.
        """
        return self.shut(windows.flatten(-3).to(self.input.weight.dtype))[..., 0].float()

    def log_mel(self, waveform: Tensor) -> Tensor:
        """Waveforms [B, T] → log-mel [B, bands, T/160], column i centred on (i + 0.5)·10 ms, in float32."""
        waveform = waveform.float()
        left = _FFT // 2 - _HOP // 2
        padded = functional.pad(waveform, (left, _FFT - _HOP - left))
        spectrum = torch.stft(padded, _FFT, _HOP, _WINDOW, self.window.float(), center=False, return_complex=True)
        return torch.log(self.filters.float() @ spectrum.abs().square() + 1e-3)

    def _frames_of(self, hidden: Tensor) -> Tensor:
        """`to_frames` in float32: in bf16 on CPUs with AMX PyTorch 2.13 gets it wrong by its own size for 8 to 24 channels."""
        conv = self.to_frames
        bias = None if conv.bias is None else conv.bias.float()
        with torch.autocast(hidden.device.type, enabled=False):
            frames = functional.conv1d(hidden.float(), conv.weight.float(), bias, conv.stride, conv.padding)
        return frames.to(hidden.dtype)

    def forward(self, waveform: Tensor) -> Tensor:
        """See the class. Raises UserError when T is not a multiple of 640."""
        if waveform.shape[-1] % SAMPLES_PER_FRAME or not waveform.shape[-1]:
            given = f"speech of {waveform.shape[-1]} samples"
            raise UserError(f"{given}: a multiple of {SAMPLES_PER_FRAME} is needed, add zeros at its end")
        mel = (self.log_mel(waveform) - self.band_mean.float()[:, None]) / self.band_std.float()[:, None]
        hidden = functional.silu(self.input(mel.to(self.input.weight.dtype)))
        hidden = functional.silu(self._frames_of(self.fine(hidden)))
        layers = []
        for block, norm in zip(self.blocks, self.norms, strict=True):
            hidden = block(hidden)
            layers.append(norm(hidden.transpose(1, 2)))
        return torch.stack(layers, 2)
