"""Training of the small autoencoder of `mini`, in two phases.

1. Everything, on reconstruction alone: differences of brightness, colour and gradients at three scales.
2. The encoder frozen (latents already computed stay valid), the decoder sharpened with a small patch discriminator and the
   matching of its features.
"""

import argparse
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from joyhallo.data.pixels import prefer_channels_last, to_network
from joyhallo.errors import run_as_command
from joyhallo.models.autoencoder import PatchAutoencoder
from joyhallo.models.patch_discriminator import PatchDiscriminator, hinge_loss
from joyhallo.training.budget import Average, Budget
from joyhallo.training.muon import Optimizers
from joyhallo.training.pictures import FaceData, read_face_data
from joyhallo.training.visible import visible_difference

logger = logging.getLogger(__name__)
_SAVE_EVERY_S = 120.0
_DOUBT = 0.06  # weight of what the discriminator says, in phase 2
_CELL_PX = 16  # of a picture, for a cell of the latents
_LATENT_NOISE = 0.1  # a little makes the decoder forgive the denoiser's errors


@dataclass(frozen=True)
class Look:
    """What batches show."""

    side: float = 1 / 2  # of cut-outs, against the pictures'
    mouths: float = 1 / 2  # share of the cut-outs that lie around a mouth
    portraits: float = 1 / 2  # share of the pictures that are portraits, not frames


_MOUTHS_FIRST = Look(side=3 / 8, mouths=0.8, portraits=0.25)


class Batches:
    """Random pictures: three batches of cut-outs, then one of whole faces."""

    def __init__(self, data: FaceData, seed: int, look: Look) -> None:
        self._data, self._look = data, look
        self._random = np.random.default_rng(seed)

    def _face(self) -> tuple[np.ndarray, np.ndarray]:
        """A picture [S, S, 3] and where its mouth is (row, column); half of the time mirrored."""
        random, size = self._random, self._data.size_px
        pictures = self._data.portraits if random.random() < self._look.portraits else self._data.frames
        number = int(random.integers(len(pictures)))
        picture, mouth = pictures.images[number], pictures.mouths[number]
        if random.random() < 0.5:
            side = int(random.integers(round(0.85 * size), size + 1))
            top, left = (int(value) for value in random.integers(0, size - side + 1, 2))
            picture = cv2.resize(picture[top : top + side, left : left + side], (size, size), interpolation=cv2.INTER_CUBIC)
            mouth = (mouth - [top, left]) * size / side
        if random.random() < 0.5:
            return picture[:, ::-1], np.array([mouth[0], size - mouth[1]])
        return picture, mouth

    def _cut_out(self) -> np.ndarray:
        random, size = self._random, self._data.size_px
        side = _CELL_PX * round(self._look.side * size / _CELL_PX)
        picture, mouth = self._face()
        if random.random() < self._look.mouths:
            corner = mouth + random.normal(size=2) * 0.12 * side - side / 2
            top, left = (int(value) for value in np.clip(corner, 0, size - side))
        else:
            top, left = (int(value) for value in random.integers(0, size - side + 1, 2))
        return picture[top : top + side, left : left + side]

    def __iter__(self) -> Iterator[Tensor]:
        index = 0
        while True:
            is_whole = index % 4 == 3
            pictures = [self._face()[0] for _ in range(4)] if is_whole else [self._cut_out() for _ in range(16)]
            images = to_network(np.stack(pictures))
            shape = (len(images), 3, 1, 1)
            gain, shift = self._random.normal(1, 0.05, shape), self._random.normal(0, 0.05, shape)
            yield (images * torch.from_numpy(gain).float() + torch.from_numpy(shift).float()).clamp_(-1, 1)
            index += 1


def psnr(decoded: Tensor, images: Tensor) -> float:
    """Mean over the batch of the peak signal-to-noise ratio of images in [-1, 1], dB."""
    return (10 * torch.log10(4 / (decoded - images).square().mean((1, 2, 3)))).mean().item()


@torch.no_grad()
def measure(network: PatchAutoencoder, data: FaceData) -> dict[str, float]:
    """PSNR (dB) and sharpness of the mouth (share of the true local contrast) on held-out portraits and video frames."""
    results = {}
    for name, pictures in (("portraits", data.held_out_portraits), ("frames", data.held_out_frames)):
        images = to_network(pictures.images)
        decoded = torch.cat([network(part) for part in images.split(8)]).clamp(-1, 1)
        mouths, contrasts = [], []
        for number, (row, column) in enumerate(pictures.mouths):
            reach = max(8, round(0.75 * float(pictures.widths[number])))
            top, left = (max(0, round(float(middle)) - reach) for middle in (row, column))
            pair = [
                batch[number : number + 1, :, top : top + 2 * reach, left : left + 2 * reach] for batch in (decoded, images)
            ]
            mouths.append(psnr(*pair))
            contrasts.append([(x - functional.avg_pool2d(x, 5, 1, 2)).abs().mean().item() for x in pair])
        contrast = np.mean(contrasts, 0)
        results[f"{name}_db"] = psnr(decoded, images)
        results[f"{name}_mouth_db"] = float(np.mean(mouths))
        results[f"{name}_mouth_sharpness"] = float(contrast[0] / contrast[1])
    return results


