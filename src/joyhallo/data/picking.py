"""Which sample, which of its frames and which portrait belong to every number of a training run.

A number counts samples over the whole run: the same number gives the same pick, whatever came before and on however many
processes the run is spread.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from joyhallo.data.randomness import stream
from joyhallo.data.samples import Facts
from joyhallo.errors import UserError


@dataclass(frozen=True)
class Drawing:
    """What batches are made of."""

    num_samples: int  # of a step, over all processes
    num_at_once: int  # that a process computes together; gradients of the rest are accumulated
    num_frames: int
    num_past: int  # 0: frames from all over the clip, each a picture of its own
    reference_gap_frames: int = 0  # a portrait taken from the clip lies so far from the frames, where the clip is long enough
    margin_frames: int = 0  # at a clip's end that no frames are taken from
    start: Literal["portrait", "grey"] = "portrait"  # what stands for the past before a video's first clip
    hears: bool = True
    synthetic_share: float | None = None  # of the samples drawn; None: every sample once, then all again in another order
    samples_latents: bool = False  # draw from the autoencoder's distribution, where it has one, and not its mean
    latents: Literal["cached", "live"] = "cached"


@dataclass(frozen=True)
class Pick:
    """One sample of a batch before anything of it is read."""

    number: int
    sample: int  # in the dataset
    portrait: int | None  # a frame; None: the picture that the clip was made from
    past: tuple[int, ...]
    frames: tuple[int, ...]


class Picker:
    """Number → pick, over the samples that may be trained on and are long enough.

    Raises:
        UserError: no sample is left.
    """

    def __init__(self, facts: Sequence[Facts], drawing: Drawing, seed: int) -> None:
        needed = drawing.num_past + (drawing.num_frames if drawing.num_past else 1)
        self.facts, self.drawing, self.seed = facts, drawing, seed
        known = [i for i, fact in enumerate(facts) if not fact.is_held_out]
        self.usable = [i for i in known if facts[i].num_frames >= needed]
        self.num_too_short = len(known) - len(self.usable)
        if not self.usable:
            raise UserError(
                f"no sample to train on: {len(facts)} in the dataset, {len(facts) - len(known)} held out, "
                f"{self.num_too_short} shorter than {needed} frames; prepare more clips, or set drawing.num_frames lower"
            )
        self._pools = [[i for i in self.usable if facts[i].is_synthetic == kind] for kind in (True, False)]
        self._epochs: dict[int, np.ndarray] = {}

    def pick(self, number: int) -> Pick:
        sample = self._sample(number)
        facts, random = self.facts[sample], stream(self.seed, "pick", number)
        choose = choose_clip if self.drawing.num_past else choose_pictures
        portrait, frames = choose(random, facts.num_frames, self.drawing)
        first = frames[0]
        past = tuple(range(first - self.drawing.num_past, first))
        return Pick(number, sample, None if facts.is_synthetic else portrait, past, frames)

    def _sample(self, number: int) -> int:
        share = self.drawing.synthetic_share
        if share is not None and all(self._pools):
            random = stream(self.seed, "order", number)
            pool = self._pools[0 if random.random() < share else 1]
            return pool[int(random.integers(len(pool)))]
        epoch, place = divmod(number, len(self.usable))
        if epoch not in self._epochs:
            self._epochs = {epoch: stream(self.seed, "order", epoch).permutation(len(self.usable))}
        return self.usable[int(self._epochs[epoch][place])]


def choose_clip(random: np.random.Generator, length: int, drawing: Drawing) -> tuple[int, tuple[int, ...]]:
    """A portrait's frame and consecutive frames with their past before them, both from the published range."""
    latest = length - drawing.num_frames
    end = max(min(latest, latest - drawing.margin_frames - 1), drawing.num_past)
    start = int(random.integers(drawing.num_past, end + 1))
    portrait = int(random.integers(drawing.num_past, end + 1))
    return portrait, tuple(range(start, start + drawing.num_frames))


def choose_pictures(random: np.random.Generator, length: int, drawing: Drawing) -> tuple[int, tuple[int, ...]]:
    """A portrait's frame, and frames at a distance from it: after it, else before it, else any."""
    portrait = int(random.integers(length))
    gap = drawing.reference_gap_frames
    candidates = np.arange(portrait + gap, length) if gap else np.arange(length)
    if not len(candidates):
        candidates = np.arange(max(portrait - gap + 1, 0))
    if not len(candidates):
        candidates = np.arange(length)
    frames = random.choice(candidates, drawing.num_frames, replace=len(candidates) < drawing.num_frames)
    return portrait, tuple(int(frame) for frame in frames)
