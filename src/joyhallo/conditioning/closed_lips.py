"""Parted lips of a picture brought together: what a portrait that smiles with its teeth looks like at rest.

Weights that predict how a portrait changes leave it as it is where they are in doubt: one with parted lips would say b, p and m
with its mouth open. The skin is stretched up and down, column by column; beside the mouth, at the nose and at the chin nothing
moves.

Axes: K mesh points, h and w of the window that changes. Lengths are centimetres of the average face, its eyes level.
"""

from dataclasses import replace

import cv2
import numpy as np
from torch import Tensor

from joyhallo.conditioning import anatomy
from joyhallo.conditioning.lip_reading import inner_gap, read_lips
from joyhallo.conditioning.lips import INNER_LOWER, INNER_UPPER, PARTED_CM, closed_mouth, lip_gap, without_teeth
from joyhallo.conditioning.similarity import Similarity, upright
from joyhallo.conditioning.stretch import source_heights
from joyhallo.easing import smooth_step
from joyhallo.models.latents import to_frames
from joyhallo.models.lip_reader import LipReader

NUM_UNSURE = 468  # points of the older mesh
_SEEN_CM, _CLEARLY_CM = 0.25, 0.45
_LEAST_TEETH = 0.02  # of the mouth. With these: 95 % of 83 portraits with parted lips, 1 of 115 with shut ones
_BRIGHTER, _LESS_RED = 20, 4  # teeth than lips: L and a of CIELAB, in 0..255
_BESIDE_CM, _ABOVE_CM, _BELOW_CM = 1.2, 0.6, 1.0  # skin around the lips that is stretched, at least
_CORNERS = (anatomy.RIGHT_MOUTH_CORNER, anatomy.LEFT_MOUTH_CORNER)
_SEAM, _SEAM_CM = 0.25, 0.05  # how dark and how wide the line is where lips have met
_PAST_CM = 0.5  # of that line: how far each lip goes on behind the other


def are_parted(pixels: Tensor, landmarks: np.ndarray, reader: LipReader) -> bool:
    """Whether the lips of a frame [3, H, W] in [-1, 1] are apart.

    The mesh of 478 points tells. That of 468 finds shut lips up to 0.5 cm apart: there a reader must see them apart, clearly or
    with teeth between them.
    """
    points = landmarks.astype(np.float64)
    pose = upright(points)
    if len(points) > NUM_UNSURE:
        return float(lip_gap(pose.undo(points))) >= PARTED_CM
    places = read_lips(pixels[None], landmarks, reader)
    gap_cm = float(inner_gap(places, pose.rotation[:2, 1])[0]) / pose.scale
    return gap_cm >= _CLEARLY_CM or (gap_cm >= _SEEN_CM and _share_of_teeth(pixels, places[0]) >= _LEAST_TEETH)


def _share_of_teeth(pixels: Tensor, places: np.ndarray) -> float:
    """How much of the mouth with its lips is brighter and less red than most of it; `places` [P, 2] of the lip points."""
    frame = to_frames(pixels[None])[0]
    ring = [anatomy.LIP_POINTS.index(point) for point in anatomy.OUTER_LIP_RING]
    mask = np.zeros(frame.shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.round(places[ring]).astype(np.int32)], 1)
    lightness, redness, _ = cv2.cvtColor(frame, cv2.COLOR_RGB2LAB)[mask > 0].astype(int).T
    if not len(lightness):
        return 0.0
    is_tooth = (lightness > np.median(lightness) + _BRIGHTER) & (redness < np.median(redness) - _LESS_RED)
    return float(is_tooth.mean())


