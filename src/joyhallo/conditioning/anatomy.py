"""Where things are on the 468/478-point face mesh, and what the points say about the head.

The first 468 points are the same in both published meshes; the last ten of the 478 are the irises.
"Right" and "left" are the person's own.
"""

import numpy as np

# The two lists of the published preprocessing (silhouette → face rectangle, lips → lip rectangle).
SILHOUETTE = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
    *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)
LIPS = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 146, 91, 181, 84, 17, 314, 405, 321, 375)

# Contours from the right corner to the left one.
OUTER_UPPER_LIP = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291)
OUTER_LOWER_LIP = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291)
INNER_UPPER_LIP = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)
INNER_LOWER_LIP = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)
OUTER_LIP_RING = OUTER_UPPER_LIP + OUTER_LOWER_LIP[-2:0:-1]  # one closed line each
INNER_LIP_RING = INNER_UPPER_LIP + INNER_LOWER_LIP[-2:0:-1]
LIP_POINTS = (*LIPS, *INNER_LIP_RING)  # what a lip reader reads
LIP_GAP_PAIRS = ((13, 14), (82, 87), (312, 317), (81, 178), (311, 402))  # upper and lower inner lip
UPPER_READ, LOWER_READ = (
    tuple(LIP_POINTS.index(pair[side]) for pair in LIP_GAP_PAIRS) for side in (0, 1)
)  # where among LIP_POINTS
INNER_LIPS = (*INNER_UPPER_LIP, *INNER_LOWER_LIP[1:-1])
RIGHT_EYE = (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7)
LEFT_EYE = (263, 466, 388, 387, 386, 385, 384, 398, 362, 382, 381, 380, 374, 373, 390, 249)
# Above the upper lids, from the outer corner to the inner one.
RIGHT_EYE_FOLD, LEFT_EYE_FOLD = (247, 30, 29, 27, 28, 56, 190), (467, 260, 259, 257, 258, 286, 414)

# Nose bridge, eye corners, forehead and temples: what the jaw, the lips and the lids do not move.
RIGID = (33, 133, 362, 263, 168, 6, 197, 195, 5, 4, 1, 10, 151, 9, 8, 127, 356, 234, 454)

RIGHT_EYE_OUTER, RIGHT_EYE_INNER = 33, 133
LEFT_EYE_OUTER, LEFT_EYE_INNER = 263, 362
RIGHT_MOUTH_CORNER, LEFT_MOUTH_CORNER = 61, 291
RIGHT_CHEEK, LEFT_CHEEK = 234, 454
NOSE_TIP, NOSE_BASE, FOREHEAD, CHIN = 1, 2, 10, 152
JAW_CORNERS = (172, 397)


_JAW_DROP = 0.15  # of the height from nose to chin


def silhouette_box(landmarks: np.ndarray) -> np.ndarray:
    """The rectangle around the face's silhouette: [4] x0, y0, x1, y1 in the unit of `landmarks` [K, 2 or 3]."""
    points = landmarks[list(SILHOUETTE), :2]
    return np.concatenate([points.min(0), points.max(0)])


def speaking_box(landmarks: np.ndarray) -> np.ndarray:
    """The rectangle around what speech moves, the mouth and the jaw: [4] x0, y0, x1, y1 in the unit of `landmarks`.

    `landmarks` [K, 2 or 3] of a face at rest; below the chin there is room for the jaw to drop.
    """
    points = landmarks[[*JAW_CORNERS, NOSE_BASE, CHIN, *LIPS], :2]
    low, high = points.min(0), points.max(0)
    return np.concatenate([low, [high[0], high[1] + _JAW_DROP * (high[1] - low[1])]])


def head_yaw_deg(landmarks: np.ndarray) -> float:
    """How far the head is turned to the side, in degrees; 0 faces the camera, positive shows more of the right cheek.

    `landmarks` [K, 3] in pixels, z in the same scale. Measured from cheek to cheek and between the outer eye corners.
    """
    across = (landmarks[LEFT_CHEEK] - landmarks[RIGHT_CHEEK]) + (landmarks[LEFT_EYE_OUTER] - landmarks[RIGHT_EYE_OUTER])
    return float(np.degrees(np.arctan2(across[2], np.hypot(across[0], across[1]))))


def head_roll_deg(landmarks: np.ndarray) -> float:
    """How far the head is tilted in the picture, in degrees, positive clockwise: the outer eye corners of [K, 2 or 3]."""
    across = landmarks[LEFT_EYE_OUTER] - landmarks[RIGHT_EYE_OUTER]
    return float(np.degrees(np.arctan2(across[1], across[0])))
