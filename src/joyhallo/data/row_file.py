"""An array on disk that is made row by row, for hours if need be: a run that was stopped goes on at the part it was at."""

import io
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from joyhallo.data.index import DatasetError
from joyhallo.errors import UserError
from joyhallo.media.files import publish


class RowFile:
    """An .npy file of float16 rows that grows part by part under another name; how long it is says where to go on.

    Not a memory map while it grows: writing to one on a full disk ends the process. Methods raise OSError.
    """

    def __init__(self, path: Path, part_lengths: Sequence[int], row_shape: Sequence[int]) -> None:
        """`part_lengths`: rows of each part, in their order. The folder must exist."""
        self._path, self._partial = path, path.with_suffix(".partial")
        self._ends = np.cumsum([0, *part_lengths])
        self._row_bytes = 2 * int(np.prod(row_shape))
        self.num_parts_done = len(part_lengths)
        if path.is_file():
            return
        header = io.BytesIO()
        shape = (int(self._ends[-1]), *map(int, row_shape))
        np.lib.format.write_array_header_1_0(header, {"descr": "<f2", "fortran_order": False, "shape": shape})
        with self._partial.open("ab") as file:
            num_rows = max(0, file.tell() - header.tell()) // self._row_bytes
            self.num_parts_done = int(np.searchsorted(self._ends, num_rows, side="right")) - 1
            file.truncate(header.tell() + self.num_rows_done * self._row_bytes if self.num_rows_done else 0)
            if not self.num_rows_done:
                file.write(header.getvalue())

    @property
    def num_rows_done(self) -> int:
        return int(self._ends[self.num_parts_done])

    def append(self, rows: np.ndarray) -> None:
        """The rows of the next part."""
        with self._partial.open("ab") as file:
            file.write(np.ascontiguousarray(rows, np.float16).data)
        self.num_parts_done += 1

    def finish(self) -> None:
        """Give the file its name, once all parts are there."""
        if not self._path.is_file():
            publish(self._partial, self._path)


def num_bytes_missing(path: Path, num_rows: int, row_shape: Sequence[int]) -> int:
    """What a `RowFile` of so many rows will take on the disk beyond what it takes now."""
    if path.is_file():
        return 0
    partial = path.with_suffix(".partial")
    return max(0, num_rows * 2 * int(np.prod(row_shape)) - (partial.stat().st_size if partial.is_file() else 0))


def open_rows(path: Path) -> np.ndarray:
    """A finished file; its rows stay on disk until they are touched. Raises DatasetError when it is damaged."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as problem:
        raise DatasetError(f"'{path}' cannot be read: remove it and encode it again with the same command") from problem


def require_room(folder: Path, num_bytes: int, what: str, error: type[UserError]) -> None:
    """Check that the disk of `folder`, which must exist, can take so much more: said before hours of work, not after.

    Only asked for, not taken: where a file system cannot reserve space, reserving writes all of it.

    Raises UserError (the class given) when it cannot.
    """
    disk = shutil.disk_usage(folder)
    if disk.total and num_bytes > disk.free:  # some network file systems say nothing but zeros
        raise error(
            f"the {what} in '{folder}' need {num_bytes / 1e9:.1f} GB more, the disk has {disk.free / 1e9:.1f} GB left: free "
            "some space or give another path"
        )
