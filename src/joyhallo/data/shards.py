"""Finished samples → the tars of a dataset, and the index that names them.

A tar is plain POSIX (ustar) with the files of a sample one after the other, samples in the order of their keys, all of them
with the same files: what WebDataset reads. Beside each tar lies a JSON file with the place of every file in it and the facts
of its samples, so that opening a dataset reads no tar. Nothing in them depends on the time or the machine: the same samples
are the same bytes.
"""

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from joyhallo.data.frames import FPS
from joyhallo.data.index import (
    INDEX_NAME,
    VERSION,
    DatasetError,
    Index,
    ShardEntry,
    read_index,
    read_json,
    read_shard,
    write_index,
    write_text,
)  # fmt: skip
from joyhallo.data.samples import FACTS_SUFFIX, OPTIONAL, REQUIRED, Facts, read_facts
from joyhallo.media.files import writing_error, written_whole

MAX_SHARD_BYTES = 1_000_000_000
WORK_NAME = ".work"  # unfinished business

_BLOCK = tarfile.BLOCKSIZE
_COPIED_BYTES = 1 << 20


@dataclass(frozen=True)
class _Sample:
    """A finished sample in a work folder."""

    facts: Facts
    paths: tuple[Path, ...]  # in the order they have in the tar

    @property
    def num_bytes(self) -> int:
        """What it takes in a tar."""
        return sum(_BLOCK + _padded(path.stat().st_size) for path in self.paths)


