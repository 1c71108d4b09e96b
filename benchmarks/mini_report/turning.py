"""Portraits of people who look to the side: there is none among the held-out ones, so those that there are get turned."""

import cv2
import numpy as np

from joyhallo.conditioning.anatomy import head_yaw_deg
from joyhallo.conditioning.face import FaceMesh
from joyhallo.conditioning.portrait import PortraitError, choose_face
from joyhallo.data.framing import face_crop
from joyhallo.data.synthesis.canonical import CanonicalMesh
from joyhallo.data.synthesis.gestures import Gesture
from joyhallo.data.synthesis.warp import TalkingPortrait

_WANTED_DEG = 20.0
_SIDE_PX, _FACE_SHARE = 512, 0.5
_NEAR_DEG, _TRIES = 1.5, 5  # a turned picture is read as less turned than it is


def turned(picture: np.ndarray, tools: tuple[FaceMesh, CanonicalMesh]) -> np.ndarray:
    """The head of a picture [H, W, 3] uint8 turned on its face mesh until that reads 20°, to the side it already looks to.

    [512, 512, 3] uint8, its lips together. Raises PortraitError when no face is found, or cannot be turned so far.
    """
    mesh, canonical = tools
    yaw, points, cut = _read(picture, mesh)
    portrait = TalkingPortrait(cut, points, canonical)
    wanted = _WANTED_DEG if yaw >= 0 else -_WANTED_DEG
    angle = wanted - yaw
    for _ in range(_TRIES):
        gesture = _looking_aside(angle)
        shown = portrait.render(portrait.place(gesture, 0))
        faces = mesh.detect(shown)
        if not faces:
            break
        missing = wanted - head_yaw_deg(faces[0].landmarks)
        if abs(missing) < _NEAR_DEG:
            return shown
        angle += missing
    raise PortraitError(f"the head could not be turned to {wanted:g}°")


def _read(picture: np.ndarray, mesh: FaceMesh) -> tuple[float, np.ndarray, np.ndarray]:
    """How far the head is turned, the mesh [478, 3] and the square around it."""
    size = (picture.shape[0], picture.shape[1])
    face = choose_face(mesh.detect(picture), size)
    crop = face_crop(face.landmarks, size, _SIDE_PX, _FACE_SHARE)
    points = crop.move(face.landmarks)
    return head_yaw_deg(points), points, crop.cut(picture)


def _looking_aside(angle_deg: float) -> Gesture:
    """One frame of a face at rest, its head turned."""
    rotation = cv2.Rodrigues(np.array([0, -np.radians(angle_deg), 0]))[0]
    return Gesture(np.zeros((1, 478, 3)), np.zeros((1, 11)), np.zeros(1), rotation[None], np.ones(1), np.zeros((1, 3)))
