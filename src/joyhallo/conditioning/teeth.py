"""Upper teeth taken from real smiles: strips in centimetres of the average face, which hang from the skull of any head.

Rows and columns of a strip are `PX_PER_CM` to the centimetre; its origin is the edge of the middle teeth.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from joyhallo.conditioning import anatomy
from joyhallo.conditioning.lips import lip_gap
from joyhallo.conditioning.similarity import Similarity

PX_PER_CM = 36
HALF_WIDTH_CM, ABOVE_CM, BELOW_CM = 2.9, 1.5, 0.35
_MIN_PX_PER_CM = 10.0  # of the picture: smaller teeth are a smear
_SMALLEST_SMILE_CM, _LARGEST_SMILE_CM = 0.35, 1.15  # parted lips; beyond, the lower teeth show as well
_HEIGHTS_CM = (0.22, 1.15)  # of what shows of the teeth
_EDGES_CM = (0.1, 0.24)  # lifted lips of a smile make the edge look lower than it is in speech
_ROUGHEST = 0.095
_MIN_SIDE_CM = 1.5  # that the row of teeth must reach on both sides


@dataclass(frozen=True, eq=False)
class Teeth:
    """A strip of upper teeth."""

    pixels: np.ndarray  # [h, w, 4] float32 RGB in 0..255 times alpha, alpha in 0..1
    white: np.ndarray  # [3] the colour of the teeth
    edge_cm: float  # the edge of the middle teeth below the line of the shut lips
    roughness: float  # how far single columns differ from their neighbours, and pink among the white; a share of the white

    def sample(self, x_cm: np.ndarray, y_cm: np.ndarray) -> np.ndarray:
        """[..., 4] at places in centimetres: x from the middle to the person's left, y down from the edge of the teeth."""
        column = ((x_cm + HALF_WIDTH_CM) * PX_PER_CM).astype(np.float32)
        row = ((y_cm + ABOVE_CM) * PX_PER_CM).astype(np.float32)
        row = np.maximum(row, 0)  # the teeth go on upwards behind the lip
        return np.asarray(cv2.remap(self.pixels, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT))


