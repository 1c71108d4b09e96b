"""The head's movement, and the face with that movement taken out of it.

Everything is measured in eye distances (from outer corner to outer corner, about 9 cm), so that the size of the picture and
of the face do not matter. Axes: N frames, K mesh points, R rigid points.
"""

from dataclasses import dataclass

import numpy as np

from joyhallo.conditioning import anatomy
from joyhallo.conditioning.similarity import fit_similarity

_NUM_ROUNDS = 3
_PIECE_FRAMES = 250  # at once: temporary memory must not grow with the film


@dataclass(frozen=True, eq=False)
class Head:
    """A face over time; rows are NaN where no face was found."""

    shape: (
        np.ndarray
    )  # [N, K, 3] float32, held still: x to the person's left, y down, z away from the camera; 0 between the eyes
    turn_deg: np.ndarray  # [N, 3] rotation vectors against the film's mean: about x (nod), y (shake), z (tilt)
    place: np.ndarray  # [N, 2] where the head is in the picture, x and y in eye distances
    eye_distance_px: float  # the film's mean


def hold_still(points: np.ndarray) -> Head:
    """Fit every frame of `points` [N, K, 3] (pixels; NaN rows allowed, at least one without) to the film's own mean face."""
    seen = np.flatnonzero(np.isfinite(points[:, 0, 0]))
    rigid = list(anatomy.RIGID)
    pieces = np.array_split(seen, -(-len(seen) // _PIECE_FRAMES))
    template = _upright(points[seen[0]].astype(np.float64))[rigid]
    for _ in range(_NUM_ROUNDS):  # the mean of the aligned faces, aligned again: no single frame decides
        total = np.zeros(points.shape[1:])
        for piece in pieces:
            total += _held(points[piece], template).sum(0)
        template = _upright(total / len(seen))[rigid]
    shape = np.full(points.shape, np.nan, np.float32)
    turn_deg, place = np.full((len(points), 3), np.nan), np.full((len(points), 2), np.nan)
    for piece in pieces:
        shape[piece] = _held(points[piece], template)
    faces = points[seen][:, rigid].astype(np.float64)
    turn_deg[seen] = np.degrees(_rotation_vectors(np.swapaxes(fit_similarity(faces, template).rotation, 1, 2)))
    across = points[seen, anatomy.LEFT_EYE_OUTER].astype(np.float64) - points[seen, anatomy.RIGHT_EYE_OUTER]
    eye_distance_px = float(np.linalg.norm(across, axis=1).mean())
    place[seen] = faces[..., :2].mean(1) / eye_distance_px
    return Head(shape, turn_deg, place, eye_distance_px)


def _held(points: np.ndarray, template: np.ndarray) -> np.ndarray:
    """Faces [M, K, 3] laid on the rigid points [R, 3] of a template, float64."""
    faces = points.astype(np.float64)
    return fit_similarity(faces[:, list(anatomy.RIGID)], template).apply(faces)


def _upright(face: np.ndarray) -> np.ndarray:
    """A face [K, 3] turned so that its eyes are level and its forehead is above its nose, in eye distances."""
    right, left = face[anatomy.RIGHT_EYE_OUTER], face[anatomy.LEFT_EYE_OUTER]
    across = (left - right) / np.linalg.norm(left - right)
    down = face[anatomy.CHIN] - face[anatomy.FOREHEAD]
    down = down - across * (down @ across)
    down /= np.linalg.norm(down)
    axes = np.stack([across, down, np.cross(across, down)])
    return (face - (left + right) / 2) @ axes.T / np.linalg.norm(left - right)


def _rotation_vectors(rotations: np.ndarray) -> np.ndarray:
    """Axis times angle [N, 3] in radians of rotations [N, 3, 3] of less than half a turn."""
    cosine = np.clip((np.trace(rotations, axis1=1, axis2=2) - 1) / 2, -1, 1)
    angle = np.arccos(cosine)
    skew = np.stack([rotations[:, 2, 1] - rotations[:, 1, 2], rotations[:, 0, 2] - rotations[:, 2, 0],
                     rotations[:, 1, 0] - rotations[:, 0, 1]], axis=1) / 2  # fmt: skip
    sine = np.sin(angle)
    return skew * np.where(sine > 1e-9, angle / np.maximum(sine, 1e-9), 1.0)[:, None]
