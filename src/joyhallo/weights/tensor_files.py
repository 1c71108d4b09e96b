"""Files of tensors: opened without reading them, read and written one tensor at a time.

Read are safetensors (one file, or shards with an index) and pickles that hold tensors alone; written are safetensors.
Going through all of a file keeps no more than a bounded part of it in memory.
"""

import json
import os
import pickle
import struct
import zipfile
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from joyhallo.errors import UserError

_MAPPED_BYTES = 1 << 27  # a memory-mapped file is opened anew after so much was read, which lets go of the pages

# what torch's reader of pickles raises on files that are none
_BROKEN_PICKLE = (
    *(pickle.UnpicklingError, struct.error, zipfile.BadZipFile, RuntimeError, EOFError, LookupError),
    *(ValueError, TypeError, AttributeError, AssertionError, OverflowError),
)

_DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class CheckpointError(UserError):
    """A checkpoint does not fit: a tensor is missing, unknown or misshapen, or the file cannot be read."""


@dataclass(frozen=True)
class TensorEntry:
    """One tensor to be written; `read` is called when its turn comes."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    @property
    def num_bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


class TensorFile(Mapping[str, Tensor]):
    """Tensors of an opened file by name. A tensor is read when it is asked for, and the file keeps none."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of that tensor, without reading it."""

    @abstractmethod
    def dtype(self, name: str) -> torch.dtype:
        """The element type of that tensor, without reading it."""

    @abstractmethod
    def __getitem__(self, name: str) -> Tensor: ...

    @abstractmethod
    def __iter__(self) -> Iterator[str]: ...

    def __len__(self) -> int:
        return sum(1 for _ in self)


class _SafetensorsFile(TensorFile):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._header = _read_header(path)
        self._mapped_bytes = 0
        self._open()

    def _open(self) -> None:
        from safetensors import safe_open

        self._file = safe_open(str(self.path), framework="pt")

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._header[name]["shape"])

    def dtype(self, name: str) -> torch.dtype:
        stored = self._header[name]["dtype"]
        for dtype, label in _DTYPE_NAMES.items():
            if label == stored:
                return dtype
        raise CheckpointError(
            f"{self.path}: {name} has element type {stored}, which is not supported: convert it to F16 or F32."
        )

    def __getitem__(self, name: str) -> Tensor:
        start, end = self._header[name]["data_offsets"]
        self._mapped_bytes += end - start
        if self._mapped_bytes > _MAPPED_BYTES:
            self._mapped_bytes = end - start
            self._open()
        return self._file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._header)


class _PickleFile(TensorFile):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._mapped_bytes = 0
        self._tensors = self._open()

    def _open(self) -> dict[str, Tensor]:
        is_mappable = zipfile.is_zipfile(self.path)  # pickles from before torch 1.6 are not
        try:
            loaded = torch.load(self.path, map_location="cpu", weights_only=True, mmap=is_mappable)
        except _BROKEN_PICKLE as error:
            what = (
                "it holds more than tensors, and only tensors are read"
                if "weights_only" in str(error).lower()
                else "it is broken"
            )
            raise CheckpointError(
                f"{self.path} cannot be read as weights ({what}): fetch it again, or save its state_dict as safetensors."
            ) from error
        for nested in ("state_dict", "model", "module"):
            if isinstance(loaded, dict) and isinstance(loaded.get(nested), dict):
                loaded = loaded[nested]
        if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
            raise CheckpointError(f"{self.path} holds no plain table of tensors: save the module's state_dict.")
        return loaded

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        return self._tensors[name].dtype

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._tensors[name]
        self._mapped_bytes += tensor.nbytes
        if self._mapped_bytes > _MAPPED_BYTES:
            self._mapped_bytes = tensor.nbytes
            self._tensors = self._open()
            tensor = self._tensors[name]
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._tensors))


class _ShardedFile(TensorFile):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            self._shard_of: dict[str, str] = json.loads(path.read_text())["weight_map"]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} is no index of shards (no weight_map): fetch it again.") from error
        self._shards = {shard: open_tensors(path.parent / shard) for shard in sorted(set(self._shard_of.values()))}

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shards[self._shard_of[name]].shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return self._shards[self._shard_of[name]].dtype(name)

    def __getitem__(self, name: str) -> Tensor:
        return self._shards[self._shard_of[name]][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shard_of)


def open_tensors(path: Path) -> TensorFile:
    """Open a file of tensors without reading them.

    Args:
        path: `.safetensors`, a `.safetensors.index.json`, or a pickle of tensors (`.pth`, `.pt`, `.bin`, `.ckpt`), which is
            opened with weights_only and memory-mapped.

    Raises:
        CheckpointError: no such file, a broken one, or one that holds more than tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file: give a .safetensors, its .index.json, or a .pth file of tensors.")
    if path.name.endswith(".index.json"):
        return _ShardedFile(path)
    return _SafetensorsFile(path) if path.suffix == ".safetensors" else _PickleFile(path)


def write_tensors(path: Path, entries: Iterable[TensorEntry], *, metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file, one tensor after the other; it gets its name when it is whole.

    Raises:
        CheckpointError: a tensor that is not as announced, or an element type that safetensors does not have.
    """
    listed = list(entries)
    header: dict[str, object] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    offset = 0
    for entry in listed:
        if entry.dtype not in _DTYPE_NAMES:
            raise CheckpointError(f"{entry.name} has element type {entry.dtype}, which cannot be written: convert it first.")
        end = offset + entry.num_bytes
        header[entry.name] = {"dtype": _DTYPE_NAMES[entry.dtype], "shape": list(entry.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data starts on a multiple of eight bytes
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as writer:
            writer.write(len(text).to_bytes(8, "little") + text)
            for entry in listed:
                _write_one(writer, entry)
            writer.flush()
            os.fsync(writer.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors that are in memory, whole or not at all."""
    entries = (TensorEntry(name, tuple(t.shape), t.dtype, lambda t=t: t) for name, t in tensors.items())
    write_tensors(path, entries, metadata=metadata)


def _write_one(writer: BinaryIO, entry: TensorEntry) -> None:
    tensor = entry.read()
    if tuple(tensor.shape) != entry.shape or tensor.dtype != entry.dtype:
        raise CheckpointError(
            f"{entry.name} is {shape_text(tensor.shape)} {tensor.dtype}, announced {shape_text(entry.shape)} {entry.dtype}."
        )
    flat = tensor.detach().cpu().contiguous().flatten()
    writer.write(flat.view(torch.uint8).numpy().data)


def _read_header(path: Path) -> dict[str, dict]:
    try:
        with path.open("rb") as reader:
            length = int.from_bytes(reader.read(8), "little")
            size = path.stat().st_size
            header: dict = json.loads(reader.read(length)) if 0 < length <= size - 8 else {"": None}
        data_bytes = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not a safetensors file: fetch it again.") from error
    if size < 8 + length + data_bytes:
        raise CheckpointError(f"{path} is cut short ({size} of {8 + length + data_bytes} bytes): fetch it again.")
    return {name: entry for name, entry in header.items() if name != "__metadata__"}


def shape_text(shape: Iterable[int]) -> str:
    """A shape as errors show it."""
    return "[" + ", ".join(str(size) for size in shape) + "]"
