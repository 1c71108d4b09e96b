"""A head that moves a little in its picture: everything around it follows less and less.

The picture is shifted smoothly, by a field that is linear in the pose: a flat tilt and shift of the head and its hair, and for
turns and nods the front of an egg-shaped head that moves against its outline. Meant for a few degrees.
"""

import cv2
import numpy as np

from joyhallo.conditioning.anatomy import silhouette_box
from joyhallo.easing import smooth_step
from joyhallo.idle.motion import HeadPose

_CELL_PX = 8  # the field is computed on a grid and smooth between
_WHOLE, _NOTHING = 1.25, 2.3  # radii, in faces, up to which the head moves as one, and beyond which nothing does
_BORDER = 0.12  # of the picture's shorter side: what lies nearer to its edge follows less, there is nothing behind it
_DEPTH = 0.55  # of the face's height, from its outline to its front
_PIVOT = 0.75  # of the face's height under its middle: the neck


class Sway:
    """Moves the head of one picture; what does not depend on the pose is computed once."""

    def __init__(self, size: tuple[int, int], points: np.ndarray) -> None:
        """`size` (height, width) of the picture in pixels; `points` [K, 3] of the face mesh in it."""
        height, width = size
        left, top, right, bottom = silhouette_box(points).astype(float)
        self._face_px = bottom - top
        middle = np.array([(left + right) / 2, (top + bottom) / 2])
        radii = np.array([right - left, bottom - top]) / 2
        reach = _NOTHING * radii + _CELL_PX
        low = np.maximum(np.floor(middle - reach), 0).astype(int)
        high = np.minimum(np.ceil(middle + reach), [width, height]).astype(int)
        self._part = (slice(low[1], high[1]), slice(low[0], high[0]))
        columns, rows = (np.arange(a, b, dtype=np.float32) for a, b in zip(low, high, strict=True))
        self._columns, self._rows = columns, rows
        counts = [max(2, -(-len(places) // _CELL_PX)) for places in (columns, rows)]
        # The centres of cells of equal size: what cv2.resize takes them for.
        grid = [a + (np.arange(n) + 0.5) * (b - a) / n - 0.5 for a, b, n in zip(low, high, counts, strict=True)]
        at = np.stack(np.meshgrid(*grid), -1)  # [h, w, 2]
        self._fields = _fields(at, middle, radii, self._face_px, (height, width))

    def move(self, picture: np.ndarray, pose: HeadPose) -> np.ndarray:
        """The picture [H, W, 3] uint8 with the head in a pose; the picture itself where nothing moves."""
        amounts = np.array([pose.turn, pose.nod, pose.tilt, pose.right * self._face_px, pose.down * self._face_px])
        if not amounts.any():
            return picture
        shift = np.tensordot(amounts, self._fields, 1).astype(np.float32)  # [h, w, 2] in pixels
        part = picture[self._part]
        shift = cv2.resize(shift, (part.shape[1], part.shape[0]), interpolation=cv2.INTER_LINEAR)
        x, y = self._columns[None] - shift[..., 0], self._rows[:, None] - shift[..., 1]
        moved = picture.copy()
        moved[self._part] = cv2.remap(picture, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        return moved


def _fields(at: np.ndarray, middle: np.ndarray, radii: np.ndarray, face_px: float, size: tuple[int, int]) -> np.ndarray:
    """Where places `at` [h, w, 2] go per unit of each number of a pose, in pixels: [5, h, w, 2]."""
    from_middle = at - middle
    radius = np.linalg.norm(from_middle / radii, axis=-1)
    follows = smooth_step(radius, _NOTHING, _WHOLE)
    edge = np.minimum.reduce([at[..., 0] + 1, size[1] - at[..., 0], at[..., 1] + 1])  # shoulders may reach the lower edge
    follows *= smooth_step(edge, 0, _BORDER * min(size))
    front = _DEPTH * face_px * np.clip(1 - (radius / _WHOLE) ** 2, 0, None)  # towards the viewer, 0 at the outline
    nothing = np.zeros_like(follows)
    from_pivot = from_middle - [0, _PIVOT * face_px]
    tilt = np.stack([-from_pivot[..., 1], from_pivot[..., 0]], -1) * follows[..., None]
    axes = [np.stack(pair, -1) for pair in ((front * follows, nothing), (nothing, front * follows))]
    shifts = [np.stack(pair, -1) for pair in ((follows, nothing), (nothing, follows))]
    return np.stack([axes[0], axes[1], tilt, *shifts])
