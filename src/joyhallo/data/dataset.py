"""A dataset on disk, any sample and any frame of it at once: tars are read in place and never unpacked.

Axes: F frames, S pixels of a side, n frames asked for.
"""

import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from joyhallo.data.frames import FilePart, read_clip_frames
from joyhallo.data.index import DatasetError, Index, ShardEntry, read_index, read_shard
from joyhallo.data.samples import Annotations, Facts, read_annotations


@dataclass(frozen=True)
class ShardPlace:
    """A tar, and which samples of a `Dataset` it holds: `first` and those after it."""

    folder: Path  # of the dataset
    entry: ShardEntry
    first: int

    @property
    def path(self) -> Path:
        """Of the tar."""
        return self.folder / "shards" / self.entry.name


class Dataset:
    """The samples of one dataset or of several. Nothing stays open: it may be copied into other processes at any time.

    `index`: what the dataset is; of several, their sum. `facts`: one for each sample, in the order of tars and keys.
    """

    def __init__(self, folder: str | Path) -> None:
        """Reads the index and the lists beside the tars, not the tars.

        Raises DatasetError when the folder is no dataset, or its files are not as the index says.
        """
        self.index: Index = read_index(Path(folder))
        self.facts: list[Facts] = []
        self.shards: list[ShardPlace] = []
        self._members: list[dict[str, tuple[int, int]]] = []
        self._shard_of: list[int] = []
        for number, entry in enumerate(self.index.shards):
            shard = read_shard(Path(folder), entry)
            self.shards.append(ShardPlace(Path(folder), entry, len(self.facts)))
            self.facts += shard.facts
            self._members += shard.members.values()
            self._shard_of += [number] * len(shard.facts)

    def __len__(self) -> int:
        return len(self.facts)

    def annotations(self, i: int) -> Annotations:
        """What was measured in sample `i`. Raises DatasetError or SampleError when the tar is damaged."""
        return read_annotations(self._read(i, "safetensors"), self._name(i, "safetensors"))

    def frames(self, i: int, indices: Sequence[int]) -> np.ndarray:
        """Frames of sample `i` by number: [n, S, S, 3] uint8, in the order asked for.

        Raises IndexError for numbers that are not in 0..F-1; DatasetError or VideoError when the tar is damaged.
        """
        num_frames = self.facts[i].num_frames
        beyond = [index for index in indices if not 0 <= index < num_frames]
        if beyond:
            raise IndexError(f"the clip '{self.facts[i].key}' has {num_frames} frames, frame {beyond[0]} was asked for")
        with self._open(i, "mp4") as part:
            return read_clip_frames(part, indices, self._name(i, "mp4"))

    def portrait(self, i: int) -> np.ndarray | None:
        """The picture that a synthetic clip was made from, its lips closed, [S, S, 3] uint8; None for filmed clips."""
        if not self.has_portrait(i):
            return None
        try:
            with Image.open(io.BytesIO(self._read(i, "png")), formats=["PNG"]) as picture:
                return np.array(picture.convert("RGB"))
        except (OSError, SyntaxError, ValueError) as problem:
            raise DatasetError(f"'{self._name(i, 'png')}' is no whole picture: prepare this sample again") from problem

    def has_portrait(self, i: int) -> bool:
        """Whether `portrait` would give one; reads nothing."""
        return "png" in self._members[i]

    def folder_of(self, i: int) -> Path:
        """The folder of the dataset that sample `i` is in."""
        return self.shards[self._shard_of[i]].folder

    def content(self, i: int, suffix: str) -> bytes:
        """The bytes of one file of sample `i`, such as its mp4."""
        return self._read(i, suffix)

    def _read(self, i: int, suffix: str) -> bytes:
        with self._open(i, suffix) as part:
            return part.read()

    def _open(self, i: int, suffix: str) -> FilePart:
        """A file of a sample, after a look at its header in the tar: a list that belongs to another tar is noticed."""
        place = self.shards[self._shard_of[i]]
        offset, num_bytes = self._members[i][suffix]
        wanted = f"{self.facts[i].key}.{suffix}"
        try:
            with FilePart(place.path, offset - tarfile.BLOCKSIZE, tarfile.BLOCKSIZE) as part:
                header = tarfile.TarInfo.frombuf(part.read(), "utf-8", "strict")
            if header.name != wanted or header.size != num_bytes:
                raise DatasetError(self._mismatch(i, suffix))
            return FilePart(place.path, offset, num_bytes)
        except (tarfile.TarError, UnicodeDecodeError) as problem:
            raise DatasetError(self._mismatch(i, suffix)) from problem
        except OSError as problem:
            raise DatasetError(f"'{place.path}' cannot be read ({problem.strerror}): check the disk") from problem

    def _mismatch(self, i: int, suffix: str) -> str:
        path = self.shards[self._shard_of[i]].path
        return (
            f"'{path}' does not hold '{self.facts[i].key}.{suffix}' where its list says: copy the dataset again, or prepare "
            "it again"
        )

    def _name(self, i: int, suffix: str) -> str:
        return f"{self.shards[self._shard_of[i]].path}/{self.facts[i].key}.{suffix}"


def open_datasets(folders: Sequence[str | Path]) -> Dataset:
    """Several datasets as one, in the order given; their samples keep their keys.

    Raises
    ------
    DatasetError : none given, one that is no dataset, or frames of different sizes.
    """
    if not folders:
        raise DatasetError("no dataset was given: name one folder at least")
    joined, *others = [Dataset(folder) for folder in folders]
    for other in others:
        if other.index.size_px != joined.index.size_px:
            raise DatasetError(
                f"the dataset '{other.shards[0].folder if other.shards else '?'}' has frames of {other.index.size_px} px and "
                f"'{folders[0]}' of {joined.index.size_px} px: train on datasets of one size"
            )
        joined.shards += [ShardPlace(s.folder, s.entry, s.first + len(joined.facts)) for s in other.shards]
        joined._shard_of += [number + len(joined.shards) - len(other.shards) for number in other._shard_of]
        joined.facts += other.facts
        joined._members += other._members
        joined.index = _sum(joined.index, other.index)
    return joined


def _sum(one: Index, other: Index) -> Index:
    return Index(
        version=one.version,
        preset=one.preset if one.preset == other.preset else "mixed",
        fps=one.fps,
        size_px=one.size_px,
        num_samples=one.num_samples + other.num_samples,
        hours=one.hours + other.hours,
        shards=(*one.shards, *other.shards),
    )
