"""The films to prepare, and how: what a run is asked for, before anything heavy is loaded."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from joyhallo.errors import UserError
from joyhallo.weights import hub

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".3gp")
UNKNOWN_SPEAKER = "unknown"  # until clips of all films are compared
MANDARIN_ENCODER = "chinese-wav2vec2-base"
_HASHED_BYTES = 1 << 20


@dataclass(frozen=True)
class Thresholds:
    """What is asked of every clip. The defaults are those of `mini`, fit for 256 px."""

    min_frames: int = 23  # a training window with what it looks back at (published: more than 22)
    max_frames: int = 250  # longer parts are split
    min_face_px: float = 100.0  # longer side of the silhouette in the film's own pixels, median
    max_face_share: float = 0.85  # of the crop's side: where the film itself ends at the head
    max_yaw_deg: float = 35.0  # median: beyond, one cheek is not seen
    min_sharpness: float = 0.12  # see `tracking.measure_sharpness`
    min_rate_fps: float = 15.0  # different pictures a second: with fewer, lips jump
    min_speech_share: float = 0.2  # of the frames
    max_sync_offset_frames: int = 3  # either way
    min_sync_confidence: float = 0.2  # below, an offset is not believed
    min_sync_lead: float = 0.1  # of a larger offset's score over all within the limit: below, syllables are mistaken for others
    min_sync_score: float = 0.3  # at the best offset: below, lips and sound have nothing to do with each other


@dataclass(frozen=True)
class Settings:
    """How videos become clips; everything that changes the outcome."""

    preset: str = "mini"
    size_px: int = 256
    face_share: float = 0.6  # of the crop's side that the silhouette fills at most
    separate_vocals: bool = False
    held_out_share: float = 0.02
    thresholds: Thresholds = field(default_factory=Thresholds)


@dataclass(frozen=True)
class Video:
    """A film to prepare."""

    path: Path
    identity: str  # of its content: the same film under another name has the same
    num_bytes: int


def identify(path: Path) -> Video:
    """A film by its size and by the hash of its beginning, middle and end, which is quick for files of any length."""
    num_bytes = path.stat().st_size
    digest = hashlib.sha256(str(num_bytes).encode())
    with path.open("rb") as file:
        for start in (0, num_bytes // 2, max(0, num_bytes - _HASHED_BYTES)):
            file.seek(start)
            digest.update(file.read(_HASHED_BYTES))
    return Video(path, digest.hexdigest()[:16], num_bytes)


def settings_for(preset: str, **changes: Any) -> Settings:  # noqa: ANN401 (the fields of Settings and Thresholds)
    """The settings of a preset; `published` follows the published data preparation at 512 px.

    Raises UserError for an unknown preset or threshold.
    """
    if preset == "mini":
        settings = Settings()
    elif preset == "published":
        settings = Settings(preset, 512, thresholds=Thresholds(min_face_px=200.0, min_sharpness=0.18))
    else:
        raise UserError(f"the preset {preset!r} is not known: give mini or published")
    own = {name: changes.pop(name) for name in list(changes) if name in ("separate_vocals", "held_out_share")}
    for name, value in changes.items():
        known = asdict(settings.thresholds)
        if name not in known:
            raise UserError(f"there is no threshold {name!r}: the thresholds are {', '.join(known)}")
        changes[name] = type(known[name])(value)
    return replace(settings, **own, thresholds=replace(settings.thresholds, **changes))


def find_videos(places: Sequence[Path]) -> list[Path]:
    """All films among files and below folders, sorted; a file that is named is taken whatever it is called.

    Raises UserError when a place is not there or there is no film at all.
    """
    found: set[Path] = set()
    for place in places:
        if place.is_dir():
            inside = (path for path in place.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
            found.update(path for path in inside if not any(part.startswith(".") for part in path.relative_to(place).parts))
        elif place.exists():
            found.add(place)
        else:
            raise UserError(f"there is no video '{place}': check the path (from the folder '{Path.cwd()}')")
    if not found:
        raise UserError(f"no video in {', '.join(map(str, places))}: give files, or folders with {', '.join(SUFFIXES)}")
    return sorted(found)


def mandarin_folder() -> Path | None:
    """Where the speech encoder of the published weights is on this machine, in a folder with its configuration."""
    weights, config = (hub.find(f"{MANDARIN_ENCODER}/{name}") for name in ("pytorch_model.bin", "config.json"))
    return weights.parent if weights and config and weights.parent == config.parent else None


def note_on(settings: Settings) -> str | None:
    """What the user should know before a run begins."""
    if settings.preset == "mini" or mandarin_folder():
        return None
    return (
        f"no speech features are stored: {MANDARIN_ENCODER} is not on this machine (`joyhallo models pull joyhallo-v1`); "
        "training computes them when it starts"
    )
