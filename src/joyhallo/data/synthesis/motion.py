"""Head pose and lip movement of face points: the rigid part is fitted away, the rest is in centimetres of the average face."""

from dataclasses import dataclass

import numpy as np

from joyhallo.conditioning import anatomy

# Nose bridge, eye corners, forehead, temples: points that speech does not move.
RIGID = (33, 133, 362, 263, 168, 6, 197, 195, 5, 4, 1, 10, 151, 9, 8, 127, 356, 234, 454)
# The inner lips as one closed line, and everything that the speech encoder learns to predict: lips and chin.
INNER_RING = anatomy.INNER_UPPER_LIP + anatomy.INNER_LOWER_LIP[-2:0:-1]
LIPS_AND_CHIN = anatomy.LIPS + INNER_RING + (152, 176, 400)
# Both lids from the outer corner of the eye to the inner one.
RIGHT_EYE_UPPER, RIGHT_EYE_LOWER = anatomy.RIGHT_EYE[:9], (anatomy.RIGHT_EYE[0], *anatomy.RIGHT_EYE[:7:-1])
LEFT_EYE_UPPER, LEFT_EYE_LOWER = anatomy.LEFT_EYE[:9], (anatomy.LEFT_EYE[0], *anatomy.LEFT_EYE[:7:-1])
_GAP_PAIRS = ((13, 14), (82, 87), (312, 317), (81, 178), (311, 402))


@dataclass(frozen=True, eq=False)
class Pose:
    """A similarity: point = scale · rotation · canonical + shift (pixels per centimetre, [3, 3], pixels)."""

    scale: float
    rotation: np.ndarray
    shift: np.ndarray

    def to_picture(self, canonical: np.ndarray) -> np.ndarray:
        """Canonical points [N, 3] → picture points [N, 3]."""
        return self.scale * canonical @ self.rotation.T + self.shift

    def to_canonical(self, points: np.ndarray) -> np.ndarray:
        """Picture points [N, 3] → canonical points [N, 3]."""
        return (points - self.shift) @ self.rotation / self.scale


def fit_similarity(source: np.ndarray, target: np.ndarray) -> Pose:
    """The least-squares similarity from source to target points [N, 3] (Umeyama 1991)."""
    source_mean, target_mean = source.mean(0), target.mean(0)
    from_mean, to_mean = source - source_mean, target - target_mean
    left, values, right = np.linalg.svd(to_mean.T @ from_mean)
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    rotation = left @ np.diag(signs) @ right
    scale = float((values * signs).sum() / np.square(from_mean).sum())
    return Pose(scale, rotation, target_mean - scale * rotation @ source_mean)


def fit_pose(points: np.ndarray, template: np.ndarray) -> Pose:
    """Pose of face points [478, 3] against canonical vertices (or the face's own canonical points) by the rigid points."""
    rigid = list(RIGID)
    return fit_similarity(template[rigid].astype(np.float64), points[rigid].astype(np.float64))


def lip_gap(canonical: np.ndarray) -> np.ndarray:
    """Opening between the inner lips of canonical points [..., N, 3], centimetres [...]."""
    upper, lower = ([pair[side] for pair in _GAP_PAIRS] for side in (0, 1))
    return (canonical[..., lower, 1] - canonical[..., upper, 1]).mean(-1)


def rigid_free(points: np.ndarray, template: np.ndarray) -> tuple[np.ndarray, list[Pose]]:
    """Points [F, 478, 3] of one person → canonical points [F, 478, 3] and the pose of every frame.

    The fit is done twice: against the average face, then against the median of this face, so that the person's own shape does
    not show as motion.
    """
    points = points.astype(np.float64)
    own = np.median([fit_pose(frame, template).to_canonical(frame) for frame in points], 0)
    poses = [fit_pose(frame, own) for frame in points]
    return np.stack([pose.to_canonical(frame) for pose, frame in zip(poses, points, strict=True)]), poses
