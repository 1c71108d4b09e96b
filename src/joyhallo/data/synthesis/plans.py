"""What `data synth` is asked to make, and which clips that is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from joyhallo.data.synthesis import mandarin
from joyhallo.data.synthesis.canonical import check_bundle
from joyhallo.data.synthesis.stills import Still
from joyhallo.data.synthesis.studio import ClipPlan, Source
from joyhallo.errors import UserError


@dataclass(frozen=True)
class SynthesisRequest:
    """What to make."""

    portraits: tuple[Path, ...]  # folders of pictures
    videos: tuple[Path, ...]  # folders of talking clips, or datasets
    output: Path
    face_models: Path  # the `.task` bundle
    syllables: Path | None = None  # a folder of recordings like niu4.opus: every other clip is then Mandarin
    words: Path | None = None  # and one of recordings like 苹果.opus
    espeak_share: float = 0.2  # of the Mandarin clips that espeak-ng speaks
    num_takes: int | None = None  # clips of every portrait
    num_clips: int | None = None  # or so many in all
    size_px: int = 256
    num_frames: int = 48
    head_share: float = 1.0  # of the head's movement
    opening: float = 1.0  # of the lips, against the films'
    num_videos: int = 400  # that movement is taken from, at most
    num_workers: int = 1
    seed: int = 0

    @property
    def is_mandarin(self) -> bool:
        """Whether any clip is."""
        return self.syllables is not None or self.words is not None


def plan_clips(request: SynthesisRequest, stills: Sequence[Still]) -> list[ClipPlan]:
    """Which clips to make; more takes or clips only add to fewer of them."""
    if not stills:
        return []
    if request.num_clips is None:
        turns = [(number, take) for take in range(request.num_takes or 1) for number in range(len(stills))]
    else:  # spread over all portraits, in an order of its own
        order = np.random.default_rng(request.seed).permutation(len(stills))
        turns = [(int(order[clip % len(order)]), clip // len(order)) for clip in range(request.num_clips)]
    plans = []
    for number, take in turns:
        source = _source(request, number + take)
        plans.append(ClipPlan(f"{stills[number].name}-{source}-{take:03d}", stills[number], source))
    return plans


def _source(request: SynthesisRequest, turn: int) -> Source:
    """Every other clip is Mandarin where there are recordings, and of these every so many is spoken by espeak-ng."""
    if not request.is_mandarin or turn % 2 == 0:
        return Source.FILM
    before, after = (math.floor(count * request.espeak_share) for count in (turn // 2, turn // 2 + 1))
    if after > before:
        return Source.ESPEAK
    return Source.SYLLABLES if request.words is None else Source.WORDS


def check(request: SynthesisRequest) -> None:
    """Refuse what cannot be made, before any work. Raises UserError."""
    if not 64 <= request.size_px <= 2048 or request.size_px % 16:
        raise UserError(f"frames of {request.size_px} px: use a multiple of 16 from 64 to 2048, such as 256")
    if request.num_frames < 24:
        raise UserError(f"clips of {request.num_frames} frames: training needs 24 at least (48 are 2 seconds)")
    for name, number in (("takes", request.num_takes), ("clips", request.num_clips), ("workers", request.num_workers)):
        if number is not None and number < 1:
            raise UserError(f"--{name} {number}: give 1 or more")
    if not 0 <= request.head_share <= 2:
        raise UserError(f"--head {request.head_share:g}: give a share from 0, heads that stay where they are, to 2")
    if not 0.5 <= request.opening <= 2:
        raise UserError(f"--opening {request.opening:g}: give a factor from 0.5 to 2")
    if request.num_takes is not None and request.num_clips is not None:
        raise UserError("--takes and --clips were both given: one is per portrait, the other is the sum; give one")
    if request.syllables is not None and not all(mandarin.read_syllables(request.syllables).values()):
        raise UserError(f"too few recorded syllables in '{request.syllables}': give a folder of a hundred files like niu4.opus")
    if request.words is not None and not all(mandarin.read_words(request.words)[0].values()):
        raise UserError(f"too few recorded words in '{request.words}': give a folder of a hundred files like 苹果.opus")
    if not 0 <= request.espeak_share <= 1:
        raise UserError(f"--espeak {request.espeak_share:g}: give a share of the Mandarin clips from 0 to 1")
    check_bundle(request.face_models)
