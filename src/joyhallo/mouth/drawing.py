"""A picture's mouth opened and shut as lips are read, in the picture's own pixels and at its own size.

The skin around follows the way that everything moves (`media.moved_picture`); at the lips it goes where their lines go, and
between them the inside of the mouth is painted. What is computed lies on an upright grid around the mouth.

Axes: h and w of that grid, A and B of the part of the picture that it covers. Lengths are centimetres of the average face.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from joyhallo.conditioning.lips import settle_lip_line
from joyhallo.conditioning.similarity import upright
from joyhallo.conditioning.teeth import Teeth
from joyhallo.easing import smooth_step
from joyhallo.mouth.inside import Opening, mouth_look, paint_inside
from joyhallo.mouth.shape import Lips, heights, moved_lips, shut_lips

_COARSEST, _FINEST = 24.0, 40.0  # cells of the grid to a centimetre: as many as the picture has pixels, within these
_BESIDE, _ABOVE, _BELOW = 1.6, 1.4, 3.4  # that the grid goes on around the shut lips
_FOLLOWS, _FOLLOWS_SIDE = 1.1, 0.9  # from the lips on: up to where skin still goes with them
_SLIT = 0.05  # lines nearer than this have met
_BORDER = 0.25  # of the grid, over which it fades
# Of a frame's shorter side: lips that are read to move by less than the first rest, beyond the second they move as read.
_STILL, _MOVES = 0.0005, 0.0018


@dataclass(frozen=True, eq=False)
class _Grid:
    """Columns [1, w] and rows [h, 1] in centimetres, with the way to the picture's pixels and back."""

    x: np.ndarray
    y: np.ndarray
    window: tuple[slice, slice]  # of the picture
    to_picture: np.ndarray  # [2, 3], from cells
    to_cells: np.ndarray  # [2, 3], from pixels of the window
    weight: np.ndarray  # [A, B] 1 inside, fading at the grid's border


