"""One film → its clips in a folder, and what became of every part of it.

The film is watched twice at the same time: ahead, reduced, to find the speaker; and behind, in full, to cut the clips out. So
memory holds one part of it and no more, whatever its length and size.
"""

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from joyhallo.conditioning.anatomy import SILHOUETTE
from joyhallo.conditioning.face import Face
from joyhallo.conditioning.lip_sync import MIN_FRAMES, LipSync, LipSyncScore
from joyhallo.conditioning.masks import clip_box, clip_masks
from joyhallo.data.frames import FPS, SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from joyhallo.data.framing import FaceCrop, face_crop
from joyhallo.data.heldout import is_held_out
from joyhallo.data.preparation.checks import (
    Rejection,
    check_crop,
    check_speech,
    check_sync,
    check_track,
    speech_share,
)
from joyhallo.data.preparation.equipment import Equipment
from joyhallo.data.preparation.films import UNKNOWN_SPEAKER, Settings, Video
from joyhallo.data.preparation.footage import Picture, sound_start_s, watch
from joyhallo.data.preparation.tracking import SpeakerTracker, Stretch
from joyhallo.data.report import ReportLine
from joyhallo.data.samples import NUM_POINTS, Annotations, Facts, write_sample
from joyhallo.errors import UserError
from joyhallo.media.audio import AudioError, stream_speech
from joyhallo.media.video_error import VideoError

_EMBEDDING_EVERY = 12  # frames between two attempts, where a face encoder does not see the face


class VideoPreparer:
    """Turns films into clips, one after the other."""

    def __init__(self, settings: Settings, equipment: Equipment) -> None:
        self.settings, self.equipment = settings, equipment
        self._lip_sync = LipSync.load()

    def prepare(self, video: Video, folder: Path) -> list[ReportLine]:
        """Write the clips of a film into `folder`, which must exist; the first line is about the whole film.

        A film that cannot be read, or not to its end, is a line like any other. Raises UserError when clips cannot be written.
        """
        lines: list[ReportLine] = []
        failure: Rejection | None = None
        try:
            for stretch, rejection, clip in self._parts(video, folder):
                end_s = stretch.start_s + stretch.num_frames / FPS
                reason, detail = (rejection.reason, rejection.detail) if rejection else (None, "")
                lines.append(ReportLine(str(video.path), clip, rejection is None, reason, detail, stretch.start_s, end_s))
        except VideoError as problem:
            failure = Rejection("unreadable video", str(problem))
        except AudioError as problem:
            failure = Rejection("unusable sound", str(problem))
        num_kept = sum(line.is_kept for line in lines)
        if failure is None and not num_kept:
            failure = Rejection("no usable part", lines[0].reason or "" if len(lines) == 1 else f"{len(lines)} parts rejected")
        reason, detail = (failure.reason, failure.detail) if failure else (None, f"{num_kept} clips")
        return [ReportLine(str(video.path), None, failure is None or num_kept > 0, reason, detail), *lines]

    def _parts(self, video: Video, folder: Path) -> Iterator[tuple[Stretch, Rejection | None, str | None]]:
        """Every part of the film with its rejection, or with the key of its clip."""
        thresholds = self.settings.thresholds
        ahead, behind = watch(video.path), _Behind(video.path)
        first = next(ahead)  # a film that cannot be read at all is told first
        sound = _Sound(video.path, self.equipment)
        tracker = SpeakerTracker(self.equipment.mesh, thresholds.max_frames, thresholds.min_frames)
        for stretch in tracker.follow(itertools.chain([first], ahead)):
            rejection = check_track(stretch, thresholds)
            for part in [stretch] if rejection else self._steady(stretch):
                crop = self._crop(part) if rejection is None else None
                problem = rejection or (check_crop(part.points, crop.crop, thresholds) if crop else None)
                speech = sound.read(part.start_s, part.num_frames)
                problem = problem or check_speech(speech, thresholds)
                score = None
                if problem is None and part.num_frames >= MIN_FRAMES:
                    score = self._lip_sync.score(part.points, speech)
                    problem = check_sync(score, thresholds)
                if problem is None and crop is not None:
                    clip = _Clip(part, crop, speech, score)
                    problem = self._write(video, clip, behind, folder)
                yield part, problem, None if problem else _key(video, part)

    def _crop(self, part: Stretch) -> FaceCrop:
        return face_crop(part.points, part.size, self.settings.size_px, self.settings.face_share)

    def _steady(self, stretch: Stretch) -> Iterator[Stretch]:
        """A stretch as it is, or halved as often as it takes for the face to stay in the crop."""
        middle = stretch.num_frames // 2
        rejection = check_crop(stretch.points, self._crop(stretch).crop, self.settings.thresholds)
        if rejection and rejection.reason == "face leaves the frame" and middle >= self.settings.thresholds.min_frames:
            yield from self._steady(stretch.part(0, middle))
            yield from self._steady(stretch.part(middle, stretch.num_frames))
        else:
            yield stretch

    def _write(self, video: Video, clip: "_Clip", behind: "_Behind", folder: Path) -> Rejection | None:
        part, size = clip.part, (self.settings.size_px, self.settings.size_px)
        points = clip.crop.move(part.points)
        frames = (clip.crop.cut(picture.pixels()) for picture in behind.pictures(part.first_slot, part.num_frames))
        seen: list[np.ndarray] = []
        embedding = self._embed(itertools.islice(frames, part.num_frames), points, seen)
        if embedding is None:
            return Rejection("face not recognised", f"the {self.equipment.identity_name} encoder sees no face")
        face_box = clip_box(points, SILHOUETTE, size)
        width, height = (face_box[2:] - face_box[:2]).tolist()
        facts = Facts(
            key=_key(video, part),
            source=str(video.path),
            start_s=round(part.start_s, 3),
            num_frames=part.num_frames,
            size_px=self.settings.size_px,
            speaker=UNKNOWN_SPEAKER,
            is_held_out=is_held_out(video.identity, self.settings.held_out_share),
            is_synthetic=False,
            identity_encoder=self.equipment.identity_name,
            speech_encoder=self.equipment.speech_name,
            face_share=round(width * height / (size[0] * size[1]), 4),
            sharpness=round(part.sharpness, 4),
            speech_share=round(speech_share(clip.speech), 4),
            sync_offset_frames=clip.score.offset_frames if clip.score else None,
            sync_confidence=round(clip.score.confidence, 4) if clip.score else None,
        )
        all_points = np.full((part.num_frames, NUM_POINTS, 3), np.nan, np.float32)  # the small mesh has no irises
        all_points[:, : points.shape[1]] = points
        annotations = Annotations(
            points=all_points,
            speech=clip.speech,
            masks=clip_masks(points, size),
            face_box=face_box,
            face_embedding=embedding,
            speech_features=self.equipment.encode_speech(clip.speech),
        )
        write_sample(folder, facts, annotations, itertools.chain(seen, frames), None)
        return None

    def _embed(self, frames: Iterable[np.ndarray], points: np.ndarray, seen: list[np.ndarray]) -> np.ndarray | None:
        """The embedding of the first frame whose face the encoder sees; `seen` takes the frames that were used up."""
        for number, frame in enumerate(frames):
            seen.append(frame)
            if number % _EMBEDDING_EVERY:
                continue
            landmarks = points[number]
            box = np.concatenate([landmarks[:, :2].min(0), landmarks[:, :2].max(0)])
            try:
                return self.equipment.identity.embed(frame, Face(1.0, box, landmarks)).numpy().astype(np.float32)
            except UserError:  # it sees no face there
                continue
        return None


