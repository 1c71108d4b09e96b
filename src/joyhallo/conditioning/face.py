"""Faces and their landmarks in a picture: BlazeFace and the face mesh, run by LiteRT.

The published preprocessing uses the MediaPipe face landmarker in image mode. The networks and the regions they read are
the same here: the detector's box, turned by the line between the eyes and made 1.5 times larger, is read once by the mesh
network. What differs: large pictures are averaged down before they are sampled (the original takes single pixels), and a
picture in which the short-range detector sees nothing, or only something small, is searched again in overlapping tiles.
"""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from joyhallo.conditioning.anatomy import LEFT_EYE_OUTER, RIGHT_EYE_OUTER
from joyhallo.conditioning.tflite import TfliteNetwork
from joyhallo.errors import UserError

DETECTOR_NAMES = ("face_detector.tflite", "face_detection_short_range.tflite")
MESH_NAMES = ("face_landmarks_detector.tflite", "face_landmark.tflite")

DETECTOR_SIZE = 128
DETECTOR_GRIDS = ((16, 2), (8, 6))  # (cells on a side, anchors in each cell)
MIN_SCORE = 0.5  # of the detector, and of the mesh network's face presence
MAX_OVERLAP = 0.3  # above this two boxes are the same face
ROI_SCALE = 1.5
SMALL_FACE_SHARE = 0.15  # the detector was trained on faces that fill more of the picture than this
MIN_TILE_PX = 256


@dataclass(frozen=True, eq=False)
class Face:
    """A face found in a picture."""

    score: float  # presence in [0, 1], by the mesh network
    box: np.ndarray  # [4] x0, y0, x1, y1 in pixels: the extent of the landmarks
    landmarks: np.ndarray  # [K, 3] in pixels, z towards the back of the head; K = 478 or 468

    @property
    def area(self) -> float:
        """Square pixels of `box`."""
        return float((self.box[2] - self.box[0]) * (self.box[3] - self.box[1]))


@dataclass(frozen=True)
class _Region:
    """The square a network looks at, turned clockwise by `angle` radians."""

    centre_x: float
    centre_y: float
    side: float
    angle: float


