"""Paths given by users, and files written whole or not at all."""

import errno
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from joyhallo.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def require_file(path: str | Path, what: str, error: type[UserError]) -> Path:
    """Check that `path` is a readable, non-empty regular file.

    Parameters
    ----------
    path : the file the user named.
    what : how the message calls it ("portrait", "speech", ...).
    error : the class of the error.

    Raises
    ------
    UserError (the class given) : missing, a folder or a device, not readable, or empty.
    """
    path = Path(path)
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise error(f"the {what} '{path}' is a folder: give one file")
        if not stat.S_ISREG(status.st_mode):  # a pipe or a device could block for ever
            raise error(f"the {what} '{path}' is not a regular file: copy its content into a file and give that")
        if status.st_size == 0:
            raise error(f"the {what} '{path}' is empty (0 bytes): give a complete file")
        with path.open("rb"):
            return path
    except PermissionError as problem:
        raise error(f"the {what} '{path}' may not be read: change its permissions") from problem
    except (FileNotFoundError, NotADirectoryError) as problem:
        raise error(f"the {what} '{path}' does not exist: check the path (from the folder '{Path.cwd()}')") from problem
    except OSError as problem:  # a name that is too long, a disk that fails
        raise error(f"the {what} '{_short(path)}' cannot be opened ({problem.strerror}): check the path") from problem
    except UserError:
        raise
    except ValueError as problem:  # a NUL inside the name
        raise error(f"the {what} {_short(path)!r} is not a possible path: check its name") from problem


def require_output(path: str | Path, what: str, error: type[UserError]) -> Path:
    """Check that a file can be written at `path`; the folder must exist.

    Raises
    ------
    UserError (the class given) : no such folder, a folder in the file's place, or no right to write there.
    """
    path = Path(path)
    has_folder = is_folder = False
    try:
        has_folder, is_folder = path.parent.is_dir(), path.is_dir()
        if has_folder:
            path.lstat()  # unlike `is_dir`, this tells an absent file from an impossible name
    except FileNotFoundError:
        pass
    except OSError as problem:  # a folder above may not be entered, or the name is too long
        raise writing_error(problem, path, what, error) from problem
    except ValueError as problem:  # a NUL inside the name
        raise error(f"the {what} {_short(path)!r} is not a possible path: check its name") from problem
    if not has_folder:
        raise error(f"the folder '{path.parent}' for the {what} does not exist: create it or give another path")
    if is_folder:
        raise error(f"the {what} '{path}' is an existing folder: give the name of a file")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise error(f"the folder '{path.parent}' for the {what} is not writable: change its permissions or give another path")
    return path


def reserve_beside(path: Path, what: str, error: type[UserError]) -> Path:
    """Create an empty temporary file in the folder of `path`, with the same suffix; the caller renames or removes it."""
    # Not tempfile.mkstemp: its files are private, and the finished one is to have the usual permissions.
    temporary = path.with_name(f".{path.stem[:20]}.{uuid.uuid4().hex[:12]}.partial{path.suffix}")
    try:
        temporary.touch(exist_ok=False)
    except OSError as problem:
        raise writing_error(problem, path, what, error) from problem
    return temporary


def publish(temporary: Path, path: Path) -> None:
    """Give a finished temporary file its final name, durably: its bytes reach the disk before the name does."""
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def written_whole(path: Path, what: str, error: type[UserError]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; publish it when the block succeeds, remove it when it does not."""
    path = require_output(path, what, error)
    temporary = reserve_beside(path, what, error)
    try:
        yield temporary
        publish(temporary, path)
    except OSError as problem:
        raise writing_error(problem, path, what, error) from problem
    finally:
        temporary.unlink(missing_ok=True)


def writing_error(problem: OSError, path: Path, what: str, error: type[UserError]) -> UserError:
    """One line for a failed write, in the class given."""
    if problem.errno in _FULL:
        return error(f"the disk is full while writing the {what} '{path}': free some space or give another path")
    reason = problem.strerror or str(problem)
    return error(f"the {what} '{path}' cannot be written ({reason}): check the disk or give another path")


def _short(path: Path) -> str:
    text = str(path)
    return text if len(text) <= 120 else f"{text[:100]}…{text[-16:]}"
