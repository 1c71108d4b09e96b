"""What a part of a film must be to train on, with the numbers; a part that is not is rejected with its reason.

Reasons are the same few words each time, so that they can be counted; the detail says what was measured and what is needed.
"""

from dataclasses import dataclass

import numpy as np

from joyhallo.conditioning.anatomy import head_yaw_deg, silhouette_box
from joyhallo.conditioning.lip_sync import LipSyncScore
from joyhallo.data.frames import FPS, SAMPLES_PER_FRAME
from joyhallo.data.preparation.films import Thresholds
from joyhallo.data.preparation.tracking import Stretch
from joyhallo.media.paste import Crop

OVERSHOOT = 0.02  # of the crop's side that a face may reach beyond it, or beyond the picture
SPEECH_OVER_NOISE_DB = 9.0  # sound counts as speech this far above the quietest tenth
QUIETEST_DBFS = -50.0  # and above this


@dataclass(frozen=True)
class Rejection:
    """Why a part is not used."""

    reason: str
    detail: str


def check_track(stretch: Stretch, thresholds: Thresholds) -> Rejection | None:
    """One speaker, long enough, large enough, frontal, sharp, with enough pictures a second; the first fault counts."""
    if stretch.reason is not None:
        return Rejection(stretch.reason, f"{stretch.num_frames / FPS:.1f} s")
    if stretch.num_frames < thresholds.min_frames:
        return Rejection("too short", f"{stretch.num_frames} frames, {thresholds.min_frames} are needed")
    rate_fps = stretch.num_pictures / stretch.num_frames * FPS
    if rate_fps < thresholds.min_rate_fps:
        return Rejection("too few pictures a second", f"{rate_fps:.1f}, {thresholds.min_rate_fps:g} are needed")
    boxes = silhouette_boxes(stretch.points)
    face_px = float(np.median((boxes[:, 2:] - boxes[:, :2]).max(1)))
    if face_px < thresholds.min_face_px:
        return Rejection("face too small", f"{face_px:.0f} px, {thresholds.min_face_px:g} are needed")
    yaw_deg = abs(float(np.median([head_yaw_deg(frame) for frame in stretch.points])))
    if yaw_deg > thresholds.max_yaw_deg:
        return Rejection("head turned away", f"{yaw_deg:.0f}°, up to {thresholds.max_yaw_deg:g}° can be used")
    if stretch.sharpness < thresholds.min_sharpness:
        return Rejection("blurred", f"sharpness {stretch.sharpness:.2f}, {thresholds.min_sharpness:g} is needed")
    return None


def check_crop(points: np.ndarray, crop: Crop, thresholds: Thresholds) -> Rejection | None:
    """Whether the face stays in the crop in all frames, and does not fill it. `points` [F, K, 3] of the film's pictures."""
    boxes = silhouette_boxes(points)
    low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    beyond = max(crop.left - low[0], crop.top - low[1], high[0] - crop.left - crop.width, high[1] - crop.top - crop.height)
    if beyond > OVERSHOOT * crop.height:
        return Rejection("face leaves the frame", f"by {beyond:.0f} px of the film")
    share = float(np.median((boxes[:, 2:] - boxes[:, :2]).max(1))) / crop.height
    if share > thresholds.max_face_share:
        return Rejection("face fills the frame", f"{share:.2f} of its side, up to {thresholds.max_face_share:g} can be used")
    return None


def check_speech(speech: np.ndarray, thresholds: Thresholds) -> Rejection | None:
    """Whether somebody speaks long enough. `speech` [F·640]."""
    share = speech_share(speech)
    if share < thresholds.min_speech_share:
        return Rejection("no speech", f"in {share:.2f} of the frames, {thresholds.min_speech_share:g} are needed")
    return None


def check_sync(score: LipSyncScore | None, thresholds: Thresholds) -> Rejection | None:
    """Whether the sound is that of these lips, and in time; a clip too short to tell passes."""
    if score is None:
        return None
    if score.best_score < thresholds.min_sync_score:
        return Rejection(
            "lips do not follow the sound", f"score {score.best_score:.2f}, {thresholds.min_sync_score:g} is needed"
        )
    limit = thresholds.max_sync_offset_frames
    lead = score.best_score - score.best_within(limit)
    if lead >= thresholds.min_sync_lead and score.confidence >= thresholds.min_sync_confidence:
        return Rejection("sound and lips out of sync", f"lips {score.offset_frames:+d} frames, up to ±{limit} can be used")
    return None


def speech_share(speech: np.ndarray) -> float:
    """Share of the frames that are clearly louder than the quietest tenth, and not nearly silent; of `speech` [F·640].

    Speech goes up and down by more than 20 dB several times a second; hum, noise and steady music do not, and count as none.
    """
    samples = speech.astype(np.float64) / (32768 if speech.dtype == np.int16 else 1)
    frames = samples.reshape(-1, SAMPLES_PER_FRAME)
    level_dbfs = 10 * np.log10(np.square(frames - frames.mean(1, keepdims=True)).mean(1) + 1e-12)
    floor = max(float(np.quantile(level_dbfs, 0.1)) + SPEECH_OVER_NOISE_DB, QUIETEST_DBFS)
    return float((level_dbfs > floor).mean())


def silhouette_boxes(points: np.ndarray) -> np.ndarray:
    """[F, 4] x0, y0, x1, y1 around the face in every frame of `points` [F, K, 3]."""
    return np.stack([silhouette_box(frame) for frame in points])
