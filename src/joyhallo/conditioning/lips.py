"""The lips of a still picture: brought together, their line found, their edges kept clear of teeth."""

import cv2
import numpy as np

from joyhallo.conditioning import anatomy
from joyhallo.conditioning.similarity import Similarity

INNER_UPPER, INNER_LOWER = anatomy.INNER_UPPER_LIP[1:-1], anatomy.INNER_LOWER_LIP[1:-1]  # without the corners
INNER_PAIRS = tuple(zip(INNER_UPPER, INNER_LOWER, strict=True))
_UPPER_LIP = (0, 267, 269, 270, 409, 37, 39, 40, 185, *INNER_UPPER)
_LOWER_LIP = (17, 314, 405, 321, 375, 84, 181, 91, 146, *INNER_LOWER)
# The points of a lip from its inner line to its outer one, column by column in the order of the inner points.
_UPPER_COLUMNS = (
    (191, 183, 184, 185), (80, 42, 74, 40), (81, 41, 73, 39), (82, 38, 72, 37), (13, 12, 11, 0),
    (312, 268, 302, 267), (311, 271, 303, 269), (310, 272, 304, 270), (415, 407, 408, 409),
)  # fmt: skip
_LOWER_COLUMNS = (
    (95, 96, 77, 146), (88, 89, 90, 91), (178, 179, 180, 181), (87, 86, 85, 84), (14, 15, 16, 17),
    (317, 316, 315, 314), (402, 403, 404, 405), (318, 319, 320, 321), (324, 325, 307, 375),
)  # fmt: skip
PARTED_CM = 0.12  # lips that are nearer are shut
_SEEN_CM, _BENT_CM = 0.04, 0.13  # how finely the line of shut lips is sought, and how far it bends from the mesh's
_LEAST_INSET_CM, _MARGIN_CM = 0.12, 0.06
_DEEPEST = 0.6  # of the lip's thickness
_CLEARLY_BRIGHTER = 20.0  # teeth than lips, in 0..255: otherwise there are none to keep out


def lip_gap(canonical: np.ndarray) -> np.ndarray:
    """Opening between the inner lips of canonical points [..., N, 3], centimetres [...]."""
    upper, lower = ([pair[side] for pair in anatomy.LIP_GAP_PAIRS] for side in (0, 1))
    return (canonical[..., lower, 1] - canonical[..., upper, 1]).mean(-1)


def closed_mouth(canonical: np.ndarray) -> np.ndarray:
    """Canonical points [478, 3] with the lips brought together; each lip moves as a whole and the skin around follows."""
    closed = canonical.copy()
    gaps = np.array([canonical[low, 1] - canonical[up, 1] for up, low in INNER_PAIRS])
    if gaps.max() < 0.03:
        return closed
    for other, sign, share in ((_LOWER_LIP, 1, 0.45), (_UPPER_LIP, -1, 0.55)):
        edge = [pair[0 if sign == 1 else 1] for pair in INNER_PAIRS]
        line, moves = canonical[edge, :2], sign * share * np.maximum(gaps, 0)
        points = canonical[:, :2]
        across = np.exp(-((line[:, 0] - points[:, None, 0]) ** 2) / (2 * 0.3**2))
        total = across.sum(1)
        order = np.argsort(line[:, 0])
        away = sign * (np.interp(points[:, 0], line[order, 0], line[order, 1]) - points[:, 1])
        # A plateau of 0.9 cm around the lip line moves fully; beyond it the skin stretches.
        fade = np.exp(-((np.maximum(0, np.abs(away) - 0.9) / 1.3) ** 2)) * np.minimum(1, total)
        move = across @ moves / (total + 1e-6) * fade
        move[away < -0.02] = 0
        move[[78, 308, *other]] = 0
        move[edge] = moves
        closed[:, 1] += move
    return closed


