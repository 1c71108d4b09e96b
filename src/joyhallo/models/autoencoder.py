"""The small autoencoder of `mini`: RGB pictures to latents of a 16th of their size and back.

A linear map of whole 16×16 patches (set to their principal components before training) runs beside the convolutions on both
sides, so that colours and coarse shapes are right from the first step and the convolutions learn only what is left.
"""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional

from joyhallo.errors import UserError

Cells = tuple[slice, slice]  # rows and columns of latents
_BORDER_PX = 3  # of every resolution, around what is wanted of latents: convolutions look farther, at little


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions beside an identity; the second one starts small, so that a deep stack starts near the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.bias)
        self.conv2.weight.data.mul_(0.3)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.conv2(functional.silu(self.conv1(functional.silu(hidden)), inplace=True)).add_(hidden)


class Upsample(nn.Module):
    """Twice the height and width: 1×1 convolution, pixel shuffle, 3×3 convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(in_channels, 4 * out_channels, 1)
        self.smooth = nn.Conv2d(out_channels, out_channels, 3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.smooth(functional.pixel_shuffle(self.expand(hidden), 2))


def _encoder(widths: tuple[int, ...], num_blocks: tuple[int, ...], latent_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.PixelUnshuffle(2), nn.Conv2d(12, widths[0], 3, padding=1)]
    for level, (width, count) in enumerate(zip(widths, num_blocks, strict=True)):
        if level:
            layers.append(nn.Conv2d(widths[level - 1], width, 3, stride=2, padding=1))
        layers.extend(ResidualBlock(width) for _ in range(count))
    last = nn.Conv2d(widths[-1], latent_channels, 3, padding=1)
    last.weight.data.mul_(0.2)  # the patch shortcut leads at first
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)


def _decoder(widths: tuple[int, ...], num_blocks: tuple[int, ...], latent_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(latent_channels, widths[-1], 3, padding=1)]
    for level in reversed(range(len(widths))):
        layers.extend(ResidualBlock(widths[level]) for _ in range(num_blocks[level]))
        if level:
            layers.append(Upsample(widths[level], widths[level - 1]))
    last = nn.Conv2d(widths[0], 12, 3, padding=1)
    last.weight.data.mul_(0.05)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, nn.SiLU(), last, nn.PixelShuffle(2))


def _trimmed(hidden: Tensor, around: list[int], most: int) -> tuple[Tensor, list[int]]:
    """Of [B, C, H, W] the middle with `most` places around it, and how many there are.

    Around the middle were `around`: above it, below, to its left and right.
    """
    kept = [min(count, most) for count in around]
    above, below, left, right = (count - some for count, some in zip(around, kept, strict=True))
    height, width = hidden.shape[2:]
    part = hidden[..., above : height - below, left : width - right]
    return part.contiguous(memory_format=torch.channels_last), kept


class PatchAutoencoder(ModelMixin, ConfigMixin):
    """Pictures [B, 3, H, W] in [-1, 1] ↔ latents [B, C, H/16, W/16] of zero mean and unit variance per channel.

    The mean and variance are buffers (`latent_norm`), followed during training and fixed afterwards. Convolutional throughout:
    any height and width divisible by `downscale_factor` will do.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 16,
        widths: tuple[int, ...] = (32, 64, 128, 160),
        num_encoder_blocks: tuple[int, ...] = (1, 1, 2, 2),
        num_decoder_blocks: tuple[int, ...] = (1, 2, 3, 3),
    ) -> None:
        super().__init__()
        self.downscale_factor = 2 ** len(widths)
        patch = self.downscale_factor
        self.encoder = _encoder(tuple(widths), tuple(num_encoder_blocks), latent_channels)
        self.patch_encoder = nn.Conv2d(3, latent_channels, patch, stride=patch)
        self.latent_norm = nn.BatchNorm2d(latent_channels, affine=False, momentum=0.02)
        self.decoder = _decoder(tuple(widths), tuple(num_decoder_blocks), latent_channels)
        self.patch_decoder = nn.ConvTranspose2d(latent_channels, 3, patch, stride=patch)

    def encode(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [-1, 1] → latents [B, C, H/16, W/16]. Raises UserError for other sizes."""
        height, width = images.shape[-2:]
        factor = self.downscale_factor
        if height % factor or width % factor:
            raise UserError(
                f"picture of {height}x{width} (height x width): both must be divisible by {factor}; resize it first"
            )
        # One layout whatever the caller's: each has its own kernels, and a run that goes on from a file must round alike.
        images = images.contiguous(memory_format=torch.channels_last)
        return self.latent_norm(self.encoder(images) + self.patch_encoder(images))

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, C, H, W] → images [B, 3, 16·H, 16·W], about [-1, 1], not clamped."""
        pictures = self.decoder(latents.contiguous(memory_format=torch.channels_last))
        return pictures.add_(self.decode_patches(latents))

    def decode_within(self, latents: Tensor, cells: Cells) -> Tensor:
        """The pixels of some cells of latents [B, C, H, W], as `decode` gives them: what is around is left out on the way.

        Of the other cells three pixels are kept at every resolution, so those of the border differ a little.
        """
        rows, columns = cells
        around = [rows.start, latents.shape[2] - rows.stop, columns.start, latents.shape[3] - columns.stop]
        hidden = latents.contiguous(memory_format=torch.channels_last)
        for layer in self.decoder:
            hidden = layer(hidden)
            if isinstance(layer, (Upsample, nn.PixelShuffle)):
                border = 0 if isinstance(layer, nn.PixelShuffle) else _BORDER_PX
                hidden, around = _trimmed(hidden, [2 * count for count in around], border)
        return hidden.add_(self.decode_patches(latents[..., *cells]))

    def decode_patches(self, latents: Tensor) -> Tensor:
        """What `patch_decoder` makes of latents [B, C, H, W], as one matrix product: [B, 3, 16·H, 16·W], channels_last."""
        patch = self.downscale_factor
        weight = self.patch_decoder.weight.permute(2, 3, 1, 0).flatten(0, 2)  # [16·16·3, C]
        bias = self.patch_decoder.bias
        assert bias is not None
        patches = functional.linear(latents.permute(0, 2, 3, 1), weight, bias.repeat(patch * patch))
        patches = patches.unflatten(-1, (patch, patch, 3)).transpose(2, 3)  # [B, H, 16, W, 16, 3]
        return patches.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.decode(self.encode(images))

    @torch.no_grad()
    def set_patch_basis(self, images: Tensor) -> None:
        """Set the linear shortcut to the principal components of the patches of images [B, 3, H, W]."""
        patch = self.downscale_factor
        channels = self.config.latent_channels
        patches = functional.unfold(images, patch, stride=patch).transpose(1, 2).reshape(-1, 3 * patch * patch)
        mean = patches.mean(0)
        values, vectors = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
        basis, scale = vectors[:, -channels:], values[-channels:].clamp_min(1e-8).sqrt()
        self.patch_encoder.weight.copy_((basis / scale).T.reshape(channels, 3, patch, patch))
        self.patch_encoder.bias.copy_(-(basis / scale).T @ mean)
        self.patch_decoder.weight.copy_((basis * scale).T.reshape(channels, 3, patch, patch))
        self.patch_decoder.bias.copy_(mean.reshape(3, -1).mean(1))
