"""Fits the lip-sync score to talking videos that are known to be in sync, and measures it on those it has not seen.

    python -m joyhallo.data.preparation.lip_sync_fit VIDEOS -o FOLDER

Writes FOLDER/lip_sync.safetensors. Twenty videos and every tenth of the others are left out of the fit; on them it reports
how surely clips in sync are told from clips shifted by 5 to 15 frames, and from clips with the sound of another (AUC: the
share of pairs that are ranked rightly).
"""

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from joyhallo.conditioning import lip_sync
from joyhallo.conditioning.face import FaceMesh
from joyhallo.conditioning.lip_sync import LipSync, LipSyncScore
from joyhallo.data.frames import SAMPLES_PER_FRAME
from joyhallo.data.preparation.footage import watch
from joyhallo.errors import run_as_command
from joyhallo.media.audio import read_speech
from joyhallo.weights.hub import face_models_path

logger = logging.getLogger(__name__)
NUM_HELD_OUT, HELD_OUT_EVERY = 20, 10
SHIFTS = [shift for shift in range(-lip_sync.MAX_OFFSET, lip_sync.MAX_OFFSET + 1) if abs(shift) >= 5]


@dataclass(frozen=True, eq=False)
class TalkingClip:
    """A video in sync."""

    points: np.ndarray  # [F, K, 3]
    speech: np.ndarray  # [F·640] int16


@dataclass(frozen=True)
class Accuracy:
    """What the score can tell on clips it was not fitted to."""

    num_clips: int
    score_in_sync: float  # mean
    score_foreign: float
    auc_shifted: float
    auc_foreign: float
    share_within_two_frames: float  # of the offsets found
    lowest_best_score: float  # first percentile in sync
    highest_foreign: float  # ninety-ninth percentile of the best score with a foreign sound
    lowest_confidence: float  # first percentile in sync


def read_talking_clip(path: Path, mesh: FaceMesh) -> TalkingClip | None:
    """Track a video; None when its face is lost in a frame."""
    points, face = [], None
    for picture in watch(path):
        face = mesh.track(picture.pixels(), face)
        if face is None:
            return None
        points.append(face.landmarks)
    num_samples = len(points) * SAMPLES_PER_FRAME
    speech = read_speech(path)[:num_samples]
    speech = np.pad(speech, (0, num_samples - len(speech)))
    return TalkingClip(np.stack(points), np.round(np.clip(speech, -1, 1) * 32767).astype(np.int16))


def measure(model: LipSync, clips: list[TalkingClip]) -> Accuracy:
    """How well the score tells clips in sync from others. The foreign sound is that of the clip half the list further on."""
    predicted = [model.predict(clip.speech, len(clip.points)) for clip in clips]
    seen = [lip_sync.lip_measures(clip.points) for clip in clips]
    right = [model.compare(sound, lips) for sound, lips in zip(predicted, seen, strict=True)]
    foreign = [_foreign(model, predicted[(index + len(clips) // 2) % len(clips)], lips) for index, lips in enumerate(seen)]
    shifted = [model.at(sound, lips, shift) for sound, lips in zip(predicted, seen, strict=True) for shift in SHIFTS]
    scores = [found.score for found in right]
    return Accuracy(
        num_clips=len(clips),
        score_in_sync=float(np.mean(scores)),
        score_foreign=float(np.mean([found.score for found in foreign])),
        auc_shifted=auc(scores, shifted),
        auc_foreign=auc(scores, [found.score for found in foreign]),
        share_within_two_frames=float(np.mean([abs(found.offset_frames) <= 2 for found in right])),
        lowest_best_score=float(np.percentile([found.best_score for found in right], 1)),
        highest_foreign=float(np.percentile([found.best_score for found in foreign], 99)),
        lowest_confidence=float(np.percentile([found.confidence for found in right], 1)),
    )


def _foreign(model: LipSync, sound: np.ndarray, lips: np.ndarray) -> LipSyncScore:
    count = min(len(sound), len(lips))
    return model.compare(sound[:count], lips[:count])


def auc(right: list[float], wrong: list[float]) -> float:
    """Share of the pairs in which the right one is higher; ties count half."""
    high, low = np.asarray(right)[:, None], np.asarray(wrong)[None]
    return float((high > low).mean() + 0.5 * (high == low).mean())


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path, help="a folder of videos, each of one speaker from its first frame to its last")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    mesh = FaceMesh.from_path(face_models_path())
    known: list[TalkingClip] = []
    held_out: list[TalkingClip] = []
    for number, path in enumerate(sorted(arguments.videos.glob("*.mp4"))):
        clip = read_talking_clip(path, mesh)
        if clip is None:
            logger.warning("%s: the face is lost, left out", path)
            continue
        is_held_out = number < NUM_HELD_OUT or (number - NUM_HELD_OUT) % HELD_OUT_EVERY == 0
        (held_out if is_held_out else known).append(clip)
        if number % 50 == 0:
            logger.info("%d videos tracked", number + 1)
    model = lip_sync.fit((clip.points, clip.speech) for clip in known)
    model.save(arguments.output)
    logger.info("fitted to %d clips; %s", len(known), measure(model, held_out))


if __name__ == "__main__":
    run_as_command(main)
