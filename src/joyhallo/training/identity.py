"""Training of the face recogniser of `mini`: two changed pictures of one person belong together (InfoNCE).

Pictures of one person: the portraits of synthetic clips in their different light, frames of those clips, frames of films.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from joyhallo.conditioning.identity import ALIGNED_SIZE, align_face
from joyhallo.data.dataset import open_datasets
from joyhallo.data.pixels import prefer_channels_last, to_network
from joyhallo.errors import UserError, run_as_command
from joyhallo.models.identity_encoder import IdentityNetwork
from joyhallo.training.budget import Average, Budget
from joyhallo.training.muon import Optimizers

logger = logging.getLogger(__name__)
_SIZE, _NUM_PEOPLE = ALIGNED_SIZE, 64
_EVERY_FRAME = 9


class People:
    """Aligned faces [112, 112, 3] per person, divided into training and held-out people."""

    def __init__(self, folders: Sequence[Path]) -> None:
        """Read datasets. Raises UserError when there are fewer than two people to train on, or none is held out."""
        self.known: dict[str, list[np.ndarray]] = {}
        self.held_out: dict[str, list[np.ndarray]] = {}  # one face of every source: its own frames would be too easy to find
        dataset = open_datasets(folders)
        seen: set[str] = set()
        for i, facts in enumerate(dataset.facts):
            points = dataset.annotations(i).points
            if not np.isfinite(points).all():
                continue
            portrait = dataset.portrait(i)
            group = self.held_out if facts.is_held_out else self.known
            faces = group.setdefault(facts.speaker, [])
            frames = [0] if facts.is_held_out else list(range(min(4, len(points) - 1), len(points), _EVERY_FRAME))
            if facts.source not in seen or not facts.is_held_out:
                if portrait is not None:  # the median frame is near it
                    faces.append(align_face(portrait, np.median(points, 0)))
                if portrait is None or not facts.is_held_out:
                    shown = dataset.frames(i, frames)
                    faces += [align_face(frame, points[number]) for frame, number in zip(shown, frames, strict=True)]
            seen.add(facts.source)
        if len(self.known) < 2 or not self.held_out:
            raise UserError(
                f"{len(self.known)} known and {len(self.held_out)} held-out people are in {', '.join(map(str, folders))}: "
                "two and one are the least to learn from; give more datasets"
            )


def change(face: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """An aligned face [112, 112, 3] uint8 seen a little differently: place, light, colour, sharpness, a covered patch.

    Returns float32 in [-1, 1], the channels first: [3, 112, 112].
    """
    centre = _SIZE / 2
    matrix = cv2.getRotationMatrix2D((centre, centre), random.normal(0, 3), float(np.exp(random.normal(0, 0.05))))
    matrix[:, 2] += random.normal(0, 2.0, 2)
    face = cv2.warpAffine(face, matrix, (_SIZE, _SIZE), borderMode=cv2.BORDER_REPLICATE)
    if random.random() < 0.5:
        face = face[:, ::-1]
    if random.random() < 0.5:
        side = int(random.integers(40, _SIZE))
        face = cv2.resize(cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA), (_SIZE, _SIZE))
    changed = face.astype(np.float32) / 255
    changed = changed ** np.exp(random.normal(0, 0.25)) * np.exp(random.normal(0, 0.12, 3)) * np.exp(random.normal(0, 0.15))
    slope = np.linspace(-1, 1, _SIZE)[:, None, None] * random.normal(0, 0.1)
    slope = slope + np.linspace(-1, 1, _SIZE)[None, :, None] * random.normal(0, 0.1)
    grey = changed.mean(2, keepdims=True)
    changed = grey + (changed - grey) * np.exp(random.normal(0, 0.3))
    changed = changed + slope + random.normal(0, 0.02, changed.shape)
    if random.random() < 0.3:
        top, left = random.integers(0, _SIZE - 30, 2)
        changed[top : top + 30, left : left + 30] = random.random(3)
    return np.clip(changed * 2 - 1, -1, 1).astype(np.float32).transpose(2, 0, 1)


def contrast(first: Tensor, second: Tensor, temperature: float = 0.1) -> Tensor:
    """InfoNCE of two views [B, E], both ways."""
    first, second = functional.normalize(first, dim=-1), functional.normalize(second, dim=-1)
    similarity = first @ second.T / temperature
    labels = torch.arange(len(first), device=first.device)
    return (functional.cross_entropy(similarity, labels) + functional.cross_entropy(similarity.T, labels)) / 2


@torch.no_grad()
def retrieval(network: IdentityNetwork, people: People) -> dict[str, float]:
    """Share of held-out pictures whose nearest other picture shows the same person: among the held-out ones, among all.

    Not a number where no held-out person has two pictures.
    """
    names = [name for name, faces in people.held_out.items() for _ in faces]
    held = network(to_network(np.stack([face for faces in people.held_out.values() for face in faces])))
    others = network(to_network(np.stack([faces[0] for faces in people.known.values()])))
    labels = np.unique(names, return_inverse=True)[1]
    has_pair = np.array([names.count(name) > 1 for name in names])
    results = {}
    for title, gallery in (("held-out", held), ("all", torch.cat([held, others]))):
        similarity = held @ gallery.T
        similarity[torch.arange(len(held)), torch.arange(len(held))] = -torch.inf
        nearest = similarity.argmax(1).numpy()
        found = np.append(labels, np.full(len(others), -1))[nearest]
        results[title] = float((found == labels)[has_pair].mean()) if has_pair.any() else float("nan")
    return results


def train_identity(people: People, minutes: float) -> IdentityNetwork:
    """Train on the known people; batches of two pictures of each of 64 people at most."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    network = IdentityNetwork()
    prefer_channels_last(network)
    average = Average(network)
    optimizers = Optimizers(network, 0.01, 1e-3)
    names = list(people.known)
    budget = Budget(minutes, warmup_steps=30, report_every_s=6 * minutes)
    for step in budget:
        chosen = random.choice(len(names), min(_NUM_PEOPLE, len(names)), replace=False)
        views: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        for index in chosen:
            faces = people.known[names[index]]
            for view in views:
                view.append(change(faces[random.integers(len(faces))], random))
        pictures = torch.from_numpy(np.stack(views[0] + views[1])).contiguous(memory_format=torch.channels_last)
        loss = contrast(*network(pictures).chunk(2))
        optimizers.step(loss, budget.factor)
        average.update(network)
        if budget.is_report_due():
            logger.info("step %d loss %.3f retrieval %s", step, loss.item(), retrieval(average.network, people))
    logger.info("final: retrieval %s", retrieval(average.network, people))
    return average.network


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="datasets of `joyhallo data synth` and `prepare`")
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    train_identity(People(arguments.data), arguments.minutes).save_pretrained(arguments.output)


if __name__ == "__main__":
    run_as_command(main)
