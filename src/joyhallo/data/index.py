"""What a dataset says of itself: index.json, and beside each tar a JSON file with the places and facts of its samples."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from joyhallo.data.frames import FPS
from joyhallo.data.samples import REQUIRED, Facts, SampleError, read_facts
from joyhallo.errors import UserError
from joyhallo.media.files import written_whole

VERSION = 1
INDEX_NAME = "index.json"


class DatasetError(UserError):
    """A dataset that cannot be read or written; the message says why and what to do."""


@dataclass(frozen=True)
class ShardEntry:
    """One tar of a dataset."""

    name: str  # "000000.tar", in the folder `shards`
    num_samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Index:
    """What index.json says of a dataset."""

    version: int
    preset: str
    fps: int
    size_px: int
    num_samples: int
    hours: float
    shards: tuple[ShardEntry, ...]


@dataclass(frozen=True)
class Shard:
    """What the JSON file beside a tar says: {key: {suffix: (offset, bytes)}}, and the facts in the same order."""

    members: dict[str, dict[str, tuple[int, int]]]
    facts: tuple[Facts, ...]


def read_index(dataset_folder: Path) -> Index:
    """Raises DatasetError when the folder is no dataset, or of a newer kind."""
    path = Path(dataset_folder) / INDEX_NAME
    hint = "give a folder made by `joyhallo data prepare`, `synth` or `import`"
    if not Path(dataset_folder).is_dir():
        raise DatasetError(f"there is no dataset '{dataset_folder}': {hint}")
    if not path.is_file():
        raise DatasetError(f"'{dataset_folder}' is not a finished dataset (no {INDEX_NAME} in it): {hint}")
    values = cast("dict[str, Any]", read_json(path))
    try:
        shards = tuple(ShardEntry(**entry) for entry in values.pop("shards"))
        index = Index(**values, shards=shards)
    except (TypeError, KeyError, AttributeError) as problem:
        raise DatasetError(f"'{path}' is not the index of a dataset of ours: {hint}") from problem
    if index.version != VERSION or index.fps != FPS:
        raise DatasetError(
            f"the dataset '{dataset_folder}' is of version {index.version} at {index.fps} fps, this program reads version "
            f"{VERSION} at {FPS} fps: use the program that made it, or prepare it again"
        )
    if sum(entry.num_samples for entry in index.shards) != index.num_samples:
        raise DatasetError(f"'{path}' contradicts itself in the number of samples: prepare the dataset again")
    return index


def read_shard(dataset_folder: Path, entry: ShardEntry) -> Shard:
    """What a tar holds; the tar itself is only measured. Raises DatasetError when it is not as the index says."""
    tar = Path(dataset_folder) / "shards" / entry.name
    again = "copy the dataset again, or prepare it again"
    if not tar.is_file():
        raise DatasetError(f"'{tar}' is missing, though the index names it: {again}")
    if tar.stat().st_size != entry.bytes:
        raise DatasetError(f"'{tar}' has {tar.stat().st_size} bytes and not the {entry.bytes} of the index: {again}")
    path = tar.with_suffix(".json")
    if not path.is_file():
        raise DatasetError(f"'{path}' is missing, without which its tar cannot be used: {again}")
    values = cast("dict[str, Any]", read_json(path))
    mismatch = f"'{path}' does not match its tar and the index: {again}"
    try:
        members = {
            key: {suffix: (int(place[0]), int(place[1])) for suffix, place in files.items()}
            for key, files in values["members"].items()
        }
        facts = tuple(read_facts(values["facts"][key], str(path)) for key in members)
    except (TypeError, KeyError, AttributeError, IndexError, ValueError) as problem:
        raise problem if isinstance(problem, SampleError) else DatasetError(mismatch) from problem
    ends = [offset + size for files in members.values() for offset, size in files.values()]
    is_whole = all(set(REQUIRED) <= set(files) for files in members.values())
    if len(members) != entry.num_samples or not is_whole or max(ends, default=0) > entry.bytes:
        raise DatasetError(mismatch)
    return Shard(members, facts)


def write_index(dataset_folder: Path, index: Index) -> None:
    """Replace index.json, whole or not at all."""
    write_text(Path(dataset_folder) / INDEX_NAME, json.dumps(asdict(index), indent=1, sort_keys=True) + "\n")


def read_json(path: Path) -> object:
    """Raises DatasetError when the file is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as problem:
        raise DatasetError(f"'{path}' cannot be read as JSON: prepare this again, or copy it again") from problem


def write_text(path: Path, text: str) -> None:
    """Whole or not at all; raises DatasetError."""
    with written_whole(path, path.name, DatasetError) as temporary:
        temporary.write_text(text, encoding="utf-8")