def close_lips(picture: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The picture [H, W, 3] uint8 with the lips together, and its landmarks.

    `landmarks` [K, 3] of the face mesh as it is, in pixels of the picture.
    """
    points = landmarks.astype(np.float64)
    pose = upright(points)
    parted = pose.undo(points)
    shut = closed_mouth(parted)
    window = _window(parted, pose, (picture.shape[0], picture.shape[1]))
    part = np.ascontiguousarray(picture[window])
    corner = np.array([window[1].start, window[0].start, 0])
    local = replace(pose, shift=pose.shift - corner)  # to pixels of the part
    # Where the lips' own texture begins: the points of parted lips often lie upon the teeth.
    texture = local.undo(np.c_[without_teeth(part, points - corner, local), points[:, 2]])
    x, y = _places(local, part)
    meeting, follows = _line(shut, INNER_UPPER, x), _beside(x, parted)
    sources = _sources(x, y, meeting, (parted, shut, texture))
    upper, lower = (_stretched(part, local, follows * (source - y)) for source in sources)
    is_below = np.clip((y - meeting) * pose.scale + 0.5, 0, 1)[..., None]  # half a pixel of either side of the line
    drawn = upper + (lower - upper) * is_below
    drawn *= (1 - _SEAM * follows * _seam(x, y - meeting, parted))[..., None]
    closed = picture.copy()
    closed[window] = np.clip(np.rint(drawn), 0, 255).astype(np.uint8)
    return closed, pose.apply(shut).astype(np.float32)


def _sources(
    x: np.ndarray, y: np.ndarray, meeting: np.ndarray, faces: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The heights [h, w] that places of the shut face come from, if the upper lip is seen there and if the lower one is.

    `meeting` [h, w] is where lips meet, `faces` the points [K, 3] of the parted and the shut face, and where lips have texture.
    """
    parted, shut, texture = faces
    nose, chin = (np.full(x.shape, height) for height in _extent(parted))
    over, under = _line(texture, INNER_UPPER, x), _line(texture, INNER_LOWER, x)
    upper = source_heights(
        y,
        (nose, _line(shut, anatomy.OUTER_UPPER_LIP, x), meeting, meeting + _PAST_CM),
        (nose, _line(parted, anatomy.OUTER_UPPER_LIP, x), over, over + _PAST_CM),
    )
    lower = source_heights(
        y,
        (meeting - _PAST_CM, meeting, _line(shut, anatomy.OUTER_LOWER_LIP, x), chin),
        (under - _PAST_CM, under, _line(parted, anatomy.OUTER_LOWER_LIP, x), chin),
    )
    return upper, lower


def _places(pose: Similarity, part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the pixels of a part of the picture lie on the upright face: across and down, [h, w] each."""
    columns, rows = np.meshgrid(np.arange(part.shape[1]), np.arange(part.shape[0]))
    at = pose.undo(np.stack([columns, rows, np.zeros_like(rows)], -1).reshape(-1, 3).astype(np.float64))
    return at[:, 0].reshape(rows.shape), at[:, 1].reshape(rows.shape)


def _line(points: np.ndarray, numbers: tuple[int, ...], x: np.ndarray) -> np.ndarray:
    """How far down the line through some of the points and both corners of the mouth lies, at places across: [h, w]."""
    line = points[[*numbers, *_CORNERS], :2]
    line = line[np.argsort(line[:, 0], kind="stable")]
    return np.asarray(np.interp(x, line[:, 0], line[:, 1]))


def _beside(x: np.ndarray, points: np.ndarray) -> np.ndarray:
    """1 between the corners of the mouth, falling to 0 beside them: [h, w]."""
    ends = points[list(_CORNERS), 0]
    outside = np.maximum(ends.min() - x, x - ends.max()) / _BESIDE_CM
    return smooth_step(outside, 1, 0)


def _stretched(part: np.ndarray, pose: Similarity, down: np.ndarray) -> np.ndarray:
    """The part [h, w, 3] where every place shows what lies `down` [h, w] centimetres under it; float32."""
    axis = pose.rotation[:2, 1] * pose.scale
    columns, rows = np.arange(part.shape[1]), np.arange(part.shape[0])[:, None]
    at_x, at_y = ((own + down * along).astype(np.float32) for own, along in zip((columns, rows), axis, strict=True))
    return cv2.remap(part, at_x, at_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)


def _seam(x: np.ndarray, down: np.ndarray, points: np.ndarray) -> np.ndarray:
    """How much of the dark line is seen, 0 to 1, `down` [h, w] centimetres under it; none at the corners of the mouth."""
    ends = points[[INNER_UPPER[0], INNER_UPPER[-1]], 0]
    inside = np.clip(np.minimum(x - ends.min(), ends.max() - x) / (2 * _SEAM_CM) + 1, 0, 1)
    return np.asarray(inside * np.exp(-0.5 * (down / _SEAM_CM) ** 2))


def _window(face: np.ndarray, pose: Similarity, size: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of a picture of `size` (height, width) around everything that may move of an upright face [K, 3]."""
    across = face[list(_CORNERS), 0]
    ends = [(x, y, 0) for x in (across.min() - _BESIDE_CM, across.max() + _BESIDE_CM) for y in _extent(face)]
    corners = pose.apply(np.array(ends))[:, :2]
    low = np.clip(np.floor(corners.min(0)), 0, [size[1] - 1, size[0] - 1]).astype(int)
    high = np.clip(np.ceil(corners.max(0)) + 1, low + 1, [size[1], size[0]]).astype(int)
    return slice(low[1], high[1]), slice(low[0], high[0])


def _extent(face: np.ndarray) -> tuple[float, float]:
    """From where to where skin is stretched, for points [K, 3] of an upright face."""
    lips = face[list(anatomy.LIPS), 1]
    return min(face[anatomy.NOSE_BASE, 1], lips.min() - _ABOVE_CM), max(face[anatomy.CHIN, 1], lips.max() + _BELOW_CM)
