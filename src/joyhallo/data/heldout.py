"""Which people and recordings are never trained on. The rules go by names: the same files give everyone the same split."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

NUM_HELD_OUT_VIDEOS = 20
HELD_OUT_SHARE = 0.07  # of people and of recorded syllables
_FEWEST_VIDEOS_PER_HELD_OUT = 10


@dataclass(frozen=True)
class VideoSplit:
    """The videos of a corpus, each in the order of their names."""

    held_out: tuple[Path, ...]
    known: tuple[Path, ...]


def person_of(path: Path) -> str:
    """One name per person: `001_08.jpg` (smiling) and `001_03.jpg` (neutral) of paired folders are the same one.

    Folders whose names share the part before `_` hold the same people; in them the file name counts up to its first `_`.
    """
    group = path.parent.name.split("_")[0]
    is_paired = "_" in path.parent.name
    return f"{group}/{path.stem.split('_')[0] if is_paired else path.stem}"


def is_held_out_person(person: str) -> bool:
    """A fixed share of people, chosen by the hash of the name."""
    return is_held_out(hashlib.sha256(person.encode()).hexdigest(), HELD_OUT_SHARE)


def is_held_out(digest: str, share: float) -> bool:
    """Whether what has that hash, in hexadecimal digits, is never trained on: a fixed share of all."""
    return int(digest[:8], 16) / 2**32 < share


def split_videos(paths: Iterable[Path]) -> VideoSplit:
    """The first twenty in sorted order are held out, of fewer than two hundred a tenth, of a few one, of one none."""
    ordered = tuple(sorted(paths))
    num_held_out = min(NUM_HELD_OUT_VIDEOS, max(len(ordered) // _FEWEST_VIDEOS_PER_HELD_OUT, 1), len(ordered) - 1)
    return VideoSplit(ordered[: max(0, num_held_out)], ordered[max(0, num_held_out) :])
