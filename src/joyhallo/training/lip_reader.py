"""A small network that reads where the lips are in a decoded mouth, so that training can hold lips to their places.

Differences of pixels hardly notice that the corners of a mouth, or the upper lip, are a pixel too far; people do. The reader is
trained once, on the decoded mouths of a dataset; finished pictures show lips where it reads them.

Axes: N pictures, P lip points, h and w the latent place.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from joyhallo.conditioning.anatomy import LIP_POINTS
from joyhallo.data.batches import mask_depths
from joyhallo.data.dataset import Dataset, open_datasets
from joyhallo.data.latents import LatentCache
from joyhallo.data.pixels import prefer_channels_last
from joyhallo.device import all_cores
from joyhallo.errors import run_as_command
from joyhallo.models.latents import decode_latents, downscale_factor
from joyhallo.models.lip_reader import LipReader
from joyhallo.training.budget import Average, Budget
from joyhallo.training.mouth import window, window_place
from joyhallo.training.muon import Optimizers
from joyhallo.weights.hub import bundled_folder
from joyhallo.weights.pipeline_folder import load_component

logger = logging.getLogger(__name__)
_FRAMES_OF_A_CLIP, _MOST_CLIPS, _BATCH = 8, 2000, 48
_STEADY_PX = 1.0  # added to how far a point moves: points that hardly move are not worth more than that


class DecodedMouths:
    """Mouths of a dataset as its autoencoder shows them, with the places of their lips."""

    def __init__(self, dataset: Dataset, cache: LatentCache, vae: nn.Module, seed: int = 0) -> None:
        """Decodes a few frames of every clip, of 2,000 clips at most; `is_held_out` [N] tells those of held-out people."""
        random = np.random.default_rng(seed)
        pixels = downscale_factor(vae)
        side = dataset.index.size_px // pixels
        pictures, places, moved, held = [], [], [], []
        for i in np.sort(random.permutation(len(dataset.facts))[:_MOST_CLIPS]).tolist():
            facts = dataset.facts[i]
            annotations = dataset.annotations(i)
            points = annotations.points[:, list(LIP_POINTS), :2].astype(np.float32)
            if not np.isfinite(points).all():
                continue
            chosen = np.sort(random.choice(len(points), min(_FRAMES_OF_A_CLIP, len(points)), replace=False))
            lip = mask_depths(annotations.masks, (side, side), 1)[0][0][None]  # [1,1,h,w]
            latents = cache.frames(i, chosen.tolist())
            top, left = window_place(lip[0, 0], (side, side))
            cut = window(latents.transpose(0, 1)[None], lip)[0].transpose(0, 1)
            pictures.append((decode_latents(vae, cut) * 127.5 + 127.5).round().to(torch.uint8))
            middle = (np.array([left, top]) + cut.shape[-1] / 2) * pixels
            places.append((points[chosen] - middle).reshape(len(chosen), -1))
            moved.append(points.std(0).reshape(-1))
            held += [facts.is_held_out] * len(chosen)
        self.pictures, self.places = torch.cat(pictures), torch.from_numpy(np.concatenate(places))
        self.units = torch.from_numpy(np.mean(moved, 0)) + _STEADY_PX
        self.is_held_out = torch.tensor(held)


def train_lip_reader(mouths: DecodedMouths, minutes: float) -> LipReader:
    """Train on the people who are not held out; says how far the others' lips are misread, in units."""
    torch.manual_seed(0)
    reader = LipReader(len(LIP_POINTS), mouths.pictures.shape[-1])
    reader.units.copy_(mouths.units)
    prefer_channels_last(reader)
    average, optimizers = Average(reader), Optimizers(reader, 0.01, 1e-3)
    known = torch.nonzero(~mouths.is_held_out)[:, 0]
    budget = Budget(minutes, warmup_steps=50, report_every_s=12 * minutes)
    for step in budget:
        chosen = known[torch.randint(len(known), (_BATCH,))]
        pictures = changed(mouths.pictures[chosen].float() / 127.5 - 1)
        loss = functional.smooth_l1_loss(reader(pictures), mouths.places[chosen] / mouths.units)
        optimizers.step(loss, budget.factor)
        average.update(reader)
        if budget.is_report_due():
            logger.info("step %d loss %.4f, held-out people %.3f units", step, loss.item(), misread(average.network, mouths))
    logger.info("final: held-out people %.3f units", misread(average.network, mouths))
    return average.network


def changed(pictures: Tensor) -> Tensor:
    """Mouths [N,3,S,S] in other light, blurred and with noise: what is sampled is not as sharp as what is decoded."""
    count = len(pictures)
    light = 1 + 0.15 * torch.randn(count, 1, 1, 1), 0.1 * torch.randn(count, 3, 1, 1)
    pictures = pictures * light[0] + light[1]
    soft = functional.avg_pool2d(pictures, 3, stride=1, padding=1)
    pictures = torch.lerp(pictures, soft, torch.rand(count, 1, 1, 1))
    return pictures + 0.05 * torch.rand(count, 1, 1, 1) * torch.randn_like(pictures)


@torch.no_grad()
def misread(reader: LipReader, mouths: DecodedMouths) -> float:
    """Mean distance of read and true coordinates of held-out people, in units."""
    chosen = torch.nonzero(mouths.is_held_out)[:512, 0]
    read = reader(mouths.pictures[chosen].float() / 127.5 - 1)
    return float((read - mouths.places[chosen] / mouths.units).abs().mean())


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="datasets of `joyhallo data synth` and `prepare`")
    parser.add_argument("--vae", type=Path, default=bundled_folder("mini") / "vae", help="the autoencoder's folder")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    dataset = open_datasets(given.data)
    vae = load_component(given.vae, "PatchAutoencoder", torch.float32)
    with all_cores():
        latents = LatentCache.encode_dataset(dataset, vae)
    mouths = DecodedMouths(dataset, latents, vae)
    train_lip_reader(mouths, given.minutes).save_pretrained(given.output)


if __name__ == "__main__":
    run_as_command(main)
