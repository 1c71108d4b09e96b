"""The head's movement, and the face with that movement taken out of it.

Everything is measured in eye distances (from outer corner to outer corner, about 9 cm), so that the size of the picture and
of the face do not matter. Axes: N frames, K mesh points, R rigid points.
"""

from dataclasses import dataclass

import numpy as np

from joyhallo.conditioning import anatomy

# Nose bridge, eye corners, forehead and temples: what the jaw, the lips and the lids do not move.
_RIGID = (33, 133, 362, 263, 168, 6, 197, 195, 5, 4, 1, 10, 151, 9, 8, 127, 356, 234, 454)
_NUM_ROUNDS = 3


@dataclass(frozen=True, eq=False)
class Head:
    """A face over time; rows are NaN where no face was found."""

    shape: np.ndarray  # [N, K, 3] held still: x to the person's left, y down, z away from the camera; 0 between the eyes
    turn_deg: np.ndarray  # [N, 3] rotation vectors against the film's mean: about x (nod), y (shake), z (tilt)
    place: np.ndarray  # [N, 2] where the head is in the picture, x and y in eye distances
    eye_distance_px: float  # the film's mean


def hold_still(points: np.ndarray) -> Head:
    """Fit every frame of `points` [N, K, 3] (pixels; NaN rows allowed, at least one without) to the film's own mean face."""
    seen = np.isfinite(points[:, 0, 0])
    faces = points[seen].astype(np.float64)
    rigid = list(_RIGID)
    template = _upright(faces[0])[rigid]
    for _ in range(_NUM_ROUNDS):  # the mean of the aligned faces, aligned again: no single frame decides
        fits = _fit(faces[:, rigid], template)
        template = _upright(_apply(fits, faces).mean(0))[rigid]
    fits = _fit(faces[:, rigid], template)
    distances = np.linalg.norm(faces[:, anatomy.LEFT_EYE_OUTER] - faces[:, anatomy.RIGHT_EYE_OUTER], axis=1)
    eye_distance_px = float(distances.mean())
    centres = faces[:, rigid, :2].mean(1) / eye_distance_px
    result = [np.full((len(points), *part), np.nan) for part in (faces.shape[1:], (3,), (2,))]
    turns = _rotation_vectors(np.swapaxes(fits.rotation, 1, 2))
    for whole, part in zip(result, (_apply(fits, faces), np.degrees(turns), centres), strict=True):
        whole[seen] = part
    return Head(result[0], result[1], result[2], eye_distance_px)


@dataclass(frozen=True, eq=False)
class _Fits:
    """Similarities from every frame to the template: y = scale · rotation · (x − centre) + target."""

    scale: np.ndarray  # [N]
    rotation: np.ndarray  # [N, 3, 3]
    centre: np.ndarray  # [N, 3]
    target: np.ndarray  # [3]


def _fit(faces: np.ndarray, template: np.ndarray) -> _Fits:
    """Least squares for each of [N, R, 3] → [R, 3], without reflection (Umeyama 1991)."""
    centre, target = faces.mean(1), template.mean(0)
    moved, wanted = faces - centre[:, None], template - target
    left, sizes, right = np.linalg.svd(np.einsum("ri,nrj->nij", wanted, moved))
    sign = np.sign(np.linalg.det(left @ right))
    left[:, :, 2] *= sign[:, None]
    sizes[:, 2] *= sign
    scale = sizes.sum(1) / (moved**2).sum((1, 2))
    return _Fits(scale, left @ right, centre, target)


def _apply(fits: _Fits, faces: np.ndarray) -> np.ndarray:
    turned = np.einsum("nij,nkj->nki", fits.rotation, faces - fits.centre[:, None])
    return fits.scale[:, None, None] * turned + fits.target


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
