"""Head pose and lip movement of face points: the rigid part is fitted away, the rest is in centimetres of the average face."""

import numpy as np

from joyhallo.conditioning import anatomy
from joyhallo.conditioning.similarity import Similarity, fit_similarity

LIPS_AND_CHIN = anatomy.LIPS + anatomy.INNER_LIP_RING + (152, 176, 400)  # what the speech encoder learns to predict
# Both lids from the outer corner of the eye to the inner one.
RIGHT_EYE_UPPER, RIGHT_EYE_LOWER = anatomy.RIGHT_EYE[:9], (anatomy.RIGHT_EYE[0], *anatomy.RIGHT_EYE[:7:-1])
LEFT_EYE_UPPER, LEFT_EYE_LOWER = anatomy.LEFT_EYE[:9], (anatomy.LEFT_EYE[0], *anatomy.LEFT_EYE[:7:-1])


def fit_pose(points: np.ndarray, template: np.ndarray) -> Similarity:
    """Pose of face points [..., 478, 3] against canonical vertices (or the face's own canonical points) by the rigid points:
    from canonical centimetres to pixels."""
    rigid = list(anatomy.RIGID)
    return fit_similarity(template[rigid].astype(np.float64), points[..., rigid, :].astype(np.float64))


def rigid_free(points: np.ndarray, template: np.ndarray) -> tuple[np.ndarray, Similarity]:
    """Points [F, 478, 3] of one person → canonical points [F, 478, 3] and the poses of all frames.

    The fit is done twice: against the average face, then against the median of this face, so that the person's own shape does
    not show as motion.
    """
    points = points.astype(np.float64)
    own = np.median(fit_pose(points, template).undo(points), 0)
    poses = fit_pose(points, own)
    return poses.undo(points), poses
