"""A finished video as the metrics see it: frames that stream, its sound, and the points of its largest face.

Axes: N frames, K mesh points (478 or 468), T samples.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from joyhallo.conditioning.face import Face, FaceMesh
from joyhallo.errors import UserError
from joyhallo.media.audio import read_speech
from joyhallo.media.container import open_container
from joyhallo.media.video import VideoError, probe_video, read_frames

SPEECH_RATE_HZ = 16_000


@dataclass(frozen=True, eq=False)
class Film:
    """One video; `open_film` makes it. Only `points` and `speech` are kept, 6 kB a frame and 64 kB a second."""

    path: Path
    fps: float
    num_frames: int
    size: tuple[int, int]  # (height, width)
    speech: np.ndarray | None  # [T] float32, 16 kHz mono, full scale at 1; its first sample belongs to the first frame
    face_mesh: FaceMesh | None = None  # what finds the face; None: the models of the weights folder, fetched when missing

    @property
    def duration_s(self) -> float:
        return self.num_frames / self.fps

    def frames(self) -> Iterator[np.ndarray]:
        """The frames [H, W, 3] uint8 RGB, decoded one after the other; every call starts at the first one."""
        for _, frame in zip(range(self.num_frames), read_frames(self.path), strict=False):
            yield frame

    @cached_property
    def points(self) -> np.ndarray:
        """The mesh [N, K, 3] float32 in pixels of the largest face, followed from frame to frame; NaN where there is none.

        Raises
        ------
        UserError : the face models are not here and cannot be fetched.
        """
        mesh = self.face_mesh or default_face_mesh()
        found: list[np.ndarray | None] = []
        face: Face | None = None
        for frame in self.frames():
            face = mesh.track(frame, face)
            found.append(None if face is None else face.landmarks)
        blank = np.full_like(next((points for points in found if points is not None), np.zeros((478, 3), np.float32)), np.nan)
        found += [None] * (self.num_frames - len(found))  # a damaged end: fewer frames than the file announces
        return np.stack([blank if points is None else points for points in found]).astype(np.float32)

    @property
    def has_face(self) -> np.ndarray:
        """[N] bool: where a face was found."""
        return np.isfinite(self.points[:, 0, 0])


def default_face_mesh() -> FaceMesh:
    """The face models of the weights folder, or the published ones, fetched when they are not here."""
    from joyhallo.weights.hub import face_models_path

    return FaceMesh.from_path(face_models_path())


def open_film(path: str | Path, *, speech: str | Path | None = None, face_mesh: FaceMesh | None = None) -> Film:
    """Open a video for the metrics.

    Parameters
    ----------
    path : the video.
    speech : a recording to use in place of the video's own sound; it begins with the first frame.
    face_mesh : shared between films; loaded when first needed otherwise.

    Raises
    ------
    VideoError : the video cannot be read, or has fewer than two frames.
    AudioError : its sound, or the recording, cannot be decoded or is shorter than 0.2 s.
    """
    path = Path(path)
    info = probe_video(path)
    if info.num_frames < 2 or info.fps <= 0:
        raise VideoError(f"the video '{path}' has {info.num_frames} frame: at least 2 are needed to evaluate it")
    own = _own_speech if info.has_audio else _no_speech
    sound = own(path) if speech is None else read_speech(speech, SPEECH_RATE_HZ)
    return Film(path, info.fps, info.num_frames, (info.height, info.width), sound, face_mesh)


def _own_speech(path: Path) -> np.ndarray:
    """The video's sound from its first frame on: a file may start one of the two later."""
    sound = read_speech(path, SPEECH_RATE_HZ)
    with open_container(path, UserError(f"'{path}' cannot be opened a second time: check the disk")) as container:
        starts = [
            float((stream.start_time or 0) * stream.time_base) if stream.time_base else 0.0
            for stream in (container.streams.audio[0], container.streams.video[0])
        ]
    lead = round((starts[0] - starts[1]) * SPEECH_RATE_HZ)
    return np.pad(sound, (lead, 0)) if lead > 0 else sound[-lead:]


def _no_speech(_: Path) -> None:
    return None
