"""Faces in drawings: strokes and grain hide them from what finds faces, and softening brings them out.

Pictures are [H, W, 3] uint8 RGB; what is found is in their pixels.
"""

import cv2
import numpy as np

from joyhallo.conditioning.face import Face, FaceMesh

_OF_PICTURE, _OF_FACE = 1 / 200, 1 / 130  # what is blurred, of a picture's shorter side and of a face's longer one
_MOST_PX = 1000  # of the shorter side of what is softened: anything larger is reduced first


def find_faces(finder: FaceMesh, picture: np.ndarray) -> tuple[list[Face], bool]:
    """The faces of a picture, the largest first, and whether only a softened copy shows them."""
    faces = finder.detect(picture)
    if faces:
        return faces, False
    faces = _found_softened(finder, picture, _OF_PICTURE * min(picture.shape[:2]))
    return faces, bool(faces)


def look_again(finder: FaceMesh, picture: np.ndarray, face: Face) -> Face | None:
    """A face as a softened copy of what is around it shows it; None where it does not."""
    middle, side = (face.box[:2] + face.box[2:]) / 2, float((face.box[2:] - face.box[:2]).max())
    left, top = np.maximum(np.floor(middle - side), 0).astype(int)
    right, bottom = np.ceil(middle + side).astype(int)
    part = np.ascontiguousarray(picture[top:bottom, left:right])
    found = [_moved(other, 1.0, (left, top)) for other in _found_softened(finder, part, _OF_FACE * side)]
    away = [float(np.abs((other.box[:2] + other.box[2:]) / 2 - middle).max()) for other in found]
    return found[int(np.argmin(away))] if away and min(away) < side / 2 else None


def _found_softened(finder: FaceMesh, picture: np.ndarray, blur_px: float) -> list[Face]:
    shrink = min(1.0, _MOST_PX / min(picture.shape[:2]))
    if shrink < 1:
        picture = cv2.resize(picture, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    soft = cv2.GaussianBlur(picture, (0, 0), blur_px * shrink)
    return [_moved(face, 1 / shrink, (0, 0)) for face in finder.detect(soft)]


def _moved(face: Face, scale: float, corner: tuple[int, int]) -> Face:
    """A face of a part that is so many times as large in the picture and begins at (column, row)."""
    box = face.box * scale + np.array([*corner, *corner])
    landmarks = face.landmarks * scale + np.array([*corner, 0])
    return Face(face.score, box.astype(np.float32), landmarks.astype(np.float32))