class FaceMesh:
    """Finds faces and their landmarks; not for use from several threads at once."""

    def __init__(self, detector: bytes, mesh: bytes, *, num_threads: int = 1) -> None:
        """Takes the contents of the two tflite files; `from_path` reads them from disk."""
        self._detector = TfliteNetwork(detector, num_threads)
        self._mesh = TfliteNetwork(mesh, num_threads)
        cells = [
            ((column + 0.5) / grid, (row + 0.5) / grid)
            for grid, num_anchors in DETECTOR_GRIDS
            for row in range(grid)
            for column in range(grid)
            for _ in range(num_anchors)
        ]
        self._anchors = np.array(cells)  # [896, 2] x, y in the detector's square, 0..1

    @classmethod
    def from_path(cls, path: Path | str, *, num_threads: int = 1) -> "FaceMesh":
        """Reads the published `.task` bundle (478 points), or a folder with the two tflite files (either set of names).

        Raises UserError when the file or one of the two networks is missing.
        """
        path = Path(path)
        known = DETECTOR_NAMES + MESH_NAMES
        if path.is_dir():
            contents = {name: (path / name).read_bytes() for name in known if (path / name).is_file()}
        elif path.is_file() and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as bundle:
                contents = {name: bundle.read(name) for name in bundle.namelist() if name in known}
        else:
            raise UserError(
                f"no face landmark model at {path}: give the face_landmarker .task file or a folder of tflite files"
            )
        detector, mesh = (next((contents[n] for n in names if n in contents), None) for names in (DETECTOR_NAMES, MESH_NAMES))
        if detector is None or mesh is None:
            wanted = " and ".join(" or ".join(pair) for pair in (DETECTOR_NAMES, MESH_NAMES))
            raise UserError(f"{path} is no face landmark model: it must hold {wanted}; fetch the model again")
        return cls(detector, mesh, num_threads=num_threads)

    def detect(self, image: np.ndarray) -> list[Face]:
        """All faces of `image` [H, W, 3] uint8 RGB, the largest first.

        Landmarks are read once, from the detector's region, as the published image mode does.
        """
        _check_image(image)
        regions = self._find_regions(image, 0, 0)
        longest = max(image.shape[:2])
        level = 2
        while max((r.side / ROI_SCALE for r in regions), default=0.0) < SMALL_FACE_SHARE * longest / (level // 2):
            side = longest // level
            if side < MIN_TILE_PX or level > 8:
                break
            for top, left in _tiles(image.shape[0], image.shape[1], side):
                regions += self._find_regions(image[top : top + side, left : left + side], top, left)
            level *= 2
        faces = [face for region in regions if (face := self._read_mesh(image, region))]
        return _distinct(faces)

    def track(self, image: np.ndarray, previous: Face | None) -> Face | None:
        """The face of the next video frame: one mesh pass where `previous` was; None when there is no face.

        Without `previous`, or when it was lost, the largest face is detected and read once more from its own landmarks,
        so that the first frame is measured like those that follow.
        """
        _check_image(image)
        if previous is not None and (face := self._read_mesh(image, _region_of(previous.landmarks))):
            return face
        faces = self.detect(image)
        return self._read_mesh(image, _region_of(faces[0].landmarks)) if faces else None

    def _find_regions(self, image: np.ndarray, top: int, left: int) -> list[_Region]:
        """Mesh regions of the faces in `image`, which lies at (top, left) of the whole picture."""
        height, width = image.shape[:2]
        scale = DETECTOR_SIZE / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        offset = np.array([(DETECTOR_SIZE - size[0]) // 2, (DETECTOR_SIZE - size[1]) // 2])
        square = np.zeros((DETECTOR_SIZE, DETECTOR_SIZE, 3), np.float32)
        shrunk = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        square[offset[1] : offset[1] + size[1], offset[0] : offset[0] + size[0]] = shrunk / 127.5 - 1.0
        outputs = self._detector.run(square[None])
        raw = next(o for o in outputs if o.shape[-1] == 16)[0]  # [896, 16] centre, size and six points, in detector pixels
        logits = next(o for o in outputs if o.shape[-1] == 1)[0, :, 0]
        scores = 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -80, 80)))
        seen = np.flatnonzero(scores >= MIN_SCORE)
        points = raw[seen].astype(np.float64).reshape(-1, 8, 2)
        half = points[:, 1] / 2
        points = np.delete(points, 1, axis=1) + self._anchors[seen][:, None] * DETECTOR_SIZE  # centre, then the six points
        rows = np.concatenate([points[:, 0] - half, points[:, 0] + half, points[:, 1], points[:, 2]], axis=1)
        rows = (rows - np.tile(offset, 4)) / scale + np.tile([left, top], 4)
        return [_region_of_detection(row) for row in _merge(rows, scores[seen])]

    def _read_mesh(self, image: np.ndarray, region: _Region) -> Face | None:
        """Landmarks in `region`, or None when the network sees no face there."""
        size = self._mesh.input_size
        scale = region.side / size
        cos, sin = np.cos(region.angle) * scale, np.sin(region.angle) * scale
        rotation = np.array([[cos, -sin], [sin, cos]])
        centre = np.array([region.centre_x, region.centre_y])
        origin = centre - rotation @ np.array([size / 2, size / 2])
        inverse = np.linalg.inv(rotation)
        to_network = np.concatenate([inverse, (-inverse @ origin)[:, None]], axis=1)
        crop = sample_square(image, to_network, size, scale)
        outputs = self._mesh.run(crop[None].astype(np.float32) / 255.0)
        points = max(outputs, key=np.size).reshape(-1, 3).astype(np.float64)
        logit = next(float(o.ravel()[0]) for o in outputs if o.size == 1 and o.ndim == 4)
        score = float(1 / (1 + np.exp(-np.clip(logit, -80, 80))))
        if score < MIN_SCORE:
            return None
        landmarks = np.concatenate([points[:, :2] @ rotation.T + origin, points[:, 2:] * scale], axis=1)
        box = np.concatenate([landmarks[:, :2].min(0), landmarks[:, :2].max(0)])
        return Face(score, box.astype(np.float32), landmarks.astype(np.float32))


