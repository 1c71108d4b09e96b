"""How a tracked speaker moves, freed of who the speaker is, so that another face can make the same movement."""

from dataclasses import dataclass

import cv2
import numpy as np

from joyhallo.conditioning import anatomy
from joyhallo.conditioning.lips import lip_gap
from joyhallo.data.synthesis import motion

# Savitzky-Golay, window 5, order 2: removes the tracker's jitter and keeps quick closures.
_SMOOTHING = np.array([-3, 12, 17, 12, -3]) / 35
_HEAD_SHARE = 0.7  # of the speaker's turning, nearing and shifting of the head: more shows on a stretched picture


@dataclass(frozen=True, eq=False)
class Gesture:
    """Movement of F frames against the speaker's own closed-mouth rest; canonical centimetres."""

    shape: np.ndarray  # [F, 478, 3] displacement of every point, head pose removed
    gap: np.ndarray  # [F, 11] opening at the pairs of the inner lips
    blink: np.ndarray  # [F] 0 open to 1 shut
    rotation: np.ndarray  # [F, 3, 3] of the head against its mean
    scale: np.ndarray  # [F] nearness of the head against its median
    shift: np.ndarray  # [F, 3] against its median

    def part(self, start: int, num_frames: int) -> "Gesture":
        """Frames `start` to `start + num_frames`."""
        keep = slice(start, start + num_frames)
        return Gesture(*(getattr(self, name)[keep] for name in self.__dataclass_fields__))


def smooth(points: np.ndarray) -> np.ndarray:
    """Points [F, N, 3] smoothed over time, ends repeated."""
    padded = np.concatenate([points[:1], points[:1], points, points[-1:], points[-1:]]).astype(np.float64)
    windows = np.stack([padded[first : first + len(points)] for first in range(len(_SMOOTHING))], -1)
    return windows @ _SMOOTHING


def shut_when_nearly_shut(gaps: np.ndarray) -> np.ndarray:
    """Openings [..., 11], centimetres, with what the tracker reports of shut lips (0.01 to 0.04 cm) taken for none."""
    middle = gaps[..., 3:8].mean(-1, keepdims=True)
    share = np.clip((middle - 0.035) / 0.085, 0, 1)
    return np.asarray(np.maximum(gaps, 0) * share)


def part_of_rotation(rotation: np.ndarray, share: float) -> np.ndarray:
    """The rotation [3, 3] by `share` of its angle."""
    return np.asarray(cv2.Rodrigues(cv2.Rodrigues(rotation)[0] * share)[0])


def _mean_rotation(rotations: np.ndarray) -> np.ndarray:
    left, _, right = np.linalg.svd(rotations.mean(0))
    return left @ right


def _blinks(canonical: np.ndarray) -> np.ndarray:
    openings = []
    for upper, lower in (
        (motion.RIGHT_EYE_UPPER, motion.RIGHT_EYE_LOWER),
        (motion.LEFT_EYE_UPPER, motion.LEFT_EYE_LOWER),
    ):
        openings.append((canonical[:, list(lower[2:7]), 1] - canonical[:, list(upper[2:7]), 1]).mean(1))
    opening = np.mean(openings, 0)
    # Half-shut eyes are mostly a downward look: only what goes beyond counts as a blink.
    return np.clip((1 - opening / np.percentile(opening, 80) - 0.42) / 0.3, 0, 1)


def read_gesture(points: np.ndarray, template: np.ndarray) -> Gesture:
    """The movement in tracked points [F, 478, 3] of a speaker; `template`: vertices of the average face."""
    canonical, poses = motion.rigid_free(smooth(points), template)
    gaps = canonical[:, list(anatomy.INNER_LOWER_LIP), 1] - canonical[:, list(anatomy.INNER_UPPER_LIP), 1]
    mouth_corners = canonical[:, anatomy.RIGHT_MOUTH_CORNER], canonical[:, anatomy.LEFT_MOUTH_CORNER]
    # Rest: the twelve frames most like the median of those with the mouth most nearly shut.
    measures = np.stack([lip_gap(canonical), np.linalg.norm(mouth_corners[0] - mouth_corners[1], axis=-1)], 1)
    is_shut = measures[:, 0] <= np.percentile(measures[:, 0], 35)
    rest = np.argsort(np.abs(measures - np.median(measures[is_shut], 0)).sum(1))[:12]
    mean_rotation = _mean_rotation(poses.rotation)
    scale = np.median(poses.scale)
    return Gesture(
        shape=canonical - canonical[rest].mean(0),
        gap=shut_when_nearly_shut(gaps),
        blink=_blinks(canonical),
        rotation=np.stack([part_of_rotation(rotation @ mean_rotation.T, _HEAD_SHARE) for rotation in poses.rotation]),
        scale=(poses.scale / scale) ** _HEAD_SHARE,
        shift=(poses.shift - np.median(poses.shift, 0)) * _HEAD_SHARE / scale,
    )
