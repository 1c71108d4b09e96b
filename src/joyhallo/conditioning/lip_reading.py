"""Where the lips are in a frame, as a small network reads them.

Axes: N frames, P lip points (`anatomy.LIP_POINTS`).
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from joyhallo.conditioning import anatomy
from joyhallo.conditioning.similarity import upright
from joyhallo.models.lip_reader import WINDOW, LipReader

_VIEWS = ((0, 0), (1, 1), (-1, 1), (1, -1), (-1, -1))  # windows whose readings are averaged,
_VIEWS_APART = 1 / 24  # of a window's side from the first


@torch.no_grad()
def read_lips(pixels: Tensor, landmarks: np.ndarray, reader: LipReader, num_views: int = len(_VIEWS)) -> np.ndarray:
    """The lip points [N, P, 2] of frames [N, 3, H, W] in [-1, 1], in their pixels.

    `landmarks` [K, 2 or 3] of the mesh say where the mouth is and how the head is tilted, in pixels of the frames. More views,
    up to five, are steadier. What a window shows beyond a frame's border is the border itself.
    """
    size, like = reader.config["size_px"], reader.units
    scale = WINDOW * min(pixels.shape[2:]) / size  # pixels of the frame to one of a window
    turn = upright(landmarks).rotation[:2, :2]
    middle = landmarks[list(anatomy.LIP_POINTS), :2].mean(0)
    middles = [middle + turn @ view for view in np.array(_VIEWS[:num_views]) * _VIEWS_APART * scale * size]
    pixels = pixels.to(like)
    views = torch.cat([_window(pixels, turn * scale, view, size) for view in middles])
    read = (reader(views) * like).float().cpu().numpy().reshape(num_views, len(pixels), -1, 2)
    places = read @ (turn * scale).T + np.stack(middles)[:, None, None]
    return np.asarray(places.mean(0))


def lips_apart(pixels: Tensor, landmarks: np.ndarray, reader: LipReader) -> float:
    """How far the lips that are read in a frame [3, H, W] in [-1, 1] lie from those of its mesh, as a share of their width.

    Of 90 photographs with shut lips it is at most 0.047 with the mesh of 478 points and 0.068 with that of 468; more where
    there are no clear lips.
    """
    of_mesh = landmarks[list(anatomy.LIP_POINTS), :2]
    width = np.linalg.norm(landmarks[anatomy.RIGHT_MOUTH_CORNER, :2] - landmarks[anatomy.LEFT_MOUTH_CORNER, :2])
    apart = np.linalg.norm(read_lips(pixels[None], landmarks, reader)[0] - of_mesh, axis=1).mean()
    return float(apart / max(float(width), 1.0))


def inner_gap(places: np.ndarray, down: np.ndarray) -> np.ndarray:
    """How far apart the inner lips are along an axis [2]; `places` [N, P, 2], or their moves. [N], below 0 where they cross."""
    apart = places[:, list(anatomy.LOWER_READ)] - places[:, list(anatomy.UPPER_READ)]
    return np.asarray(apart.mean(1) @ down)


def _window(pixels: Tensor, axes: np.ndarray, middle: np.ndarray, size: int) -> Tensor:
    """[N, 3, size, size]: what frames [N, 3, H, W] show around `middle` [2] on axes [2, 2] (columns: its across and down).

    A place of the window whose pixels are smaller than the frame's is between two of them, of one with larger ones their mean.
    """
    height, width = pixels.shape[2:]
    factor = max(1, round(float(np.linalg.norm(axes[:, 0]))))
    # Places from -1 to 1 across the frame and across the window, as affine_grid counts them.
    to_unit = np.diag([2 / width, 2 / height])
    move = to_unit @ axes * (size / 2)
    shift = to_unit @ (middle + 0.5) - 1
    theta = torch.from_numpy(np.c_[move, shift]).to(pixels)[None]
    grid = functional.affine_grid(theta, [1, 3, factor * size, factor * size], align_corners=False)
    shown = functional.grid_sample(
        pixels, grid.expand(len(pixels), -1, -1, -1), mode="bilinear", padding_mode="border", align_corners=False
    )
    return functional.avg_pool2d(shown, factor) if factor > 1 else shown