def _check_image(image: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"a picture must be [H, W, 3] uint8, got {list(image.shape)} {image.dtype}")


def _tiles(height: int, width: int, side: int) -> Iterator[tuple[int, int]]:
    """(top, left) of squares that overlap by half and reach every border."""
    for top in _starts(height, side):
        for left in _starts(width, side):
            yield top, left


def _starts(length: int, side: int) -> list[int]:
    if length <= side:
        return [0]
    num = int(np.ceil((length - side) / (side / 2))) + 1
    return [round(i * (length - side) / (num - 1)) for i in range(num)]


def _region_of_detection(row: np.ndarray) -> _Region:
    """From x0, y0, x1, y1, right eye x, y, left eye x, y."""
    x0, y0, x1, y1, right_x, right_y, left_x, left_y = (float(v) for v in row)
    angle = float(np.arctan2(left_y - right_y, left_x - right_x))
    return _Region((x0 + x1) / 2, (y0 + y1) / 2, ROI_SCALE * max(x1 - x0, y1 - y0), angle)


def _region_of(landmarks: np.ndarray) -> _Region:
    """Around landmarks, level with the eyes; their extent is taken along the turned axes so that a tilt does not widen it."""
    across = landmarks[LEFT_EYE_OUTER] - landmarks[RIGHT_EYE_OUTER]
    angle = float(np.arctan2(across[1], across[0]))
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, -sin], [sin, cos]])  # level → picture
    level = landmarks[:, :2] @ turn
    low, high = level.min(0), level.max(0)
    centre = turn @ ((low + high) / 2)
    return _Region(float(centre[0]), float(centre[1]), ROI_SCALE * float((high - low).max()), angle)


def sample_square(image: np.ndarray, to_network: np.ndarray, size: int, scale: float) -> np.ndarray:
    """The network's square cut from `image`; averaged down first where one sample would stand for several pixels."""
    if scale > 2:
        shrink = 1.5 / scale
        height, width = image.shape[:2]
        image = cv2.resize(image, (max(1, round(width * shrink)), max(1, round(height * shrink))), interpolation=cv2.INTER_AREA)
        to_network = to_network @ np.diag([width / image.shape[1], height / image.shape[0], 1.0])
    return cv2.warpAffine(image, to_network, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _overlap(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Intersection over the smaller area of `box` [4] with each of `boxes` [N, 4] (and so 1 for a box inside another)."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return shared / np.maximum(np.minimum(areas, np.prod(box[2:] - box[:2])), 1e-9)


def _merge(rows: np.ndarray, scores: np.ndarray) -> list[np.ndarray]:
    """Weighted non-maximum suppression: boxes [N, 4 + any] of one face become their score-weighted mean."""
    merged = []
    left = np.argsort(-scores, kind="stable")
    while len(left):
        boxes = rows[left, :4]
        low, high = np.maximum(boxes[0, :2], boxes[:, :2]), np.minimum(boxes[0, 2:], boxes[:, 2:])
        shared = np.prod(np.clip(high - low, 0, None), axis=1)
        areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        same = shared / (areas + areas[0] - shared) > MAX_OVERLAP
        same[0] = True
        weights = scores[left[same]] / scores[left[same]].sum()
        merged.append((weights[:, None] * rows[left[same]]).sum(0))
        left = left[~same]
    return merged


def _distinct(faces: list[Face]) -> list[Face]:
    """Each face once, the largest first: of two that overlap by more than half of the smaller, the surer stays."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda f: -f.score):
        if not kept or _overlap(face.box, np.stack([k.box for k in kept])).max() < 0.5:
            kept.append(face)
    return sorted(kept, key=lambda f: -f.area)
