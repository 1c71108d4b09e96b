"""Faces in drawings: strokes hide them from what finds and reads faces, and softening brings them out.

Pictures are [H, W, 3] uint8 RGB; what is found is in their pixels.
"""

import cv2
import numpy as np
import torch
from torch import Tensor

from joyhallo.conditioning.anatomy import SILHOUETTE, silhouette_box
from joyhallo.conditioning.face import Face, FaceMesh
from joyhallo.media.image import resize

_OF_PICTURE, _OF_FACE = 1 / 200, 1 / 130  # what is blurred, of a picture's shorter side and of a face's longer one
_MOST_PX = 1000  # of the shorter side of what is softened: anything larger is reduced first
_ALIKE = 0.5  # of the area: a face that is smaller, or larger by as much, is another one
_FACE_PX = 166  # of the longer side of a face whose look is measured


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
    found = [other for other in found if _ALIKE < other.area / face.area < 1 / _ALIKE]
    away = [float(np.abs((other.box[:2] + other.box[2:]) / 2 - middle).max()) for other in found]
    return found[int(np.argmin(away))] if away and min(away) < side / 2 else None


def strokes(picture: np.ndarray, landmarks: np.ndarray) -> float:
    """How far a face is from its softened copy: grey levels, of a face reduced to 166 px. `landmarks` [K, 2 or 3].

    Of 206 photographs one has more than 7, of 40 hatched drawings one less.
    """
    face, inside = reduced_face(picture, landmarks)
    grey = cv2.cvtColor(face, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return float(np.abs(grey - cv2.GaussianBlur(grey, (0, 0), _OF_FACE * _FACE_PX))[inside].mean())


def reduced_face(picture: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A face in 166 px, [h, w, 3] uint8, and where it is in them, [h, w] bool; `landmarks` [K, 2 or 3]."""
    outline = landmarks[list(SILHOUETTE), :2].astype(np.float64)
    last = np.array([picture.shape[1], picture.shape[0]]) - 1
    low = np.clip(outline.min(0), 0, last).astype(int)
    high = np.maximum(np.ceil(outline.max(0)).astype(int), low + 1)
    part = np.ascontiguousarray(picture[low[1] : high[1], low[0] : high[0]])
    scale = _FACE_PX / max(part.shape[:2])
    face = resize(part, (max(1, round(part.shape[0] * scale)), max(1, round(part.shape[1] * scale))))
    inside = np.zeros(face.shape[:2], np.uint8)
    cv2.fillPoly(inside, [np.round((outline - low) * scale).astype(np.int32)], 1)
    return face, inside > 0


def softened_pixels(pixels: Tensor, landmarks: np.ndarray) -> Tensor:
    """A frame [3, H, W] softened as much as its face is large; `landmarks` [K, 2 or 3] of the frame."""
    box = silhouette_box(landmarks)
    blur_px = _OF_FACE * float((box[2:] - box[:2]).max())
    return torch.from_numpy(cv2.GaussianBlur(pixels.permute(1, 2, 0).numpy(), (0, 0), blur_px)).permute(2, 0, 1)


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
