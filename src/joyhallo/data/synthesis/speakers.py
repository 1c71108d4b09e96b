"""Real talking clips whose movement is borrowed: tracked films, or the clips of a prepared dataset.

Axes: F frames at 25 a second, T samples at 16 kHz.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from joyhallo.conditioning.face import FaceMesh
from joyhallo.data.dataset import Dataset
from joyhallo.data.frames import FPS, SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from joyhallo.data.heldout import split_videos
from joyhallo.data.index import INDEX_NAME
from joyhallo.data.preparation.footage import sound_start_s, watch
from joyhallo.errors import UserError
from joyhallo.media.audio import AudioError, read_speech
from joyhallo.media.files import written_whole
from joyhallo.media.video_error import VideoError

MAX_FRAMES = 60 * FPS  # of a film; what comes after is not needed
_LONGEST_PX = 1280  # larger films are looked at reduced to this
_SUFFIXES = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg"}


@dataclass(frozen=True)
class Film:
    """A talking clip among those given: a file, or a sample of a dataset."""

    name: str
    path: Path  # of the film, or of the dataset's folder
    is_held_out: bool
    key: str | None = None  # of the sample


@dataclass(frozen=True, eq=False)
class Tracked:
    """What was found in a film."""

    points: np.ndarray  # [F, 478, 3] float32
    speech: np.ndarray  # [F·640] int16
    reason: str | None = None  # why it cannot be used, in few words
    detail: str = ""


def list_films(places: Sequence[Path], num_films: int) -> list[Film]:
    """Films below folders, and the clips of datasets; of many an even choice, the held-out ones first.

    Raises UserError when there is none.
    """
    films: list[Film] = []
    files: list[Path] = []
    for place in places:
        if not place.exists():
            raise UserError(f"the videos '{place}' do not exist: check the path")
        if (place / INDEX_NAME).is_file():
            facts = [fact for fact in Dataset(place).facts if not fact.is_synthetic]
            films += [Film(fact.key, place, fact.is_held_out, fact.key) for fact in facts]
        elif place.is_file():
            files.append(place)
        else:
            files += [path for path in place.rglob("*") if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")]
    split = split_videos(files)
    films += [Film(path.stem, path, path in split.held_out) for path in (*split.held_out, *split.known)]
    if not films:
        raise UserError(f"there is no video in {', '.join(map(str, places))}: give folders of talking clips, or a dataset")
    names = [film.name for film in films]
    repeated = {name for name in names if names.count(name) > 1}
    films = [film if film.name not in repeated else _renamed(film) for film in films]
    held_out = [film for film in films if film.is_held_out]
    known = [film for film in films if not film.is_held_out]
    # Drawn at random, but the same: a small number still covers the whole corpus.
    order = np.random.default_rng(0).permutation(len(known))
    kept = [*held_out[: max(1, num_films // 2)], *(known[index] for index in order)]
    return sorted(kept[: max(num_films, 2)], key=lambda film: film.name)


def _renamed(film: Film) -> Film:
    return Film(f"{film.path.parent.name}-{film.name}", film.path, film.is_held_out, film.key)


def track(film: Film, finder: FaceMesh) -> Tracked:
    """Track the face through a film; one that cannot be used gets its reason, never an error."""
    if film.key is not None:
        dataset = Dataset(film.path)
        number = next(number for number, fact in enumerate(dataset.facts) if fact.key == film.key)
        annotations = dataset.annotations(number)
        if not np.isfinite(annotations.points).all():
            return refused_film("face lost", "the points of the face are not known in every frame")
        return Tracked(annotations.points[:MAX_FRAMES], annotations.speech[: MAX_FRAMES * SAMPLES_PER_FRAME])
    try:
        return _track_file(film.path, finder)
    except (VideoError, AudioError) as problem:
        return refused_film("unreadable video", str(problem))


def _track_file(path: Path, finder: FaceMesh) -> Tracked:
    points, face, first_s = [], None, 0.0
    for picture in watch(path):
        if len(points) >= MAX_FRAMES or picture.slot != len(points):
            break
        if not points:
            first_s = picture.time_s
        face = finder.track(picture.pixels(_LONGEST_PX), face)
        if face is None:
            return refused_film("no face", f"in frame {picture.slot}")
        points.append(face.landmarks)
    speech = read_speech(path)
    late = round((sound_start_s(path) - first_s) * SAMPLE_RATE_HZ)
    speech = np.pad(speech, (late, 0)) if late > 0 else speech[-late:]
    num_frames = min(len(points), len(speech) // SAMPLES_PER_FRAME + 1)
    if num_frames < FPS:
        return refused_film("too short", f"{num_frames / FPS:.1f} s, 1 s is needed")
    num_samples = num_frames * SAMPLES_PER_FRAME
    speech = np.pad(speech[:num_samples], (0, max(0, num_samples - len(speech))))
    level = float(np.abs(speech).max())
    if level < 1e-3:
        return refused_film("silent", "there is no sound to speak with")
    return Tracked(np.stack(points[:num_frames]), np.round(speech / max(1.0, level) * 32767).astype(np.int16))


def refused_film(reason: str, detail: str) -> Tracked:
    """What cannot be used, and why."""
    return Tracked(np.zeros((0, 478, 3), np.float32), np.zeros(0, np.int16), reason, detail)


def save_tracked(tracked: Tracked, path: Path) -> None:
    """Write what was found, whole or not at all."""
    with written_whole(path, "tracked video", UserError) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            allow_pickle=False,
            points=tracked.points,
            speech=tracked.speech,
            reason=np.array(tracked.reason or ""),
            detail=np.array(tracked.detail),
        )


def load_tracked(path: Path) -> Tracked:
    """Read what `save_tracked` wrote."""
    with np.load(path) as file:
        return Tracked(file["points"], file["speech"], str(file["reason"]) or None, str(file["detail"]))