class SpeakingMouth:
    """Draws the mouth of one picture."""

    def __init__(self, picture: np.ndarray, points: np.ndarray, frame_size: tuple[int, int], teeth: Teeth | None) -> None:
        """`picture` [H, W, 3] uint8 with its lips together, `points` [K, 3] of the face mesh in its pixels.

        `frame_size` (height, width) of the frames that lips are read in. `teeth` are the person's own; without, there are
        painted ones.
        """
        self._picture = picture
        self._frame_size = frame_size
        self._per_frame = np.array([picture.shape[1] / frame_size[1], picture.shape[0] / frame_size[0]])
        points = points.astype(np.float64)
        pose = upright(points)
        settle_lip_line(picture, points, pose.scale)
        face = pose.undo(points)
        middle = shut_lips(face).inner_upper[5]
        self._pose = replace(pose, shift=pose.apply(np.append(middle, 0)[None])[0])
        self._shut = shut_lips(face - np.append(middle, 0))
        self._look = mouth_look(picture, points, teeth, is_own=teeth is not None)
        self._grid = self._laid_out()

    def lips(self, moves: np.ndarray) -> Lips | None:
        """Where lips are whose points have moved by `moves` [P, 2] in pixels of a frame; None where they rest."""
        stir = smooth_step(np.sqrt(np.square(moves).sum(1).mean()) / min(self._frame_size), _STILL, _MOVES)
        if not stir:
            return None
        in_picture = np.concatenate([moves * self._per_frame, np.zeros((len(moves), 1))], 1)
        return moved_lips(self._shut, stir * (in_picture @ self._pose.rotation / self._pose.scale)[:, :2])

    def covered(self, lips: Lips, frame_size: tuple[int, int]) -> np.ndarray:
        """Where a frame of `frame_size` shows lips, at rest or now: [h, w] float32 of 0 and 1."""
        mask = np.zeros(frame_size, np.float32)
        per_pixel = np.array([frame_size[1] / self._picture.shape[1], frame_size[0] / self._picture.shape[0]])
        for outline in (self._shut.outline, lips.outline):
            places = self._pose.apply(np.c_[outline, np.zeros(len(outline))])[:, :2] * per_pixel
            cv2.fillPoly(mask, [np.round(places).astype(np.int32)], 1.0)
        return cv2.dilate(mask, np.ones((5, 5)))

    def draw(self, followed: np.ndarray, way: np.ndarray, lips: Lips) -> None:
        """Put the mouth into `followed` [H, W, 3] uint8, the picture carried along `way` [h', w', 2] of a frame."""
        grid, shut = self._grid, self._shut
        skin = self._of_frame(way)
        upper, lower = (
            self._taken(_ways(grid, skin, now, before, outwards))
            for now, before, outwards in (
                ((lips.outer_upper, lips.inner_upper), (shut.outer_upper, shut.inner_upper), -1),
                ((lips.outer_lower, lips.inner_lower), (shut.outer_lower, shut.inner_lower), 1),
            )
        )
        top, bottom = heights(grid.x, lips.inner_upper), heights(grid.x, lips.inner_lower)
        parted = np.broadcast_to(smooth_step(bottom - top, 0, _SLIT), (len(grid.y), len(top[0])))
        lines = cv2.merge([grid.y - (top + bottom) / 2, grid.y - top, bottom - grid.y, parted.astype(np.float32)])
        under_middle, under_top, over_bottom, parted = cv2.split(self._of_picture(lines))
        drawn = upper + (lower - upper) * self._beyond(under_middle)[..., None]
        open_share = parted * np.minimum(self._beyond(under_top), self._beyond(over_bottom))
        drawn += (self._of_picture(self._inside(lips, top, bottom)) - drawn) * open_share[..., None]
        part = followed[grid.window]
        part[:] = np.clip(np.rint(part + (drawn - part) * grid.weight[..., None]), 0, 255).astype(np.uint8)

    def _laid_out(self) -> _Grid:
        """The grid around the mouth, and the part of the picture that it lies on."""
        ends, scale = self._shut.outline, self._pose.scale
        low = ends.min(0) - np.array([_BESIDE, _ABOVE])
        high = ends.max(0) + np.array([_BESIDE, _BELOW])
        fineness = float(np.clip(scale, _COARSEST, _FINEST))
        width, height = (max(8, round(length * fineness)) for length in high - low)
        x, y = (
            (first + np.arange(count) / fineness).astype(np.float32) for first, count in zip(low, (width, height), strict=True)
        )
        turn = self._pose.rotation[:2, :2] * scale
        to_picture = np.c_[turn / fineness, turn @ low + self._pose.shift[:2]]
        corners = to_picture @ np.array([[0, width - 1, 0, width - 1], [0, 0, height - 1, height - 1], [1, 1, 1, 1]])
        size = np.array([self._picture.shape[1], self._picture.shape[0]])
        first = np.clip(np.floor(corners.min(1)), 0, size - 1).astype(int)
        last = np.clip(np.ceil(corners.max(1)) + 1, first + 1, size).astype(int)
        to_window = to_picture - np.c_[np.zeros((2, 2)), first]
        to_cells = cv2.invertAffineTransform(to_window)
        weight = _fading(height, fineness)[:, None] * _fading(width, fineness)
        grid = _Grid(x[None], y[:, None], (slice(first[1], last[1]), slice(first[0], last[0])), to_picture, to_cells, weight)
        return replace(grid, weight=_warped(weight, to_cells, tuple(last - first), cv2.BORDER_CONSTANT))

    def _of_frame(self, way: np.ndarray) -> np.ndarray:
        """A way [h', w', 2] in pixels of a frame, at the grid's cells and in centimetres: [h, w, 2]."""
        grid = self._grid
        size = np.array([way.shape[1], way.shape[0]])
        per_pixel = size / [self._picture.shape[1], self._picture.shape[0]]
        to_frame = grid.to_picture * per_pixel[:, None]
        to_frame[:, 2] += 0.5 * per_pixel - 0.5  # from the middle of a pixel to that of the other
        at_cells = _warped(way, to_frame, (grid.x.shape[1], len(grid.y)))
        return at_cells / per_pixel.astype(np.float32) @ (self._pose.rotation[:2, :2] / self._pose.scale).astype(np.float32)

    def _of_picture(self, values: np.ndarray) -> np.ndarray:
        """What cells [h, w, ·] have, at the pixels of the window: [A, B, ·]."""
        rows, columns = self._grid.window
        return _warped(values, self._grid.to_cells, (columns.stop - columns.start, rows.stop - rows.start))

    def _taken(self, ways: np.ndarray) -> np.ndarray:
        """The picture in the window, its places taken along ways [h, w, 2] of the grid: [A, B, 3] float32."""
        rows, columns = self._grid.window
        turned = ways @ (self._pose.rotation[:2, :2].T * self._pose.scale).astype(np.float32)
        across, down = cv2.split(self._of_picture(turned))
        across += np.arange(columns.start, columns.stop, dtype=np.float32)
        down += np.arange(rows.start, rows.stop, dtype=np.float32)[:, None]
        return cv2.remap(self._picture, across, down, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)

    def _beyond(self, distance_cm: np.ndarray) -> np.ndarray:
        """How much of each pixel lies beyond a line, half a pixel of either side of it."""
        return np.clip(distance_cm * self._pose.scale + 0.5, 0, 1)

    def _inside(self, lips: Lips, top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
        """What is between the lips, [h, w, 3] float32; only the rows where they are parted are painted."""
        grid = self._grid
        painted = np.zeros((len(grid.y), grid.x.shape[1], 3), np.float32)
        rows = (grid.y[:, 0] >= top.min() - _SLIT) & (grid.y[:, 0] <= bottom.max() + _SLIT)
        painted[rows] = paint_inside(grid.x, grid.y[rows], Opening(lips.inner_upper, lips.inner_lower), self._look)
        return painted


def _ways(
    grid: _Grid,
    skin: np.ndarray,
    now: tuple[np.ndarray, np.ndarray],
    before: tuple[np.ndarray, np.ndarray],
    outwards: int,
) -> np.ndarray:
    """From every cell back to where it was in the picture, if one lip and its side of the face is what is seen: [h, w, 2].

    `now` and `before`: the lip's outer and inner line. `outwards` is -1 for the upper lip, 1 for the lower one.
    """
    outer, inner = (heights(grid.x, line) for line in now)
    ends = now[0][[0, -1], 0]
    beside = smooth_step(np.maximum(ends[0] - grid.x, grid.x - ends[1]), _FOLLOWS_SIDE, 0).astype(np.float32)
    across = np.interp(grid.x, ends, before[0][[0, -1], 0] - ends).astype(np.float32)
    came = grid.x + across * beside
    from_outer, from_inner = heights(came, before[0]) - outer, heights(came, before[1]) - inner
    outside = outwards * (grid.y - outer)  # of the lip, above 0
    share = np.clip(-outside / np.maximum(outwards * (outer - inner), 1e-3), 0, 1)
    of_lip = from_outer + (from_inner - from_outer) * share
    rows = np.clip(np.searchsorted(grid.y[:, 0], outer[0]), 0, len(grid.y) - 1)
    skin_across, skin_down = skin[..., 0], skin[..., 1]
    at_outer = skin_down[rows, np.arange(len(rows))][None]
    follows = (smooth_step(outside, _FOLLOWS, 0) * beside).astype(np.float32)
    down = np.where(outside > 0, skin_down + (from_outer - at_outer) * follows, skin_down + (of_lip - skin_down) * beside)
    return cv2.merge([skin_across + (across - skin_across) * follows, down.astype(np.float32)])


def _warped(values: np.ndarray, to_values: np.ndarray, size: tuple[int, int], border: int = cv2.BORDER_REPLICATE) -> np.ndarray:
    """Values [h, w, ·] at the places of another raster of `size` (width, height) that `to_values` [2, 3] leads from."""
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(np.ascontiguousarray(values, np.float32), to_values, size, flags=how, borderMode=border)


def _fading(count: int, fineness: float) -> np.ndarray:
    """Weights [count] that rise from 0 at both ends to 1 over the border."""
    at = np.arange(count)
    return smooth_step(np.minimum(at, at[::-1]) / fineness, 0, _BORDER)
