"""Where the lips are in a frame, as a small network reads them.

Axes: N frames, P lip points (`anatomy.LIP_POINTS`).
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from joyhallo.conditioning import anatomy
from joyhallo.models.lip_reader import WINDOW, LipReader

_VIEWS = ((0, 0), (1, 1), (-1, 1), (1, -1), (-1, -1))  # windows whose readings are averaged,
_VIEWS_APART = 1 / 24  # of a window's side from the first


@torch.no_grad()
def read_lips(pixels: Tensor, landmarks: np.ndarray, reader: LipReader, num_views: int = len(_VIEWS)) -> np.ndarray:
    """The lip points [N, P, 2] of frames [N, 3, H, W] in [-1, 1], in their pixels.

    `landmarks` [K, 2 or 3] of the mesh say where the mouth is, in pixels of the frames. More views, up to five, are steadier.
    """
    height, width = pixels.shape[2:]
    side = round(WINDOW * min(height, width))
    size, like = reader.config["size_px"], reader.units
    middle = landmarks[list(anatomy.LIP_POINTS), :2].mean(0) - side / 2
    begins = np.round(middle + np.array(_VIEWS[:num_views]) * _VIEWS_APART * side)
    begins = np.clip(begins, 0, [width - side, height - side]).astype(int)
    views = torch.cat([pixels[:, :, top : top + side, left : left + side] for left, top in begins])
    shown = functional.interpolate(views, size=(size, size), mode="bilinear", antialias=True).to(like)
    read = (reader(shown) * like).float().cpu().numpy() * side / size
    places = read.reshape(len(begins), len(pixels), -1, 2)
    return np.asarray((places + begins[:, None, None] + side / 2).mean(0))
