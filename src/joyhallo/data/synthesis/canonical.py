"""The average face: the mesh that the MediaPipe `.task` bundle (a zip) keeps in its geometry metadata, a protocol buffer."""

import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from joyhallo.errors import UserError

_METADATA = "geometry_pipeline_metadata_landmarks.binarypb"


@dataclass(frozen=True, eq=False)
class CanonicalMesh:
    """Vertices [468, 3] in centimetres (x right, y down, z away from the camera), triangles [898, 3] of vertex indices."""

    vertices: np.ndarray
    triangles: np.ndarray


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


def check_bundle(face_models: Path) -> None:
    """Raises UserError for face models that are not MediaPipe's bundle."""
    if face_models.suffix != ".task":
        raise UserError(
            "the face models of MediaPipe's bundle are needed: let JOYHALLO_WEIGHTS name a folder with "
            "face_landmarker_v2_with_blendshapes.task"
        )


def read_canonical_mesh(bundle: Path) -> CanonicalMesh:
    """The canonical mesh of the `.task` bundle's geometry metadata. Raises UserError for other face models."""
    check_bundle(bundle)
    with zipfile.ZipFile(bundle) as archive:
        data = archive.read(_METADATA)
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
    vertices = np.array(floats, np.float32).reshape(-1, 5)[:, :3] * np.array([1, -1, -1], np.float32)
    return CanonicalMesh(vertices, np.array(indices).reshape(-1, 3))
