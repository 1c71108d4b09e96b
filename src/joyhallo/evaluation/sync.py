"""Sync-C and Sync-D, called LSE-C and LSE-D elsewhere: how well lips and sound agree, judged by SyncNet v2.

Compare numbers of one and the same pipeline only: the paper's Sync-D of 13 to 14 beside a Sync-C of 6 is not on the scale that
these definitions give with the published pipeline, so it was probably measured on other crops.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from joyhallo.device import choose_device
from joyhallo.evaluation.crop_track import (
    MIN_FACE_PX,
    MIN_TRACK_FRAMES,
    RATE_FPS,
    Track,
    crop_track,
    find_tracks,
    median_filter,
    on_the_clock,
)
from joyhallo.evaluation.film import Film
from joyhallo.evaluation.lacking import lacking
from joyhallo.evaluation.measures import Measure, missing
from joyhallo.evaluation.mfcc import SAMPLE_RATE_HZ, mfcc
from joyhallo.evaluation.s3fd import SCALE, FaceDetector, S3fd, load_s3fd, scale_for
from joyhallo.evaluation.syncnet import NUM_FRAMES, SyncNet, lip_embeddings, load_syncnet, sound_embeddings
from joyhallo.weights import hub
from joyhallo.weights.metric_files import S3FD_FILE, SYNCNET_FILE

NAMES = ("sync_c", "sync_d", "sync_offset")
MAX_SHIFT = 15  # frames, to either side
SHORT_TRACK_FRAMES = 50  # enough where there is no longer one
CURVE_FRAMES = 9
EPSILON = 1e-6  # of the published distance
_SAMPLES_PER_FRAME = SAMPLE_RATE_HZ // RATE_FPS


@dataclass(frozen=True, eq=False)
class Agreement:
    """What the distances between lips and sound say."""

    confidence: float  # Sync-C: the median over the shifts less the smallest
    distance: float  # Sync-D: the smallest mean distance over the shifts
    offset_frames: int  # by which the sound comes early; negative where it comes late
    curve: np.ndarray  # [N] confidence around every window


@dataclass(frozen=True, eq=False)
class SyncExpert:
    """The two networks of the published pipeline."""

    network: SyncNet
    detector: S3fd


def agreement(lips: np.ndarray, sound: np.ndarray, max_shift: int = MAX_SHIFT) -> Agreement:
    """Compare embeddings of lips and of sound [N, E], which begin together, at all shifts up to `max_shift` frames.

    Where a shifted sound has no counterpart it is zero, as in the published code.
    """
    if lips.shape != sound.shape or lips.ndim != 2 or not len(lips):
        raise ValueError(f"embeddings must be [N, E] and alike, got {list(lips.shape)} and {list(sound.shape)}")
    padded = np.pad(sound, ((max_shift, max_shift), (0, 0)))
    shifts = range(2 * max_shift + 1)
    distances = np.stack([np.linalg.norm(lips - padded[k : k + len(lips)] + EPSILON, axis=1) for k in shifts])  # [shifts, N]
    means = distances.mean(1)
    best = int(means.argmin())
    middle = float(np.sort(means)[max_shift])  # an odd number of shifts has one median
    curve = median_filter(middle - distances[best], CURVE_FRAMES)
    return Agreement(middle - float(means[best]), float(means[best]), max_shift - best, curve)


def judge(network: SyncNet, faces: Iterable[np.ndarray], num_faces: int, speech: np.ndarray) -> Agreement | None:
    """Judge one track; None where it has fewer than six frames with sound.

    Parameters
    ----------
    faces : `num_faces` of [224, 224, 3] uint8 RGB at 25 a second, from `crop_track`; a few at a time are kept.
    speech : [T] float32 at 16 kHz, full scale at 1; its first sample belongs to the first face.
    """
    num_frames = min(num_faces, len(speech) // _SAMPLES_PER_FRAME)
    num_windows = num_frames - NUM_FRAMES  # the published code leaves the last possible one out
    if num_windows < 1:
        return None
    loudness = np.clip(np.rint(speech * 32768.0), -32768, 32767)  # the scale of 16-bit files
    lips = lip_embeddings(network, islice(faces, num_windows + NUM_FRAMES - 1))
    sound = sound_embeddings(network, mfcc(loudness), num_windows)
    return agreement(lips[:num_windows], sound[: len(lips)])


def load_expert(device: torch.device | str = "auto") -> SyncExpert | None:
    """Both networks of the set "metrics-sync"; None where its files are not on this machine.

    Raises
    ------
    CheckpointError : a file is broken.
    """
    network, detector = hub.find(SYNCNET_FILE), hub.find(S3FD_FILE)
    if network is None or detector is None:
        return None
    where = choose_device(str(device))
    return SyncExpert(load_syncnet(network).to(where), load_s3fd(detector).to(where))


def measure_sync(film: Film, expert: SyncExpert | None) -> list[Measure]:
    """sync_c, sync_d and sync_offset of the film's longest face track.

    Where the longest track has no more than the published minimum of 100 frames, more than 50 are enough; a small picture is
    searched at half its size and not at a quarter. Notes say so.

    Parameters
    ----------
    expert : from `load_expert`; None gives measures without values, which name what brings the weights.
    """
    if expert is None:
        return missing(NAMES, lacking("metrics-sync"))
    if film.speech is None:
        return missing(NAMES, "the film has no sound: give a recording with --speech")
    scale = scale_for(film.size)
    detector = FaceDetector(expert.detector, scale)
    tracks = find_tracks(on_the_clock(film.frames(), film.fps), detector, min_frames=SHORT_TRACK_FRAMES)
    if not tracks:
        return missing(NAMES, f"no face of {MIN_FACE_PX} pixels is seen for more than {SHORT_TRACK_FRAMES / RATE_FPS:.0f} s")
    track = max(tracks, key=len)
    faces = crop_track(on_the_clock(film.frames(), film.fps), track)
    start = track.first_frame * _SAMPLES_PER_FRAME
    found = judge(expert.network, faces, len(track), film.speech[start : start + len(track) * _SAMPLES_PER_FRAME])
    if found is None:
        return missing(NAMES, "there is no sound while the face is seen")
    is_long = len(track) > MIN_TRACK_FRAMES
    notes = ["" if is_long else f"a face track of {len(track)} frames, where the published pipeline asks for more than 100"]
    notes += ["" if scale == SCALE else f"faces searched at {scale} of the picture's size, where {SCALE} is published"]
    notes += ["" if len(tracks) == 1 else f"the longest of {len(tracks)} faces"]
    note = "; ".join(filter(None, notes))
    return [
        Measure("sync_c", found.confidence, note=note, curve=_on_frames(found.curve, track, film)),
        Measure("sync_d", found.distance, note=note),
        Measure("sync_offset", float(found.offset_frames), f"frames of 1/{RATE_FPS} s", note),
    ]


def _on_frames(curve: np.ndarray, track: Track, film: Film) -> np.ndarray:
    """The confidence of windows, which begin with frames at 25 a second, over the film's own frames."""
    values = np.full(film.num_frames, np.nan)
    window = np.round(np.arange(film.num_frames) * RATE_FPS / film.fps).astype(int) - track.first_frame - NUM_FRAMES // 2
    is_known = (window >= 0) & (window < len(curve))
    values[is_known] = curve[window[is_known]]
    return values
