"""Faces laid on one another: the similarity that brings points closest to others.

Axes: … any leading ones (frames), R points that are fitted, K points that are moved.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from joyhallo.conditioning import anatomy

_EYES_CM = 8.9  # between the outer corners of the average face's eyes


@dataclass(frozen=True, eq=False)
class Similarity:
    """point → scale · rotation · point + shift, one or many."""

    scale: Any  # […], a plain number for one
    rotation: np.ndarray  # […, 3, 3]
    shift: np.ndarray  # […, 3]

    def apply(self, points: np.ndarray) -> np.ndarray:
        """[…, K, 3] moved."""
        turned = points @ np.swapaxes(self.rotation, -1, -2)
        return np.asarray(self.scale)[..., None, None] * turned + self.shift[..., None, :]

    def undo(self, points: np.ndarray) -> np.ndarray:
        """[…, K, 3] moved back."""
        return (points - self.shift[..., None, :]) @ self.rotation / np.asarray(self.scale)[..., None, None]


def fit_similarity(source: np.ndarray, target: np.ndarray) -> Similarity:
    """The least-squares similarity without reflection from source [..., R, 3] to target [..., R, 3] (Umeyama 1991)."""
    source_mean, target_mean = source.mean(-2), target.mean(-2)
    moved, wanted = source - source_mean[..., None, :], target - target_mean[..., None, :]
    left, values, right = np.linalg.svd(np.swapaxes(wanted, -1, -2) @ moved)
    sign = np.sign(np.linalg.det(left @ right))
    signs = np.stack([np.ones_like(sign), np.ones_like(sign), sign], axis=-1)
    rotation = (left * signs[..., None, :]) @ right
    scale = (values * signs).sum(-1) / np.square(moved).sum((-1, -2))
    return Similarity(scale, rotation, target_mean - scale[..., None] * (rotation @ source_mean[..., None])[..., 0])


def upright(points: np.ndarray) -> Similarity:
    """From centimetres around the middle of the eyes, which are level, to pixels."""
    eyes = points[[anatomy.RIGHT_EYE_OUTER, anatomy.LEFT_EYE_OUTER]]
    roll = np.radians(anatomy.head_roll_deg(points))
    rotation = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    return Similarity(float(np.linalg.norm(eyes[1] - eyes[0])) / _EYES_CM, rotation, np.append(eyes[:, :2].mean(0), 0.0))
