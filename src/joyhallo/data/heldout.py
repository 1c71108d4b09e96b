"""Which people and clips are never trained on. The rules go by file names: the same files give everyone the same split."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

NUM_HELD_OUT_VIDEOS = 20


def person_of(path: Path) -> str:
    """One name per person: `001_08.jpg` (smiling) and `001_03.jpg` (neutral) of paired folders are the same one.

    Folders whose names share the part before `_` hold the same people; in them the file name counts up to its first `_`.
    """
    group = path.parent.name.split("_")[0]
    is_paired = "_" in path.parent.name
    return f"{group}/{path.stem.split('_')[0] if is_paired else path.stem}"


def is_held_out_person(person: str, share: float = 0.07) -> bool:
    """A fixed share of people, chosen by the hash of the name."""
    return int(hashlib.sha256(person.encode()).hexdigest()[:8], 16) / 2**32 < share


def held_out_videos(paths: Sequence[Path]) -> frozenset[str]:
    """The names (without suffix) of the first twenty videos in sorted order."""
    return frozenset(path.stem for path in sorted(paths)[:NUM_HELD_OUT_VIDEOS])
