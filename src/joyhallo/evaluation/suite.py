"""All metrics of one film, with as few passes over it as possible."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from joyhallo.conditioning.face import FaceMesh
from joyhallo.conditioning.identity import IdentityEncoder
from joyhallo.conditioning.lip_sync import LipSync
from joyhallo.evaluation.catalogue import VISEMES, Metric
from joyhallo.evaluation.film import Film, default_face_mesh
from joyhallo.evaluation.head import Head, hold_still
from joyhallo.evaluation.lip_timing import lip_sync_measures
from joyhallo.evaluation.lips import lip_measures, loudness_db
from joyhallo.evaluation.measures import Measure, missing
from joyhallo.evaluation.pinyin import Syllable
from joyhallo.evaluation.portrait_likeness import Likeness, Likenesses, bundled_identity
from joyhallo.evaluation.published import PUBLISHED, Experts
from joyhallo.evaluation.smoothness import measure_warp_error
from joyhallo.evaluation.stability import Background, Flicker, motion_measures
from joyhallo.evaluation.viseme_scores import Event, viseme_measures
from joyhallo.evaluation.visemes import viseme_events

NO_FACE = "no face was found in any frame: give a video where the whole face is seen from the front"
_NUM_PICTURES = 6
_PICTURE_PX = 176


@dataclass(eq=False)
class Tools:
    """What films share: models that are loaded when first needed."""

    _mesh: FaceMesh | None = None
    _identity: IdentityEncoder | None = None
    _lip_sync: LipSync | None = None
    experts: Experts = field(default_factory=Experts)

    @property
    def face_mesh(self) -> FaceMesh:
        """The face models."""
        self._mesh = self._mesh or default_face_mesh()
        return self._mesh

    @property
    def identity(self) -> IdentityEncoder:
        """The bundled identity encoder."""
        self._identity = self._identity or bundled_identity()
        return self._identity

    @property
    def lip_sync(self) -> LipSync:
        """The fitted lip-sync numbers."""
        self._lip_sync = self._lip_sync or LipSync.load()
        return self._lip_sync


@dataclass(frozen=True, eq=False)
class FilmReport:
    """What was found out about one film."""

    path: Path
    num_frames: int
    fps: float
    size: tuple[int, int]  # (height, width)
    measures: tuple[Measure, ...]
    loudness_db: np.ndarray | None = None  # [F] of its speech
    pictures: tuple[bytes, ...] = field(default=(), repr=False)  # JPEG files, from the first to the last frame
    events: tuple[Event, ...] = ()  # of the viseme test

    @property
    def name(self) -> str:
        """How tables call it."""
        return self.path.stem

    def value(self, name: str) -> float | None:
        """The value of one measure; None when it has none or is not there."""
        return next((measure.value for measure in self.measures if measure.name == name), None)


@dataclass(frozen=True, eq=False)
class Subject:
    """Who should be seen, and what is said."""

    reference: Likeness | None = None
    syllables: tuple[Syllable, ...] = ()


def evaluate_film(film: Film, metrics: Sequence[Metric], tools: Tools, subject: Subject | None = None) -> FilmReport:
    """Compute `metrics`; one without what it needs (face, sound, weights, portrait) gives measures that say so.

    The film is decoded once to follow the face, once for everything that looks at pixels, and as often as the published
    metrics need; no more than a few frames are kept.

    Raises
    ------
    UserError : the face models are needed, not here, and cannot be fetched.
    """
    subject = subject or Subject()
    names = {metric.name for metric in metrics}
    measures: list[Measure] = []
    needs_face = any(metric.needs_face for metric in metrics)
    head = hold_still(film.points) if needs_face and film.has_face.any() else None
    for metric in metrics:
        if metric.name in PUBLISHED:
            measures += tools.experts.measure(metric, film)
        elif metric.needs_face and head is None:
            measures += missing(metric.names, NO_FACE)
    if head is not None:
        measures += _of_points(film, head, names, tools)
    if "warp_error" in names:
        measures += measure_warp_error(film)
    events = viseme_events(film, head, subject.syllables) if head is not None and VISEMES.name in names else []
    if head is not None and VISEMES.name in names:
        measures += viseme_measures(events)
    pictures = _Pictures(film.num_frames)
    readers = _readers(film, head, names, tools, subject.reference)
    for frame in film.frames():
        pictures.add(frame)
        for reader in readers:
            reader.add(frame)
    for reader in readers:
        result = reader.result()
        measures += result if isinstance(result, list) else [result]
    loudness = None if film.speech is None else loudness_db(film.speech, film.num_frames, film.fps)
    pixels = tuple(pictures.files)
    return FilmReport(film.path, film.num_frames, film.fps, film.size, tuple(measures), loudness, pixels, tuple(events))


def _of_points(film: Film, head: Head, names: set[str], tools: Tools) -> list[Measure]:
    """What the points and the speech say, without looking at pixels again."""
    measures: list[Measure] = []
    if "lip_sync" in names:
        measures += lip_sync_measures(film, tools.lip_sync)
    if "lips" in names:
        measures += lip_measures(film, head)
    if "motion" in names:
        measures += motion_measures(film, head)
    return measures


def _readers(
    film: Film, head: Head | None, names: set[str], tools: Tools, reference: Likeness | None
) -> list[Flicker | Background | Likenesses]:
    """What looks at every frame."""
    readers: list[Flicker | Background | Likenesses] = [Flicker()] if "flicker" in names else []
    if head is not None and "backdrop" in names:
        readers.append(Background(film))
    if head is not None and "likeness" in names:
        readers.append(Likenesses(film, tools.identity, reference))
    return readers


class _Pictures:
    """A few small frames for people to look at."""

    def __init__(self, num_frames: int) -> None:
        self._wanted = set(np.linspace(0, num_frames - 1, _NUM_PICTURES).round().astype(int).tolist())
        self._index = -1
        self.files: list[bytes] = []

    def add(self, frame: np.ndarray) -> None:
        """The next frame [H, W, 3] uint8."""
        self._index += 1
        if self._index in self._wanted:
            scale = min(1.0, _PICTURE_PX / frame.shape[0])
            size = max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale))
            small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
            self.files.append(cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 82])[1].tobytes())