def pack(
    work_folder: Path,
    dataset_folder: Path,
    max_bytes: float = MAX_SHARD_BYTES,
    *,
    preset: str = "mini",
    is_moved: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Index:
    """Put the finished samples of a folder into the tars of a dataset, after those that are there already.

    Samples whose key the dataset holds are left out, so that a packing that was stopped goes on where it was and gives the
    same tars as one that was not. The index is replaced after every tar: what it names is whole.

    Parameters
    ----------
    work_folder : where `write_sample` put KEY.*; samples without their KEY.json are unfinished and left out.
    dataset_folder : is made when it is not there.
    max_bytes : of a tar; a larger sample has a tar of its own.
    preset : kept in the index; must be that of the samples already there.
    is_moved : remove the files of each sample once the index names it (a dataset needs its space once, not twice).
    progress : called with the samples packed and those to pack.

    Raises
    ------
    DatasetError : no sample at all, samples of several sizes, another preset, disk full, files that cannot be written.
    """
    work_folder, dataset_folder = Path(work_folder), Path(dataset_folder)
    shards = dataset_folder / "shards"
    try:
        shards.mkdir(parents=True, exist_ok=True)
        (dataset_folder / WORK_NAME).mkdir(exist_ok=True)
    except OSError as problem:
        raise writing_error(problem, shards, "dataset", DatasetError) from problem
    with _locked(dataset_folder):
        _sweep(dataset_folder)
        index = read_index(dataset_folder) if (dataset_folder / INDEX_NAME).exists() else None
        packed = {key for entry in index.shards for key in read_shard(dataset_folder, entry).members} if index else set()
        found = list(_finished_samples(work_folder))
        samples = [sample for sample in found if sample.facts.key not in packed]
        index = _checked(index, samples, preset, work_folder)
        num_done = 0
        for part in _parts(samples, max_bytes):
            entry = _write_shard(part, shards, len(index.shards))
            index = _with_shard(index, entry, sum(sample.facts.num_frames for sample in part))
            write_index(dataset_folder, index)
            num_done += len(part)
            if progress:
                progress(num_done, len(samples))
            if is_moved:
                _remove(part)
        if not samples:
            write_index(dataset_folder, index)
        if is_moved:  # what an earlier run packed and could not remove any more
            _remove([sample for sample in found if sample.facts.key in packed])
    return index


def _finished_samples(work_folder: Path) -> Iterator[_Sample]:
    for path in sorted(work_folder.glob(f"*.{FACTS_SUFFIX}"), key=lambda path: path.stem):
        files = {suffix: path.with_suffix(f".{suffix}") for suffix in (*REQUIRED, *OPTIONAL)}
        missing = [files[suffix] for suffix in REQUIRED if not files[suffix].is_file()]
        if missing:
            raise DatasetError(
                f"'{path}' is no sample, '{missing[0].name}' is missing beside it: remove it or prepare it again"
            )
        facts = read_facts(read_json(path), str(path))
        if facts.key != path.stem:
            raise DatasetError(f"'{path}' has the facts of '{facts.key}': remove it and prepare it again")
        yield _Sample(facts, tuple(file for file in files.values() if file.is_file()))


def _checked(index: Index | None, samples: list[_Sample], preset: str, work_folder: Path) -> Index:
    """The index to go on with."""
    sizes = {sample.facts.size_px for sample in samples} | ({index.size_px} if index else set())
    if not sizes:
        raise DatasetError(f"there is no finished sample in '{work_folder}': nothing to make a dataset of")
    if len(sizes) > 1:
        raise DatasetError(
            f"the samples in '{work_folder}' are {' and '.join(map(str, sorted(sizes)))} px large: a dataset has one size; "
            "write them to different datasets"
        )
    if index and index.preset != preset:
        raise DatasetError(
            f"the dataset was made with the preset '{index.preset}' and not '{preset}': name that, or another folder"
        )
    return index or Index(VERSION, preset, FPS, sizes.pop(), 0, 0.0, ())


def _parts(samples: list[_Sample], max_bytes: float) -> Iterator[list[_Sample]]:
    """As many samples at a time as a tar takes, those with a portrait before those without, each in the order of their keys.

    Both kinds are never in one tar: libraries that take the columns from the first samples would refuse it.
    """
    for has_portrait in (True, False):
        part: list[_Sample] = []
        total = 2 * _BLOCK  # the end of a tar
        for sample in samples:
            if (len(sample.paths) > len(REQUIRED)) != has_portrait:
                continue
            if part and total + sample.num_bytes > max_bytes:
                yield part
                part, total = [], 2 * _BLOCK
            part.append(sample)
            total += sample.num_bytes
        if part:
            yield part


def _write_shard(samples: list[_Sample], folder: Path, number: int) -> ShardEntry:
    path = folder / f"{number:06d}.tar"
    members: dict[str, dict[str, tuple[int, int]]] = {}
    with written_whole(path, "shard", DatasetError) as temporary:
        with temporary.open("wb") as file:
            tar = _HashedFile(file)
            for sample in samples:
                members[sample.facts.key] = {source.suffix[1:]: _append(tar, source) for source in sample.paths}
            tar.write(bytes(2 * _BLOCK))
        facts = {sample.facts.key: asdict(sample.facts) for sample in samples}
        # Before the tar gets its name: a tar without this file would be of no use.
        text = json.dumps({"facts": facts, "members": members}, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        write_text(path.with_suffix(".json"), text + "\n")
    return ShardEntry(path.name, len(samples), tar.num_bytes, tar.sha256.hexdigest())


class _HashedFile:
    """Counts and hashes what is written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.num_bytes = 0
        self.sha256 = hashlib.sha256()

    def write(self, content: bytes) -> None:
        self._file.write(content)
        self.sha256.update(content)
        self.num_bytes += len(content)


def _append(tar: _HashedFile, source: Path) -> tuple[int, int]:
    """Add a file; returns where its content is."""
    header = tarfile.TarInfo(source.name)
    header.size, header.mode = source.stat().st_size, 0o644  # owner and time stay zero
    tar.write(header.tobuf(tarfile.USTAR_FORMAT))
    offset = tar.num_bytes
    with source.open("rb") as file:
        while block := file.read(_COPIED_BYTES):
            tar.write(block)
    if tar.num_bytes - offset != header.size:
        raise DatasetError(f"'{source}' changed while it was packed: let nothing else write there, and run it again")
    tar.write(bytes(_padded(header.size) - header.size))
    return offset, header.size


def _padded(num_bytes: int) -> int:
    return -(-num_bytes // _BLOCK) * _BLOCK


def _with_shard(index: Index, entry: ShardEntry, num_frames: int) -> Index:
    hours = (round(index.hours * 3600 * index.fps) + num_frames) / index.fps / 3600
    values = {name: getattr(index, name) for name in ("version", "preset", "fps", "size_px")}
    return Index(**values, num_samples=index.num_samples + entry.num_samples, hours=hours, shards=(*index.shards, entry))


def _sweep(dataset_folder: Path) -> None:
    """Remove what a process that was killed has left half-written."""
    for path in (*(dataset_folder / "shards").glob(".*.partial.*"), *dataset_folder.glob(".index.*.partial.json")):
        path.unlink(missing_ok=True)


def _remove(samples: list[_Sample]) -> None:
    for sample in samples:
        for path in reversed(sample.paths):  # the facts first: without them the rest is unfinished, not broken
            path.unlink(missing_ok=True)


@contextmanager
def _locked(dataset_folder: Path) -> Iterator[None]:
    from filelock import FileLock

    with FileLock(dataset_folder / WORK_NAME / "packing.lock"):
        yield
