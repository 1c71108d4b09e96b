"""Face points by the MediaPipe `.task` bundle in LiteRT: detector, 478 points, and the canonical mesh in its metadata.

The bundle is a zip of tflite files. Points are pixels of the given picture (x right, y down, z towards the camera negative).
"""

import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
_RIGHT_EYE_CORNER, _LEFT_EYE_CORNER = 33, 263


@dataclass(frozen=True)
class CanonicalMesh:
    """The average face: vertices [468, 3] in centimetres (x right, y down), triangles [898, 3] of vertex indices."""

    vertices: Array
    triangles: NDArray[np.int64]


@dataclass(frozen=True)
class _Region:
    """A rotated square of the picture: centre and side in pixels, angle in radians."""

    x_px: float
    y_px: float
    side_px: float
    angle: float


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, position


def _varints(data: bytes) -> list[int]:
    values, position = [], 0
    while position < len(data):
        value, position = _varint(data, position)
        values.append(value)
    return values


def _message_fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Fields of a protocol-buffer message: (number, payload)."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        wire_type = key & 7
        if wire_type == 0:
            value, position = _varint(data, position)
            yield key >> 3, value
            continue
        if wire_type == 2:
            length, position = _varint(data, position)
        else:
            length = 4 if wire_type == 5 else 8
        yield key >> 3, data[position : position + length]
        position += length


def read_canonical_mesh(bundle: Path) -> CanonicalMesh:
    """The canonical mesh of the `.task` bundle's geometry metadata."""
    with zipfile.ZipFile(bundle) as archive:
        data = archive.read("geometry_pipeline_metadata_landmarks.binarypb")
    floats: list[float] = []
    indices: list[int] = []
    for _, payload in _message_fields(data):
        if not isinstance(payload, bytes) or len(payload) < 5000:
            continue  # the weights of single points are short messages; the mesh is the long one
        for number, part in _message_fields(payload):
            if number == 3 and isinstance(part, bytes):
                floats.extend(struct.unpack(f"<{len(part) // 4}f", part))
            elif number == 4:
                indices.extend(_varints(part) if isinstance(part, bytes) else [part])
    vertices = np.array(floats, np.float32).reshape(-1, 5)[:, :3] * np.float32([1, -1, -1])
    return CanonicalMesh(vertices, np.array(indices).reshape(-1, 3))


def _anchors() -> Array:
    points = []
    for stride, count in ((8, 2), (16, 6)):
        cells = 128 // stride
        points += [((x + 0.5) / cells, (y + 0.5) / cells) for y in range(cells) for x in range(cells) for _ in range(count)]
    return np.array(points, np.float32)


class FaceMesh:
    """The most certain face of a picture: 478 points. One instance follows one video (see `find`)."""

    def __init__(self, bundle: Path) -> None:
        from ai_edge_litert.interpreter import Interpreter

        with zipfile.ZipFile(bundle) as archive:
            self._detector = Interpreter(model_content=archive.read("face_detector.tflite"), num_threads=1)
            self._pointer = Interpreter(model_content=archive.read("face_landmarks_detector.tflite"), num_threads=1)
        self._detector.allocate_tensors()
        self._pointer.allocate_tensors()
        self._anchors = _anchors()
        self._last: _Region | None = None

    def find(self, image: NDArray[np.uint8], follow: bool = False) -> Array | None:
        """Points [478, 3] of the face in an RGB image [H, W, 3], or None.

        With `follow` the search starts where the last call found the face (frames of one video); else, or failing that, the
        detector says where.
        """
        region = self._last if follow else None
        num_passes = 1
        if region is None:
            region, num_passes = self._detect(image), 2
        for _ in range(num_passes):
            if region is None:
                break
            points = self._points(image, region)
            region = None if points is None else self._region_of(points)
        self._last = region
        if region is None:
            return self.find(image) if follow else None
        return points

    def _detect(self, image: NDArray[np.uint8], threshold: float = 0.5) -> _Region | None:
        height, width = image.shape[:2]
        scale = 128 / max(height, width)
        small = cv2.resize(image, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
        left, top = (128 - small.shape[1]) // 2, (128 - small.shape[0]) // 2
        canvas = np.zeros((128, 128, 3), np.float32)
        canvas[top : top + small.shape[0], left : left + small.shape[1]] = small
        self._detector.set_tensor(self._detector.get_input_details()[0]["index"], canvas[None] / 127.5 - 1)
        self._detector.invoke()
        boxes, scores = (self._detector.get_tensor(detail["index"])[0] for detail in self._detector.get_output_details())
        best = int(scores[:, 0].argmax())
        if scores[best, 0] < np.log(threshold / (1 - threshold)):
            return None
        values = boxes[best].reshape(-1, 2) / 128
        points = np.concatenate([values[:1], values[2:]]) + self._anchors[best]
        points = (points * 128 - [left, top]) / scale
        side = values[1].max() * 128 / scale
        across = points[2] - points[1]
        return _Region(points[0, 0], points[0, 1], 1.5 * side, float(np.arctan2(across[1], across[0])))

    def _points(self, image: NDArray[np.uint8], region: _Region) -> Array | None:
        scale = region.side_px / 256
        if scale > 2:  # too coarse a step aliases: shrink the picture first
            factor = 1.5 / scale
            image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        else:
            factor = 1.0
        cos, sin = np.cos(region.angle) * scale, np.sin(region.angle) * scale
        to_image = np.float32([[cos, -sin, region.x_px - 128 * (cos - sin)], [sin, cos, region.y_px - 128 * (sin + cos)]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        crop = cv2.warpAffine(image, to_image * factor, (256, 256), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        self._pointer.set_tensor(self._pointer.get_input_details()[0]["index"], crop[None].astype(np.float32) / 255)
        self._pointer.invoke()
        outputs = {detail["name"]: self._pointer.get_tensor(detail["index"]) for detail in self._pointer.get_output_details()}
        if outputs["Identity_1"].ravel()[0] < 0:  # a logit: under one half
            return None
        points = outputs["Identity"].reshape(478, 3)
        xy = points[:, :2] @ to_image[:, :2].T + to_image[:, 2]
        return np.concatenate([xy, points[:, 2:] * scale], 1).astype(np.float32)

    @staticmethod
    def _region_of(points: Array) -> _Region:
        across = points[_LEFT_EYE_CORNER, :2] - points[_RIGHT_EYE_CORNER, :2]
        angle = float(np.arctan2(across[1], across[0]))
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        upright = points[:, :2] @ turn
        low, high = upright.min(0), upright.max(0)
        centre = turn @ ((low + high) / 2)
        return _Region(float(centre[0]), float(centre[1]), 1.5 * float((high - low).max()), angle)