def _unwrapped(image: np.ndarray, pose: Similarity, middle: np.ndarray) -> np.ndarray:
    """The plane of the teeth around `middle` [3] (canonical) as seen in the picture, float32 [h, w, 3]."""
    rows = np.arange(-ABOVE_CM, ABOVE_CM + 1 / PX_PER_CM, 1 / PX_PER_CM)
    columns = np.arange(-HALF_WIDTH_CM, HALF_WIDTH_CM + 1 / PX_PER_CM, 1 / PX_PER_CM)
    x, y = np.meshgrid(columns, rows)
    places = np.stack([x, y, np.zeros_like(x)], -1).reshape(-1, 3) + middle
    at = pose.apply(places)[:, :2].reshape(*x.shape, 2).astype(np.float32)
    seen = cv2.remap(image, at[..., 0], at[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return seen.astype(np.float32)


def _enamel(seen: np.ndarray, is_inside: np.ndarray) -> np.ndarray:
    """Where the picture shows teeth, [h, w] bool: inside the lips, bright for this mouth, and less red than lips."""
    brightness = seen.mean(2)
    bright = max(1.0, float(np.percentile(brightness[is_inside], 88)))
    redness = (seen[..., 0] - seen[..., 1]) / (seen.sum(2) + 1)
    palest = np.percentile(redness[is_inside & (brightness >= min(0.7 * bright, brightness[is_inside].max()))], 30)
    likely = is_inside & (brightness > 0.5 * bright) & (redness < palest + 0.07)
    return np.asarray(cv2.morphologyEx(likely.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8)) > 0)


def read_teeth(image: np.ndarray, points: np.ndarray, pose: Similarity, shut: np.ndarray) -> Teeth | None:
    """The upper teeth of a smile; None where none or not enough is seen, or what is seen may be something else.

    `image` [H, W, 3] uint8, `points` [K, 3] in its pixels, `pose`: from centimetres of this face to them, `shut` [K, 3]: its
    points in centimetres with the lips brought together.
    """
    canonical = pose.undo(points.astype(np.float64))
    opening = float(lip_gap(canonical))
    if pose.scale < _MIN_PX_PER_CM or not _SMALLEST_SMILE_CM <= opening <= _LARGEST_SMILE_CM:
        return None
    middle = (shut[13] + shut[14]) / 2
    seen = _unwrapped(image, pose, middle)
    ring = (canonical[list(anatomy.INNER_LIP_RING), :2] - middle[:2] + [HALF_WIDTH_CM, ABOVE_CM]) * PX_PER_CM
    inside = np.zeros(seen.shape[:2], np.uint8)
    cv2.fillPoly(inside, [np.round(ring).astype(np.int32)], 1)
    if inside.sum() < 200:
        return None
    is_tooth = _enamel(seen, inside > 0)
    top = is_tooth.argmax(0)
    bottom = len(is_tooth) - 1 - is_tooth[::-1].argmax(0)
    heights = np.where(is_tooth.any(0), (bottom - top) / PX_PER_CM, 0)
    is_good = (heights > _HEIGHTS_CM[0]) & (heights < _HEIGHTS_CM[1])
    teeth = _strip(seen, top, bottom, is_good)
    return teeth if teeth is not None and _is_natural(teeth) else None


def _reach(is_good: np.ndarray, centre: int, step: int) -> int:
    """How many columns from the centre on are good, single bad ones forgiven."""
    column, bad = centre, 0
    while 0 <= column < len(is_good) and bad < 4:
        bad = 0 if is_good[column] else bad + 1
        column += step
    return abs(column - centre) - bad


def _strip(seen: np.ndarray, top: np.ndarray, bottom: np.ndarray, is_good: np.ndarray) -> Teeth | None:
    """The strip out of the unwrapped picture; `top` and `bottom` [w]: rows of the teeth in every column."""
    columns = np.arange(len(is_good))
    centre = len(is_good) // 2
    right, left = (_reach(is_good, centre, step) for step in (-1, 1))
    if min(right, left) < _MIN_SIDE_CM * PX_PER_CM:
        return None
    known = columns[is_good]
    edge = np.interp(columns, known, bottom[is_good]).astype(np.float32)
    edge = cv2.GaussianBlur(cv2.medianBlur(edge[None], 5), (0, 0), 1.5)[0]
    upper = cv2.GaussianBlur(np.interp(columns, known, top[is_good]).astype(np.float32)[None], (0, 0), 3)[0]
    lowest = float(np.median(edge[centre - 20 : centre + 21]))
    shift = lowest - (ABOVE_CM * PX_PER_CM)  # in rows: what the picture is moved up by
    rows = np.arange(round((ABOVE_CM + BELOW_CM) * PX_PER_CM), dtype=np.float32)[:, None] + shift
    # Above what the smile shows the teeth go on as they are seen a little below the lip, whose shadow is left out.
    row = np.maximum(rows, (upper + 0.35 * np.clip(edge - upper, 0, 0.35 * PX_PER_CM))[None])
    row = np.minimum(row, edge[None] - 1)
    shown = cv2.remap(seen, np.broadcast_to(columns[None].astype(np.float32), row.shape).copy(), row.astype(np.float32), 1)
    alpha = 1 / (1 + np.exp(np.clip((rows - edge[None] + 0.5) / 0.8, -30, 30)))
    side = np.clip(np.minimum(columns - (centre - right), centre + left - columns) / (0.35 * PX_PER_CM), 0, 1)
    alpha = (alpha * side).astype(np.float32)[..., None]
    middle = shown[: int(ABOVE_CM * PX_PER_CM), centre - 40 : centre + 41].reshape(-1, 3)
    brightness = middle.mean(1)
    white = middle[brightness >= np.percentile(brightness, 50)].mean(0)
    edge_cm = float(np.clip(shift / PX_PER_CM, *_EDGES_CM))
    low = shown[int(0.8 * ABOVE_CM * PX_PER_CM) : int(ABOVE_CM * PX_PER_CM), centre - 54 : centre + 55]
    jags = np.abs(edge - cv2.GaussianBlur(edge[None], (0, 0), 8)[0])[centre - 54 : centre + 55].mean() / PX_PER_CM
    roughness = float((np.maximum(0, 0.75 * white - low).mean() + np.abs(np.diff(low, axis=1)).mean()) / white.mean() + jags)
    # Gums and lips among the teeth count as well.
    roughness += max(0.0, float(np.percentile((low[..., 0] - low[..., 1]) / white.mean(), 99)) - 0.18)
    return Teeth(np.concatenate([shown * alpha, alpha], 2).astype(np.float32), white.astype(np.float64), edge_cm, roughness)


def _is_natural(teeth: Teeth) -> bool:
    """Whether a strip may be shown: bright and pale enough to be teeth and nothing else."""
    red, green, blue = teeth.white
    is_pale = teeth.white.mean() > 120 and red - blue < 45 and red - green < 22
    return bool(is_pale and teeth.roughness < _ROUGHEST)