@dataclass(frozen=True, eq=False)
class _Clip:
    """A part that passed all checks."""

    part: Stretch
    crop: FaceCrop
    speech: np.ndarray  # [F·640] int16
    score: LipSyncScore | None


class _Behind:
    """The film in full, from which parts are taken in their order."""

    def __init__(self, path: Path) -> None:
        self._pictures = watch(path)
        self._last: Picture | None = None

    def pictures(self, first: int, count: int) -> Iterator[Picture]:
        """The pictures of the slots `first` to `first + count`."""
        if self._last is not None and self._last.slot == first:
            yield self._last
        while self._last is None or self._last.slot < first + count - 1:
            self._last = next(self._pictures)
            if self._last.slot >= first:
                yield self._last


class _Sound:
    """A film's sound at 16 kHz, read forwards as its parts need it."""

    def __init__(self, path: Path, equipment: Equipment) -> None:
        separator = equipment.separator
        self._blocks = stream_speech(path) if separator is None else separator.stream_vocals(path, SAMPLE_RATE_HZ)
        self._waiting = next(self._blocks, np.zeros(0, np.float32))  # a film without sound is told at once
        self._first = round(sound_start_s(path) * SAMPLE_RATE_HZ)  # number of the first sample that waits

    def read(self, start_s: float, num_frames: int) -> np.ndarray:
        """[F·640] int16 from a time on the film's clock; silence before the sound begins and after it ends."""
        start, count = round(start_s * SAMPLE_RATE_HZ), num_frames * SAMPLES_PER_FRAME
        while self._first + len(self._waiting) < start + count:
            block = next(self._blocks, None)
            if block is None:
                break
            kept = self._waiting[max(0, start - self._first) :]
            self._first += len(self._waiting) - len(kept)
            self._waiting = np.concatenate([kept, block])
        samples = np.zeros(count, np.float32)
        low, high = max(start, self._first), min(start + count, self._first + len(self._waiting))
        if high > low:
            samples[low - start : high - start] = self._waiting[low - self._first : high - self._first]
        return np.round(np.clip(samples, -1, 1) * 32767).astype(np.int16)


def _key(video: Video, part: Stretch) -> str:
    name = re.sub(r"[^A-Za-z0-9]+", "-", video.path.stem).strip("-")[:40] or "video"
    return f"{name}-{video.identity[:10]}-{part.first_slot:07d}"
