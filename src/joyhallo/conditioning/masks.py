"""Where the lips, the expression and the pose are: soft masks for the audio attention, and the face rectangle.

The published preprocessing, step by step and in its own precision (uint8): the rectangle around the lips or the silhouette is
made larger, painted, shrunk to a 64×64 grid, blurred there, stretched to 0..255, combined, and resized for every depth.
For a square network size the result is bit for bit the published one, two cases excepted that are faults there: a rectangle
that outgrows the picture (there its negative start selects almost nothing) and a rectangle that covers the whole grid
(stretching a constant gives an empty mask) both mean "everywhere" here.

The grid has 64 cells along the short side of the network's size and proportionally more along the long one, so that the blur
is equally wide in both directions and keeps its share of the face at any aspect ratio.
"""

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from joyhallo.conditioning.anatomy import LIPS, SILHOUETTE
from joyhallo.models.conditions import RegionMasks

LIP_EXPAND = 2.0
FACE_EXPAND = 1.2
GRID_SIDE = 64
LIP_BLUR = 31  # kernel sizes in grid cells; OpenCV derives the deviations 5 and 8 from them
FACE_BLUR = 51


def region_masks(
    landmarks: np.ndarray,
    picture_size: tuple[int, int],
    latent_size: tuple[int, int],
    num_depths: int = 4,
    *,
    lip_expand: float = LIP_EXPAND,
    face_expand: float = FACE_EXPAND,
) -> RegionMasks:
    """The three masks for every depth of the denoising network.

    `landmarks` [K, 2 or 3] in pixels of a picture of `picture_size` (height, width), which is shown to the networks as a whole
    at `latent_size` (height, width). Each tensor is [1, 1, ceil(height / 2**i), ceil(width / 2**i)] float32 in [0, 1].
    Source: the published image preprocessing; `expression` is its sep_face, `pose` its sep_background.
    """
    grid = _grid_size(latent_size)
    lip = _blurred(expanded_box(landmarks, LIPS, picture_size, lip_expand), picture_size, grid, LIP_BLUR)
    face = _blurred(expanded_box(landmarks, SILHOUETTE, picture_size, face_expand), picture_size, grid, FACE_BLUR)
    pose = ((1 - face / 255) * 255).astype(np.uint8)  # truncated as published: may be 1 below 255 - face
    expression = cv2.subtract(face, lip)
    sizes = [(-(-latent_size[0] // 2**i), -(-latent_size[1] // 2**i)) for i in range(num_depths)]
    return RegionMasks(lip=_pyramid(lip, sizes), expression=_pyramid(expression, sizes), pose=_pyramid(pose, sizes))


def clip_masks(points: np.ndarray, picture_size: tuple[int, int]) -> np.ndarray:
    """The masks that a whole clip is trained with: [3, 64, 64] uint8, lip, expression and pose.

    `points` [F, K, 2 or 3] in pixels of frames of `picture_size` (height, width), which need not be square: the grid is. The
    rectangles of all frames, not made larger, are united into the one around them, blurred and combined. Source: the published
    data preparation (where, unlike for a portrait, `pose` is not truncated).
    """
    grid = (GRID_SIDE, GRID_SIDE)
    lip = _blurred(clip_box(points, LIPS, picture_size), picture_size, grid, LIP_BLUR)
    face = _blurred(clip_box(points, SILHOUETTE, picture_size), picture_size, grid, FACE_BLUR)
    return np.stack([lip, cv2.subtract(face, lip), 255 - face])


def clip_box(points: np.ndarray, ids: tuple[int, ...], picture_size: tuple[int, int]) -> np.ndarray:
    """The rectangle [4] int32 x0, y0, x1, y1 around the points `ids` in all frames of `points` [F, K, 2 or 3]."""
    boxes = np.stack([expanded_box(frame, ids, picture_size, 1.0) for frame in points])
    return np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)]).astype(np.int32)


def face_region(
    landmarks: np.ndarray,
    picture_size: tuple[int, int],
    face_expand: float = FACE_EXPAND,
    *,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """The hard face rectangle for the face locator: [3, H, W] float32, 1 inside and 0 outside.

    At `picture_size`, or resized from there to `size` (both (height, width)) as the published code does, which leaves
    values in between along the border.
    """
    painted = _painted(expanded_box(landmarks, SILHOUETTE, picture_size, face_expand), picture_size)
    if size is not None:
        painted = _resized(painted, size)
    return torch.from_numpy(painted.astype(np.float32) / 255.0).expand(3, -1, -1).contiguous()


def expanded_box(landmarks: np.ndarray, ids: tuple[int, ...], picture_size: tuple[int, int], expand: float) -> np.ndarray:
    """The rectangle [4] x0, y0, x1, y1 around the points `ids`, `expand` times as wide and high, moved into the picture."""
    points = landmarks[list(ids), :2].astype(np.float64)
    low, high = np.round(points.min(0)).astype(int), np.round(points.max(0)).astype(int)
    height, width = picture_size
    x0, x1 = _expanded(int(low[0]), int(high[0]), width, expand)
    y0, y1 = _expanded(int(low[1]), int(high[1]), height, expand)
    return np.array([x0, y0, x1, y1])


def _expanded(low: int, high: int, limit: int, expand: float) -> tuple[int, int]:
    """One side of the rectangle; the floor divisions are the published ones."""
    middle = (high + low) // 2
    half = (high - low) * expand // 2
    start, end = middle - half, middle + half
    if start < 0:
        start, end = 0, end - start
    if end > limit:
        start, end = start - (end - limit), limit
    return max(0, round(start)), round(end)


def _painted(box: np.ndarray, picture_size: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(picture_size, np.uint8)
    mask[box[1] : box[3], box[0] : box[2]] = 255
    return mask


def _blurred(box: np.ndarray, picture_size: tuple[int, int], grid: tuple[int, int], kernel: int) -> np.ndarray:
    """The rectangle on the grid, blurred and stretched to 0..255, uint8."""
    small = cv2.resize(_painted(box, picture_size), (grid[1], grid[0]))
    soft = cv2.GaussianBlur(small, (kernel, kernel), 0)
    if soft.min() == soft.max():
        return soft
    return cv2.normalize(soft, np.empty_like(soft), 0, 255, cv2.NORM_MINMAX)


def _grid_size(latent_size: tuple[int, int]) -> tuple[int, int]:
    height, width = latent_size
    short = min(height, width)
    return round(GRID_SIDE * height / short), round(GRID_SIDE * width / short)


def _resized(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def _pyramid(mask: np.ndarray, sizes: list[tuple[int, int]]) -> tuple[Tensor, ...]:
    levels = [torch.from_numpy(_resized(mask, size).astype(np.float32) / 255.0) for size in sizes]
    return tuple(level[None, None] for level in levels)