def settle_lip_line(image: np.ndarray, points: np.ndarray, px_per_cm: float) -> None:
    """Move the inner line of shut lips onto the dark valley between them, where the lips will part; changes `points`."""
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), max(0.8, _SEEN_CM * px_per_cm))
    reach = px_per_cm * 0.35
    offsets = np.linspace(-reach, reach, 25)
    shifts = []
    for up, low in INNER_PAIRS:
        x, y = (points[up, :2] + points[low, :2]) / 2
        column = np.full((25, 1), x, np.float32), (y + offsets).astype(np.float32)[:, None]
        values = cv2.remap(grey, *column, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[:, 0] + 6 * (offsets / reach) ** 2
        shifts.append(offsets[values.argmin()])
    middle = np.median(shifts)
    bent = _BENT_CM * px_per_cm
    shifts = np.convolve(np.pad(np.clip(shifts, middle - bent, middle + bent), 1, "edge"), [0.25, 0.5, 0.25], "valid")
    for (up, low), shift in zip(INNER_PAIRS, shifts, strict=True):
        points[up, 1] = points[low, 1] = (points[up, 1] + points[low, 1]) / 2 + shift


def without_teeth(image: np.ndarray, points: np.ndarray, pose: Similarity) -> np.ndarray:
    """Where to take the texture of parted lips from, [N, 2]: the points of the inner lips often lie upon the teeth.

    `image` [S, S, 3], `points` [N, 2 or 3] in its pixels. The inner line moves into the lip as far as teeth are seen, the lines
    behind it give way in proportion, and the outer line stays.
    """
    moved = points[:, :2].copy()
    smooth = cv2.GaussianBlur(image, (0, 0), 0.6).astype(np.float32)
    ring = np.zeros(image.shape[:2], np.uint8)
    cv2.fillPoly(ring, [np.round(moved[list(anatomy.INNER_LIP_RING)]).astype(np.int32)], 1)
    inside = smooth[ring > 0]
    if len(inside) < 6:
        return moved
    brightness = inside.mean(1)
    tooth = inside[brightness >= np.percentile(brightness, 75)].mean(0)
    down = pose.rotation[:2, 1] * pose.scale
    for columns, into in ((np.array(_UPPER_COLUMNS), -down), (np.array(_LOWER_COLUMNS), down)):
        inner, outer = moved[columns[:, 0]], moved[columns[:, -1]]
        insets = _insets(smooth, inner, outer, into, tooth)
        thickness = np.maximum(((outer - inner) @ into) / (into @ into), 0.1)
        for line in columns.T[:-1]:
            depth = np.clip(((points[line, :2] - inner) @ into) / (into @ into) / thickness, 0, 1)
            moved[line] += (insets * (1 - depth))[:, None] * into
    return moved


def _insets(picture: np.ndarray, inner: np.ndarray, outer: np.ndarray, into: np.ndarray, tooth: np.ndarray) -> np.ndarray:
    """Insets [9] of one lip from its inner and outer points [9, 2]; `into` [2]: a centimetre deeper into the lip."""
    thickness = np.maximum(((outer - inner) @ into) / (into @ into), 0.1)  # centimetres
    depths = np.linspace(0, 1, 25)[None] * (_DEEPEST + 0.1) * thickness[:, None]
    places = (inner[:, None] + depths[..., None] * into).astype(np.float32)
    colours = cv2.remap(picture, places[..., 0], places[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    near = colours[:, -6:].mean(1, keepdims=True)
    if tooth.mean() - np.median(near.mean(-1)) < _CLEARLY_BRIGHTER:
        return np.minimum(np.full(len(inner), _LEAST_INSET_CM), _DEEPEST * thickness)
    whole = np.median(colours[:, -8:].reshape(-1, 3), 0)  # single places of a lip may gleam like teeth
    from_tooth = np.linalg.norm(colours - tooth, axis=-1)
    is_tooth = from_tooth < 1.3 * np.linalg.norm(colours - near, axis=-1)
    is_tooth |= from_tooth < np.linalg.norm(colours - whole, axis=-1)
    reach = np.where(is_tooth, depths, 0).max(1) + _MARGIN_CM
    padded = np.pad(reach, 1, "edge")
    reach = np.maximum(reach, np.convolve(padded, [0.25, 0.5, 0.25], "valid"))
    return np.clip(reach, _LEAST_INSET_CM, np.maximum(_DEEPEST * thickness, _LEAST_INSET_CM))
