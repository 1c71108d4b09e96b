"""Datasets made by the published scripts → ordinary samples. What is missing or broken is skipped, and the report says why.

Frames become squares of `size_px` as in published training (height and width are scaled separately); a clip longer than ten
seconds is split evenly. Landmarks are not in that format: they are tracked where the face models are on this machine, and NaN
where they are not or no face was seen. A stopped run goes on with the clips that are not done.
"""

import hashlib
import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from joyhallo.conditioning.face import FaceMesh
from joyhallo.conditioning.lip_sync import MIN_FRAMES, LipSync, LipSyncScore
from joyhallo.data.frames import FPS, SAMPLES_PER_FRAME
from joyhallo.data.heldout import is_held_out
from joyhallo.data.index import Index, write_text
from joyhallo.data.preparation.checks import speech_share
from joyhallo.data.preparation.films import UNKNOWN_SPEAKER, Settings, Video
from joyhallo.data.preparation.footage import watch
from joyhallo.data.preparation.packing import check_same_kind, locked, pack_finished
from joyhallo.data.preparation.tracking import measure_sharpness
from joyhallo.data.published import (
    PublishedClip,
    UnusableClip,
    find_clips,
    read_embedding,
    read_face_box,
    read_features,
    read_masks,
)  # fmt: skip
from joyhallo.data.report import ReportLine
from joyhallo.data.samples import NUM_POINTS, Annotations, Facts, write_sample
from joyhallo.data.shards import WORK_NAME
from joyhallo.errors import UserError
from joyhallo.media.audio import read_speech
from joyhallo.media.image import read_image, resize

MAX_DIFFERENCE = 3  # frames by which pictures and speech features may differ, as published
EMBEDDING_SIZE = 512
PRESET = "published"
NUM_MESH_POINTS = 468  # without the irises, which the small mesh does not have


@dataclass(frozen=True)
class ImportSettings:
    """How published clips become samples."""

    size_px: int = 512
    speech_encoder: str = "chinese-wav2vec2-base"  # what made the stored features
    held_out_share: float = 0.02
    max_frames: int = 250


