"""What a dataset holds and what was rejected while it was made, in numbers."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from joyhallo.data.dataset import Dataset
from joyhallo.data.frames import FPS
from joyhallo.data.index import DatasetError
from joyhallo.data.report import read_lines
from joyhallo.weights.hub import file_sha256


@dataclass(frozen=True)
class Spread:
    """Smallest, middle and largest of some numbers."""

    low: float
    median: float
    high: float


@dataclass(frozen=True)
class Share:
    """Some of the clips."""

    num_clips: int
    hours: float


@dataclass(frozen=True)
class Outcome:
    """What became of the files, or of the parts of them, that a dataset was made from."""

    num_kept: int
    num_rejected: int
    reasons: dict[str, int]  # of the rejections, the most frequent first


@dataclass(frozen=True)
class Summary:
    """A dataset in numbers."""

    folder: str
    preset: str
    size_px: int
    num_clips: int
    hours: float
    num_speakers: int
    num_sources: int
    held_out: Share
    synthetic: Share
    bytes: int
    num_shards: int
    identity_encoders: dict[str, int]  # clips of each
    speech_encoders: dict[str, int]
    num_with_features: int
    length_s: Spread | None
    face_share: Spread | None
    sync_offset_frames: Spread | None
    sources: Outcome
    parts: Outcome


def summarise(folder: Path) -> Summary:
    """Count what a dataset holds; reads its index, lists and report, no tar.

    Raises DatasetError when the folder is no dataset.
    """
    dataset = Dataset(folder)
    facts, index = dataset.facts, dataset.index
    lines = read_lines(folder)
    return Summary(
        folder=str(folder),
        preset=index.preset,
        size_px=index.size_px,
        num_clips=len(facts),
        hours=index.hours,
        num_speakers=len({fact.speaker for fact in facts}),
        num_sources=len({fact.source for fact in facts}),
        held_out=_share(fact.num_frames for fact in facts if fact.is_held_out),
        synthetic=_share(fact.num_frames for fact in facts if fact.is_synthetic),
        bytes=sum(shard.bytes for shard in index.shards),
        num_shards=len(index.shards),
        identity_encoders=dict(sorted(Counter(fact.identity_encoder for fact in facts).items())),
        speech_encoders=dict(sorted(Counter(fact.speech_encoder or "none" for fact in facts).items())),
        num_with_features=sum(fact.speech_encoder is not None for fact in facts),
        length_s=_spread(fact.num_frames / FPS for fact in facts),
        face_share=_spread(fact.face_share for fact in facts),
        sync_offset_frames=_spread(fact.sync_offset_frames for fact in facts if fact.sync_offset_frames is not None),
        sources=_outcome(line for line in lines if line.get("start_s") is None),
        parts=_outcome(line for line in lines if line.get("start_s") is not None),
    )


def check_hashes(folder: Path) -> None:
    """Read every tar of a dataset. Raises DatasetError at the first whose content is not what the index says."""
    for shard in Dataset(folder).shards:
        if file_sha256(shard.path) != shard.entry.sha256:
            raise DatasetError(f"'{shard.path}' has another content than the index says: copy it again, or prepare it again")


def _share(lengths: Iterable[int]) -> Share:
    frames = list(lengths)
    return Share(len(frames), sum(frames) / FPS / 3600)


def _spread(values: Iterable[float]) -> Spread | None:
    ordered = np.array(list(values), np.float64)
    if not len(ordered):
        return None
    return Spread(float(ordered.min()), float(np.median(ordered)), float(ordered.max()))


def _outcome(lines: Iterable[dict[str, object]]) -> Outcome:
    """What was tried more than once counts as it ended."""
    last = {(line.get("source"), line.get("start_s"), line.get("end_s")): line for line in lines}
    rejected = [line for line in last.values() if not line.get("is_kept", True)]
    reasons = Counter(str(line.get("reason") or "no reason given") for line in rejected)
    ordered = dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))
    return Outcome(len(last) - len(rejected), len(rejected), ordered)
