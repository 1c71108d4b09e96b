"""A face of flat colours whose points are known: a pixel is a millimetre of an average one."""

import cv2
import numpy as np

from joyhallo.conditioning import anatomy

SIZE, EYES = 256, 89  # pixels: one is a millimetre of an average face
WHITE, LIP, SKIN = (245, 245, 240), (180, 60, 70), (200, 160, 140)


def face(gap: float, roll_deg: float = 0.0) -> np.ndarray:
    """Points [468, 3] of a face whose lips are `gap` pixels apart in the middle, around (128, 128)."""
    points = np.zeros((468, 3), np.float32)
    points[:, :2] = (0, -20)
    points[anatomy.RIGHT_EYE_OUTER, 0], points[anatomy.LEFT_EYE_OUTER, 0] = -EYES / 2, EYES / 2
    points[2, :2], points[anatomy.CHIN, :2] = (0, 20), (0, 85)
    for upper, lower, height, reach in (
        (anatomy.OUTER_UPPER_LIP, anatomy.OUTER_LOWER_LIP, 16 + gap, 28),
        (anatomy.INNER_UPPER_LIP, anatomy.INNER_LOWER_LIP, gap, 24),
    ):
        across = np.linspace(-1, 1, 11)
        for numbers, side in ((upper, -0.5), (lower, 0.5)):
            for number, x in zip(numbers, across, strict=True):
                points[number, :2] = (reach * x, 45 + side * height * np.sqrt(1 - x * x))
    turn = np.radians(roll_deg)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points[:, :2] = points[:, :2] @ rotation.T + (SIZE / 2, SIZE / 2 - 20)
    return points


def drawn(points: np.ndarray, inside: tuple[int, int, int] = WHITE) -> np.ndarray:
    """A face of skin with red lips and teeth between them."""
    picture = np.full((SIZE, SIZE, 3), SKIN, np.uint8)
    outer = points[[*anatomy.OUTER_UPPER_LIP, *anatomy.OUTER_LOWER_LIP[-2:0:-1]], :2]
    for ring, colour in ((outer, LIP), (points[list(anatomy.INNER_LIP_RING), :2], inside)):
        cv2.fillPoly(picture, [np.round(ring * 16).astype(np.int32)], colour, cv2.LINE_AA, 4)
    return picture
