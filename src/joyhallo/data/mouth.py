"""What shows between parted lips: a dark cavity, a tongue that follows the jaw, soft upper teeth fixed to the skull."""

import cv2
import numpy as np

from joyhallo.conditioning import anatomy
from joyhallo.data import motion

_CAVITY, _TONGUE, _TEETH = np.array([58.0, 24, 22]), np.array([150.0, 78, 76]), np.array([206.0, 194, 178])
_TEETH_HEIGHT = 0.17  # of the mouth's width
_EDGE_BELOW_LIPS = 0.045  # the teeth's edge under the shut lips' line, of the mouth's width


def _opening_mask(placed: np.ndarray, left: int, top: int, shape: tuple[int, int]) -> np.ndarray:
    """Soft mask [h, w] of the inner-lip polygon within a window."""
    polygon = placed[list(motion.INNER_RING)] - [left, top]
    mask = np.zeros((shape[0] * 2, shape[1] * 2), np.uint8)
    cv2.fillPoly(mask, [np.round((polygon * 2 + 0.5) * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    small = cv2.resize(mask, shape[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.GaussianBlur(small.astype(np.float32) / 255, (0, 0), 0.7))


def paint_mouth(image: np.ndarray, placed: np.ndarray, rigid: np.ndarray, skin: np.ndarray, lip: np.ndarray) -> np.ndarray:
    """The image [S, S, 3] with the inside of the mouth painted between the lips.

    `placed` [468, 2]: the mesh as it is shown; `rigid` [468, 2]: the mesh with shut lips and the same head; `skin` and `lip`:
    mean colours, which give the light of the scene.
    """
    ring = placed[list(motion.INNER_RING)]
    upper, lower = placed[list(anatomy.INNER_UPPER_LIP[3:8])], placed[list(anatomy.INNER_LOWER_LIP[3:8])]
    gap = float((lower[:, 1] - upper[:, 1]).mean())
    if gap < 0.6:
        return image
    size = image.shape[0]
    left, top = np.clip(np.floor(ring.min(0)).astype(int) - 6, 0, size - 2)
    right, bottom = np.clip(np.ceil(ring.max(0)).astype(int) + 6, 2, size)
    window = image[top:bottom, left:right].astype(np.float32)
    mask = _opening_mask(placed, left, top, window.shape[:2])[..., None] * min(1.0, gap / 1.5)
    light = float(np.clip((skin.mean() + 20) / 170, 0.45, 1.15))
    tint = skin / skin.mean()
    tint = (tint / np.array([1.22, 0.95, 0.83])) ** 0.5  # the scene's colour cast against ordinary skin, by half
    inside = _paint(placed, rigid, (left, top, right, bottom), gap) * light * tint
    # Close to the lips the cavity takes their colour: no hard dark outline.
    rim = np.clip(mask * (1 - mask) * 4, 0, 1) * 0.4
    inside = inside * (1 - rim) + 0.55 * lip * rim
    result = image.copy()
    result[top:bottom, left:right] = (window * (1 - mask) + np.clip(inside, 0, 255) * mask).round().astype(np.uint8)
    return result


def _paint(placed: np.ndarray, rigid: np.ndarray, box: tuple[int, int, int, int], gap: float) -> np.ndarray:
    """Cavity, tongue and teeth under white light, [h, w, 3]."""
    left, top, right, bottom = box
    columns, rows = np.meshgrid(np.arange(left, right, dtype=np.float32), np.arange(top, bottom, dtype=np.float32))
    across = rigid[308] - rigid[78]
    width = float(np.linalg.norm(across))
    across = across / width
    down = np.array([-across[1], across[0]])
    upper, lower = placed[13], placed[14]
    x = (columns - upper[0]) * across[0] + (rows - upper[1]) * across[1]
    y = (columns - upper[0]) * down[0] + (rows - upper[1]) * down[1]
    half = np.linalg.norm(placed[308] - placed[78]) / 2
    side = np.clip(np.abs(x) / (half + 1e-6), 0, 1)[..., None]
    depth = np.clip(y / max(gap, 1.0), 0, 1)[..., None]
    colour = _CAVITY * (0.55 + 0.6 * depth) * (1 - 0.4 * side**2)
    tongue_y = float((lower - upper) @ down)
    tongue = np.exp(-((x / (0.3 * width)) ** 4 + ((y - tongue_y) / max(0.13 * width, 0.42 * gap)) ** 2))
    tongue = (0.8 * tongue * np.clip((gap - 0.05 * width) / (0.2 * width), 0, 1))[..., None]
    colour = colour * (1 - tongue) + _TONGUE * tongue
    # Teeth hang from the skull: measured from where the shut lips would meet, whatever the lips do now.
    middle = (rigid[13] + rigid[14]) / 2
    teeth_x = (columns - middle[0]) * across[0] + (rows - middle[1]) * across[1]
    teeth_y = (columns - middle[0]) * down[0] + (rows - middle[1]) * down[1]
    bend = 0.06 * width * (2 * teeth_x / width) ** 2  # the arch rises towards the sides
    edge = _EDGE_BELOW_LIPS * width - bend - 0.006 * width * np.cos(2 * np.pi * teeth_x / (0.155 * width))
    soft = max(0.7, 0.014 * width)
    shown = 1 / (1 + np.exp(np.clip((teeth_y - edge) / (0.45 * soft), -30, 30)))
    shown *= 1 / (1 + np.exp(np.clip(-(teeth_y - edge + _TEETH_HEIGHT * width) / soft, -30, 30)))
    shown *= np.clip((0.40 * width - np.abs(teeth_x)) / (0.08 * width), 0, 1)
    shade = (1 - 0.45 * np.clip(np.abs(teeth_x) / (0.45 * width), 0, 1) ** 2) * (
        0.72 + 0.28 * np.clip(y / (0.08 * width), 0, 1)
    )
    shade -= 0.05 * (0.5 + 0.5 * np.cos(2 * np.pi * teeth_x / (0.155 * width))) ** 4
    shown = (0.94 * shown)[..., None]
    return colour * (1 - shown) + _TEETH * shade[..., None] * shown