@torch.no_grad()
def follow_latents(network: PatchAutoencoder, images: Tensor, momentum: float = 0.01) -> None:
    """Move the normalisation of the latents a little towards a batch's mean and variance.

    The batch's own statistics would not do for normalising it: they differ too much between a few pictures, and the decoder
    would have to guess the colours.
    """
    latents = network.encoder(images) + network.patch_encoder(images)
    mean, variance = network.latent_norm.running_mean, network.latent_norm.running_var
    assert mean is not None  # this normalisation keeps both
    assert variance is not None
    mean.lerp_(latents.mean((0, 2, 3)), momentum)
    variance.lerp_(latents.var((0, 2, 3)), momentum)


def save(network: PatchAutoencoder, data: FaceData, folder: Path) -> None:
    """Write the network and log its measures."""
    network.save_pretrained(folder)
    logger.info("%s %s", folder.name, " ".join(f"{name} {value:.3f}" for name, value in measure(network, data).items()))


def train_reconstruction(data: FaceData, folder: Path, minutes: float) -> PatchAutoencoder:
    """Phase 1: train everything; write the averaged network to the folder now and then and at the end."""
    torch.manual_seed(0)
    network = PatchAutoencoder().eval()
    known = [pictures.images[:: max(1, len(pictures) // 250)] for pictures in (data.portraits, data.frames)]
    network.set_patch_basis(to_network(np.concatenate(known)))
    prefer_channels_last(network)
    # The principal components stay: a step of any ordinary length on a map of 768 inputs throws the latents off.
    network.patch_encoder.requires_grad_(False)
    average = Average(network)
    optimizers = Optimizers(network, 0.01, 5e-4, adam_only=("patch_",))
    budget = Budget(minutes, warmup_steps=30, report_every_s=_SAVE_EVERY_S)
    for step, images in zip(budget, Batches(data, 0, Look()), strict=False):
        follow_latents(network, images)
        latents = network.encode(images)
        loss = visible_difference(network.decode(latents + _LATENT_NOISE * torch.randn_like(latents)), images).mean()
        optimizers.step(loss, budget.factor)
        average.update(network)
        if budget.is_report_due():
            with budget.paused():
                logger.info("step %d, %.0f %% of the time, loss %.4f", step, 100 * budget.fraction, loss.item())
                save(average.network, data, folder)
    save(average.network, data, folder)
    return average.network


def tune_decoder(
    network: PatchAutoencoder, data: FaceData, folder: Path, minutes: float, is_short: bool = False
) -> PatchAutoencoder:
    """Phase 2: the encoder stays, the decoder learns sharpness from a discriminator; `is_short`: products in bf16."""
    torch.manual_seed(1)
    prefer_channels_last(network)
    network.requires_grad_(True).eval()
    for part in (network.encoder, network.patch_encoder):
        part.requires_grad_(False)
    average = Average(network)
    optimizers = Optimizers(network, 0.01, 5e-4, adam_only=("patch_",))
    discriminator = PatchDiscriminator((32, 64, 128), judge_side=3)
    prefer_channels_last(discriminator)
    judge = torch.optim.AdamW(discriminator.parameters(), 5e-4, betas=(0.5, 0.9))
    budget = Budget(minutes, warmup_steps=50, report_every_s=_SAVE_EVERY_S)
    for _, images in zip(budget, Batches(data, 1, _MOUTHS_FIRST), strict=False):
        with torch.autocast("cpu", torch.bfloat16, enabled=is_short):
            with torch.no_grad():
                latents = network.encode(images)
                real = discriminator.features(images)
            decoded = network.decode(latents + _LATENT_NOISE * torch.randn_like(latents))
            fake = discriminator.features(decoded)
            matching = torch.stack([(mine - true).abs().mean() for mine, true in zip(fake[:-1], real[:-1], strict=True)]).sum()
            weight = _DOUBT * min(1.0, budget.fraction / 0.1 + 0.01)
            seen = visible_difference(decoded.float(), images).mean()
        optimizers.step(seen + 0.3 * matching - weight * fake[-1].mean(), budget.factor)
        with torch.autocast("cpu", torch.bfloat16, enabled=is_short):
            doubt = hinge_loss(discriminator(images), discriminator(decoded.detach()))
        judge.zero_grad()
        doubt.backward()
        judge.step()
        average.update(network)
        if budget.is_report_due():
            with budget.paused():
                save(average.network, data, folder)
    save(average.network, data, folder)
    return average.network


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="datasets of `joyhallo data synth` and `prepare`")
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--decoder-minutes", type=float, default=8)
    parser.add_argument("--decoder-of", type=Path, help="skip the first phase: tune the decoder of this network")
    parser.add_argument("--bf16", action="store_true", help="tune the decoder in bf16, where the processor has it")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(1)
    data = read_face_data(arguments.data)
    if arguments.decoder_of:
        network = PatchAutoencoder.from_pretrained(arguments.decoder_of)
    else:
        network = train_reconstruction(data, arguments.output, arguments.minutes)
    if arguments.decoder_minutes:
        tune_decoder(network, data, arguments.output, arguments.decoder_minutes, arguments.bf16)


if __name__ == "__main__":
    run_as_command(main)
