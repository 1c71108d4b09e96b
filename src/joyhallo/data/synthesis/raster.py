"""Pictures stretched over triangles, also with several samples a pixel where an edge would look jagged.

Axes: T triangles, h and w of a window in pixels, f samples a pixel and direction.
"""

from dataclasses import dataclass

import cv2
import numpy as np

_UNCHANGED = np.array([[1.0, 0], [0, 1], [0, 0]], np.float32)
_STEEPEST = 3.0  # pixels of the picture in one of the frame: beyond, a sliver shows what lies outside of it
_MENDING_PX = 3
_SUB_PIXEL_BITS = 4  # corners are placed to a sixteenth of a sample


@dataclass(frozen=True)
class Window:
    """A part of a picture, in whole pixels, drawn with `factor` samples a pixel in each direction."""

    left: int
    top: int
    width: int
    height: int
    factor: int = 1

    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Columns [w·f] and rows [h·f] of the samples in pixels of the picture; whole numbers are the centres of pixels."""
        columns = self.left + (np.arange(self.width * self.factor, dtype=np.float32) + 0.5) / self.factor - 0.5
        rows = self.top + (np.arange(self.height * self.factor, dtype=np.float32) + 0.5) / self.factor - 0.5
        return columns, rows


@dataclass(frozen=True, eq=False)
class Drawn:
    """What was drawn in a window: [h·f, w·f, 3] uint8, and where triangles lay, [h·f, w·f]."""

    pixels: np.ndarray
    is_covered: np.ndarray


def window_around(points: np.ndarray, margin_px: float, size: int, factor: int) -> Window:
    """The window around points [N, 2] of a picture of side `size`, cut at its border; at least two pixels wide and high."""
    low = np.clip(np.floor(points.min(0) - margin_px).astype(int), 0, size - 2)
    high = np.clip(np.ceil(points.max(0) + margin_px).astype(int) + 1, low + 2, size)
    return Window(int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1]), factor)


@dataclass(frozen=True, eq=False)
class Patches:
    """Triangles of a picture with their new places; later ones lie over earlier ones."""

    corners: np.ndarray  # [T, 3, 2] where they go
    low: np.ndarray  # [T, 2] the least coordinates of each
    high: np.ndarray  # [T, 2] the greatest
    maps: np.ndarray  # [T, 3, 2] from there to where they come from: (x, y, 1) @ map
    is_broken: np.ndarray  # [T] facing away, or slivers: what they show would be specks


def cut_patches(targets: np.ndarray, sources: np.ndarray) -> Patches:
    """From the triangles `sources` [T, 3, 2] to `targets` [T, 3, 2], most of which face the viewer.

    All have their corners in the same order around; those that face away, before or after, and slivers lie under all others.
    """
    areas, areas_before = signed_areas(targets), signed_areas(sources)
    facing = np.sign(areas_before.sum())
    maps = _affine_maps(targets, sources, np.abs(areas) < 0.01)
    is_steep = np.square(maps[:, :2]).sum((1, 2)) > 2 * _STEEPEST**2
    is_broken = (areas * facing < 0) | (areas_before * facing < 0) | is_steep
    order = np.argsort(~is_broken, kind="stable")
    corners = targets[order]
    first, second, third = corners[:, 0], corners[:, 1], corners[:, 2]
    low = np.minimum(np.minimum(first, second), third)
    high = np.maximum(np.maximum(first, second), third)
    return Patches(corners, low, high, maps[order], is_broken[order])


def draw(image: np.ndarray, patches: Patches, window: Window) -> Drawn:
    """What a window shows of the image [S, S, 3] after its patches have moved; elsewhere it stays as it is."""
    left, top = window.left - 1, window.top - 1
    low, high = patches.low, patches.high
    is_near = (high[:, 0] >= left) & (high[:, 1] >= top)
    is_near &= (low[:, 0] <= window.left + window.width) & (low[:, 1] <= window.top + window.height)
    near = patches.corners[is_near]
    owner = np.full((window.height * window.factor, window.width * window.factor), len(near), np.int32)
    at = np.round(((near - [window.left, window.top] + 0.5) * window.factor - 0.5) * 2**_SUB_PIXEL_BITS).astype(np.int32)
    for index, corners in enumerate(at):
        cv2.fillConvexPoly(owner, corners, index, cv2.LINE_8, _SUB_PIXEL_BITS)
    maps = np.concatenate([patches.maps[is_near], _UNCHANGED[None]]).reshape(-1, 6)
    columns, rows = window.grid()
    of_owner = [maps[:, part][owner] for part in range(6)]
    x, y = (of_owner[axis] * columns + of_owner[2 + axis] * rows[:, None] + of_owner[4 + axis] for axis in (0, 1))
    is_whole = np.append(~patches.is_broken[is_near], False)[owner]
    x, y = _mended(x, columns[None], is_whole, window.factor), _mended(y, rows[:, None], is_whole, window.factor)
    pixels = cv2.remap(image, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return Drawn(np.asarray(pixels), owner < len(near))


def _mended(places: np.ndarray, own: np.ndarray, is_whole: np.ndarray, factor: int) -> np.ndarray:
    """Where pixels come from, [h·f, w·f]; those of broken triangles move as the whole ones around them do."""
    if is_whole.all():
        return places
    side = (2 * _MENDING_PX * factor + 1,) * 2
    share = cv2.boxFilter(is_whole.astype(np.float32), -1, side)
    moved = cv2.boxFilter(np.where(is_whole, places - own, 0).astype(np.float32), -1, side)
    return np.where(is_whole | (share < 0.05), places, own + moved / np.maximum(share, 0.05)).astype(np.float32)


def signed_areas(triangles: np.ndarray) -> np.ndarray:
    """Signed areas [T] of triangles [T, 3, 2]."""
    first, second = triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    return (first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]) / 2


def _affine_maps(targets: np.ndarray, sources: np.ndarray, is_flat: np.ndarray) -> np.ndarray:
    """From target to source per triangle, [T, 3, 2] float32; that of flat triangles changes nothing."""
    corners = np.concatenate([targets, np.ones((len(targets), 3, 1))], 2)
    corners[is_flat] = np.eye(3)
    maps = np.linalg.solve(corners, sources)
    maps[is_flat] = _UNCHANGED
    return maps.astype(np.float32)


def blend_into(frame: np.ndarray, samples: np.ndarray, weights: np.ndarray, window: Window) -> None:
    """Average samples [h·f, w·f, 3] to pixels and put them into the frame [S, S, 3] with weights [h, w] in [0, 1]."""
    part = frame[window.top : window.top + window.height, window.left : window.left + window.width]
    small = cv2.resize(samples, (window.width, window.height), interpolation=cv2.INTER_AREA).astype(np.float32)
    mixed = part + (small - part) * weights[..., None]
    part[:] = np.clip(mixed + 0.5, 0, 255).astype(np.uint8)


def soft_polygon(points: np.ndarray, window: Window, grow_px: float, soft_px: float) -> np.ndarray:
    """Weights [h, w]: 1 in the polygon [N, 2] and `grow_px` around it, falling to 0 over about `soft_px`."""
    mask = np.zeros((window.height, window.width), np.uint8)
    corners = np.round((points - [window.left, window.top]) * 16).astype(np.int32)
    cv2.fillPoly(mask, [corners], 255, cv2.LINE_8, 4)
    cv2.polylines(mask, [corners], True, 255, max(1, round(2 * grow_px)), cv2.LINE_8, 4)
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), soft_px).astype(np.float32) / 255)
