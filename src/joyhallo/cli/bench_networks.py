"""Networks of the published sizes for `joyhallo bench`, where their weights are not there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

    from joyhallo.presets import Preset

_VAE: dict[str, Any] = {  # sd-vae-ft-mse
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}


def draw_networks(preset: Preset, device: torch.device, dtype: torch.dtype) -> dict[str, nn.Module]:
    """The published sizes with random weights: slices of one block of noise, because drawing billions would take long."""
    import torch
    from diffusers import AutoencoderKL
    from torch import nn

    from joyhallo.models.networks import build_networks

    with torch.device("meta"):
        parts: dict[str, Any] = {**build_networks(preset).modules(), "vae": AutoencoderKL(**_VAE)}
    noise = torch.rand(1 << 20, generator=torch.Generator().manual_seed(0)).sub_(0.5).to(device, dtype)
    move: Any = nn.Module.to  # diffusers' own warns of layers to be kept in fp32, also where there are none
    for part in parts.values():
        move(part, dtype=dtype, memory_format=torch.channels_last).to_empty(device=device).eval()
        for tensor in (*part.parameters(), *part.buffers()):
            flat = tensor.detach().as_strided((tensor.numel(),), (1,))
            for start in range(0, len(flat), len(noise)):
                flat[start : start + len(noise)].copy_(noise[: len(flat) - start])
            flat.mul_(3.4 * (tensor[0].numel() ** -0.5 if tensor.ndim > 1 else 0.1))
    return parts
