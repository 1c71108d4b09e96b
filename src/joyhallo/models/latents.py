"""Between pixels and what the denoising network samples.

Axes: N pictures, C channels, H and W the place.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from joyhallo.models.autoencoder import Cells, PatchAutoencoder

LatentForm = Literal["absolute", "residual"]
_CHANGED = 0.25  # standard deviations of the latents: cells that differ less count as the same
_CONTEXT = 2  # cells around those that are decoded, which their pixels depend on
_AT_ONCE = 4  # pictures that are decoded together, to bound the memory


def encode_pixels(vae: nn.Module, pixels: Tensor) -> Tensor:
    """Pixels [N,3,H,W] in [-1,1] → latents [N,C,h,w] (the mean, where the autoencoder has a distribution)."""
    first = next(vae.parameters())
    encoded = vae.encode(pixels.to(first.device, first.dtype))
    return encoded if isinstance(vae, PatchAutoencoder) else encoded.latent_dist.mean


def decode_latents(vae: nn.Module, latents: Tensor, num_at_once: int = _AT_ONCE) -> Tensor:
    """Latents [N,C,h,w] → pixels [N,3,H,W] in [-1,1], float32, a few pictures at a time to bound the memory."""
    dtype = next(vae.parameters()).dtype
    pictures = []
    for part in latents.to(dtype).split(num_at_once):
        pictures.append(decode_unclamped(vae, part).clamp(-1, 1))
    return torch.cat(pictures)


def decode_changes(vae: PatchAutoencoder, latents: Tensor, unchanged: Tensor, still: Tensor, within: Cells) -> Tensor:
    """Latents [N,C,h,w] → pixels [N,3,H,W] in [-1,1], float32; decoded is the rectangle of cells that are not `unchanged`.

    Around it, in pictures without such cells, and everywhere but `within` some cells there is `still` [1,3,H,W], what
    `unchanged` [1,C,h,w] was decoded to.
    """
    pixels = still.repeat(len(latents), 1, 1, 1)
    has_changed = torch.zeros_like(latents[:, 0], dtype=torch.bool)
    has_changed[:, *within] = (latents - unchanged)[..., *within].abs().amax(1) > _CHANGED
    others = has_changed.flatten(1).any(1).nonzero()[:, 0]
    if not len(others):
        return pixels
    height, width = latents.shape[-2:]
    anywhere = has_changed.any(0)
    rows, columns = _extent(anywhere.any(1)), _extent(anywhere.any(0))
    seen_rows, seen_columns = _around(rows, _CONTEXT, height), _around(columns, _CONTEXT, width)
    here = (_from(rows, seen_rows), _from(columns, seen_columns))
    seen = latents[others][..., seen_rows, seen_columns].to(vae.dtype).split(_AT_ONCE)
    decoded = torch.cat([vae.decode_within(part, here).float().clamp(-1, 1) for part in seen])
    factor = vae.downscale_factor
    pixels[others, :, _times(rows, factor), _times(columns, factor)] = decoded
    return pixels


def cells_of(box: np.ndarray, factor: int, latents: Tensor) -> Cells:
    """The cells of latents [...,h,w] that a box [4] (x0, y0, x1, y1) touches, in pixels of which a cell has `factor` a side.

    All of them where the box is not known (NaN).
    """
    if not np.isfinite(box).all():
        return slice(0, latents.shape[-2]), slice(0, latents.shape[-1])
    edges = np.stack([np.floor(box[:2] / factor), np.ceil(box[2:] / factor)], 1)  # of columns and rows
    (left, right), (top, bottom) = (
        np.clip(pair, 0, size).astype(int).tolist()
        for pair, size in zip(edges, (latents.shape[-1], latents.shape[-2]), strict=True)
    )
    return slice(top, bottom), slice(left, right)


def _extent(flags: Tensor) -> slice:
    """From the first to the last that is set."""
    places = flags.nonzero()
    return slice(int(places.min()), int(places.max()) + 1)


def _around(cells: slice, more: int, length: int) -> slice:
    return slice(max(0, cells.start - more), min(length, cells.stop + more))


def _from(cells: slice, first: slice) -> slice:
    """Cells counted from where others begin."""
    return slice(cells.start - first.start, cells.stop - first.start)


def _times(cells: slice, factor: int) -> slice:
    """Cells as pixels."""
    return slice(cells.start * factor, cells.stop * factor)


def decode_unclamped(vae: nn.Module, latents: Tensor) -> Tensor:
    """Latents [N,C,h,w] in the autoencoder's numbers → pixels [N,3,H,W], about [-1,1], float32, all at once."""
    decoded = vae.decode(latents)  # type: ignore[operator]
    return (decoded if isinstance(vae, PatchAutoencoder) else decoded.sample).float()


def to_frames(pixels: Tensor) -> np.ndarray:
    """Pixels [N,3,H,W] in [-1,1] → frames [N,H,W,3] uint8."""
    return (pixels.cpu() * 127.5 + 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def to_pixels(frames: np.ndarray) -> Tensor:
    """Frames [N,H,W,3] uint8 → pixels [N,3,H,W] float32 in [-1,1]."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1


def downscale_factor(vae: nn.Module) -> int:
    """Pixels per latent cell."""
    if isinstance(vae, PatchAutoencoder):
        return vae.downscale_factor
    return 2 ** (len(vae.config["block_out_channels"]) - 1)  # diffusers' AutoencoderKL


@dataclass(frozen=True)
class LatentSpace:
    """What is sampled: the latents themselves, or their difference from the portrait's, scaled to unit variance."""

    form: LatentForm
    scale: float

    def to_sampled(self, latents: Tensor, portrait: Tensor) -> Tensor:
        """Latents of any shape that the portrait's broadcasts to."""
        return (latents - portrait if self.form == "residual" else latents) * self.scale

    def from_sampled(self, sampled: Tensor, portrait: Tensor) -> Tensor:
        latents = sampled / self.scale
        return latents + portrait if self.form == "residual" else latents

    def of_reference(self, latents: Tensor) -> Tensor:
        """How the networks see pictures that are given, not sampled."""
        return latents * self.scale if self.form == "absolute" else latents