def import_dataset(
    root: Path,
    dataset: Path,
    settings: ImportSettings = ImportSettings(),
    *,
    meta: Path | None = None,
    mesh: FaceMesh | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Index:
    """Take over the clips below `root` that are not in the dataset yet.

    Parameters
    ----------
    root : the folder that the published scripts were run on.
    dataset : the folder to write, or to go on with.
    settings : sizes and names.
    meta : a metadata file of either stage: only the clips that it names.
    mesh : finds landmarks; None leaves them NaN.
    progress : called with the clips done and all clips.

    Raises
    ------
    UserError : no such folder, a dataset of another kind, no clip that can be used, disk full.
    """
    if settings.size_px < 64 or settings.size_px % 2 or settings.size_px > 2048:
        raise UserError(f"frames of {settings.size_px} px cannot be made: give an even number from 64 to 2048")
    clips = find_clips(Path(root), meta)
    work = Path(dataset) / WORK_NAME
    videos = []
    with locked(work):
        check_same_kind(work, Path(dataset), {"preset": PRESET, **asdict(settings)})
        for number, clip in enumerate(clips, 1):
            video = _identify(clip)
            videos.append(video)
            record = work / f"{video.identity}.json"
            if not record.is_file():
                folder = work / video.identity
                shutil.rmtree(folder, ignore_errors=True)  # what a stopped run left
                folder.mkdir()
                lines = _import_clip(clip, video, folder, settings, mesh)
                write_text(record, json.dumps([asdict(line) for line in lines], ensure_ascii=False, indent=1))
            if progress:
                progress(number, len(clips))
        packed = Settings(preset=PRESET, size_px=settings.size_px, held_out_share=settings.held_out_share)
        return pack_finished(work, Path(dataset), videos, packed, [])


def _import_clip(
    clip: PublishedClip, video: Video, folder: Path, settings: ImportSettings, mesh: FaceMesh | None
) -> list[ReportLine]:
    """Write the samples of a clip; the first line is about all of it."""
    source = str(clip.source)
    lines: list[ReportLine] = []
    try:
        content = _Content(clip, settings)
        for first, frames in content.parts():
            facts, annotations = content.describe(video, first, frames, mesh)
            write_sample(folder, facts, annotations, frames, None)
            end_s = (first + len(frames)) / FPS
            lines.append(ReportLine(source, facts.key, True, None, "", facts.start_s, end_s))
    except UnusableClip as problem:
        shutil.rmtree(folder)
        folder.mkdir()
        return [ReportLine(source, None, False, problem.reason, str(problem))]
    return [ReportLine(source, None, True, None, f"{len(lines)} clips"), *lines]


class _Content:
    """What is read of a clip before its frames. Raises UnusableClip for what is missing or broken."""

    def __init__(self, clip: PublishedClip, settings: ImportSettings) -> None:
        self._clip, self._settings = clip, settings
        self._embedding = read_embedding(clip.face_embedding)
        if len(self._embedding) != EMBEDDING_SIZE:
            detail = f"'{clip.face_embedding}' has {len(self._embedding)} numbers, published ones have {EMBEDDING_SIZE}"
            raise UnusableClip("broken face embedding", detail)
        self._masks = read_masks(clip)
        self._face_box = read_face_box(clip.face_mask, settings.size_px)
        self._features = read_features(clip.speech_features)
        num_pictures = len(clip.pictures()) or _count(clip.video)
        if abs(num_pictures - len(self._features)) > MAX_DIFFERENCE:
            detail = f"{num_pictures} frames at 25 fps, {len(self._features)} rows of speech features"
            raise UnusableClip("speech features of another length", detail)
        self._num_frames = min(num_pictures, len(self._features))
        self._speech = self._read_speech()

    def parts(self) -> Iterator[tuple[int, list[np.ndarray]]]:
        """Number of the first frame, and the frames, of parts of about equal length."""
        pictures = self._pictures()
        num_parts = -(-self._num_frames // self._settings.max_frames)
        first = 0
        for length in map(len, np.array_split(np.arange(self._num_frames), num_parts)):
            frames = list(itertools.islice(pictures, length))
            if len(frames) < length:
                raise UnusableClip("unreadable video", f"'{self._clip.source}' ends at frame {first + len(frames)}")
            yield first, frames
            first += length

    def describe(self, video: Video, first: int, frames: list[np.ndarray], mesh: FaceMesh | None) -> tuple[Facts, Annotations]:
        """Facts and annotations of a part."""
        stop = first + len(frames)
        speech = self._speech[first * SAMPLES_PER_FRAME : stop * SAMPLES_PER_FRAME]
        points = _points(frames, mesh)
        sync = _lip_sync(points, speech)
        x0, y0, x1, y1 = (int(side) for side in self._face_box)
        facts = Facts(
            key=f"{re.sub('[^A-Za-z0-9]+', '-', self._clip.name).strip('-')[:40] or 'clip'}-{video.identity[:10]}-{first:07d}",
            source=str(self._clip.source),
            start_s=round(first / FPS, 3),
            num_frames=len(frames),
            size_px=self._settings.size_px,
            speaker=UNKNOWN_SPEAKER,
            is_held_out=is_held_out(video.identity, self._settings.held_out_share),
            is_synthetic=False,
            identity_encoder="glintr100",
            speech_encoder=self._settings.speech_encoder,
            face_share=round((x1 - x0) * (y1 - y0) / self._settings.size_px**2, 4),
            sharpness=round(measure_sharpness(frames[len(frames) // 2], self._face_box), 4),
            speech_share=round(speech_share(speech), 4),
            sync_offset_frames=sync.offset_frames if sync else None,
            sync_confidence=round(sync.confidence, 4) if sync else None,
        )
        annotations = Annotations(
            points=points,
            speech=speech,
            masks=self._masks,
            face_box=self._face_box,
            face_embedding=self._embedding,
            speech_features=self._features[first:stop],
        )
        return facts, annotations

    def _pictures(self) -> Iterator[np.ndarray]:
        size = (self._settings.size_px, self._settings.size_px)
        files = self._clip.pictures()
        try:
            pictures: Iterable[np.ndarray] = (
                (read_image(path) for path in files) if files else (p.pixels() for p in watch(self._clip.video))
            )
            for picture in pictures:
                yield resize(picture, size)
        except UserError as problem:
            raise UnusableClip("unreadable video", str(problem)) from problem

    def _read_speech(self) -> np.ndarray:
        """[F·640] int16, cut or filled with silence; of the recording, or else of the film."""
        path = self._clip.sound if self._clip.sound.is_file() else self._clip.video
        try:
            samples = read_speech(path)
        except UserError as problem:
            raise UnusableClip("unusable sound", str(problem)) from problem
        samples = np.round(np.clip(samples, -1, 1) * 32767).astype(np.int16)[: self._num_frames * SAMPLES_PER_FRAME]
        return np.pad(samples, (0, self._num_frames * SAMPLES_PER_FRAME - len(samples)))


def _count(video: Path) -> int:
    """Frames of a film at 25 fps."""
    try:
        slots = [picture.slot for picture in watch(video)]
    except UserError as problem:
        raise UnusableClip("unreadable video", str(problem)) from problem
    if len(slots) != slots[-1] + 1:
        raise UnusableClip("gap in the video", f"'{video}' has no pictures for half a second or more")
    return len(slots)


def _points(frames: list[np.ndarray], mesh: FaceMesh | None) -> np.ndarray:
    points = np.full((len(frames), NUM_POINTS, 3), np.nan, np.float32)
    face = None
    for number, frame in enumerate(frames if mesh is not None else []):
        assert mesh is not None
        face = mesh.track(frame, face)
        if face is not None:  # the small mesh has no irises: the last ten stay unknown
            points[number, : len(face.landmarks)] = face.landmarks
    return points


def _lip_sync(points: np.ndarray, speech: np.ndarray) -> LipSyncScore | None:
    """None where the face was not seen all the time, or for too short a time to tell."""
    known = points[:, :NUM_MESH_POINTS]
    return LipSync.load().score(known, speech) if len(known) >= MIN_FRAMES and np.isfinite(known).all() else None


def _identify(clip: PublishedClip) -> Video:
    """By what was stored for the clip: the same clip under the same name is the same one on any machine."""
    digest = hashlib.sha256(clip.name.encode())
    num_bytes = 0
    for path in (clip.face_mask, clip.lip_mask, clip.expression_mask, clip.pose_mask, clip.face_embedding):
        content = path.read_bytes() if path.is_file() else b""
        digest.update(hashlib.sha256(content).digest())
    for path in (clip.video, clip.speech_features, clip.sound, *clip.pictures()[:1]):
        size = path.stat().st_size if path.is_file() else 0
        num_bytes += size
        digest.update(str(size).encode())
    digest.update(str(len(clip.pictures())).encode())
    return Video(Path(clip.name), digest.hexdigest()[:16], num_bytes)
