"""Whether it stays one person, the person of the portrait, and as sharp as the portrait.

Axes: M sampled frames, E embedding entries.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from joyhallo.conditioning import anatomy
from joyhallo.conditioning.face import Face, FaceMesh
from joyhallo.conditioning.identity import IdentityEncoder, MiniIdentity, align_face
from joyhallo.conditioning.portrait import PortraitError, choose_face
from joyhallo.conditioning.softened_look import find_faces
from joyhallo.errors import UserError
from joyhallo.evaluation.film import Film
from joyhallo.evaluation.measures import Measure
from joyhallo.media.image import read_image

_SAMPLED_FPS = 5.0
_EYES_SHARE = 0.46  # of the side of an aligned face: from outer corner to outer corner
_DETAIL_SIZES = (48, 256)  # smallest and largest side of the aligned faces whose detail is compared
_UPPER_FACE = (slice(0.25, 0.72), slice(0.15, 0.85))  # rows and columns as shares: eyes to nose, not the moving mouth


@dataclass(frozen=True, eq=False)
class Likeness:
    """The portrait a film is compared with."""

    path: Path
    picture: np.ndarray  # [H, W, 3] uint8
    face: Face


def read_likeness(path: str | Path, face_mesh: FaceMesh) -> Likeness:
    """The portrait and its face.

    Raises
    ------
    UserError : the picture cannot be read, or has no face, or several of similar size.
    """
    picture = read_image(path)
    try:
        faces, _ = find_faces(face_mesh, picture)
        return Likeness(Path(path), picture, choose_face(faces, picture.shape[:2]))
    except PortraitError as error:
        raise UserError(f"the reference '{path}' cannot be compared with: {error}") from error


def bundled_identity() -> IdentityEncoder:
    """The identity encoder of the bundled mini weights."""
    from joyhallo.models.identity_encoder import IdentityNetwork
    from joyhallo.weights.hub import bundled_folder

    return MiniIdentity(IdentityNetwork.from_pretrained(bundled_folder("mini") / "identity_encoder"))


class Likenesses:
    """Embeddings and detail of a film's face, five times a second."""

    def __init__(self, film: Film, identity: IdentityEncoder, reference: Likeness | None) -> None:
        self._film, self._identity, self._reference = film, identity, reference
        self._step = max(1, round(film.fps / _SAMPLED_FPS))
        self._index = -1
        eyes = film.points[:, anatomy.LEFT_EYE_OUTER, :2] - film.points[:, anatomy.RIGHT_EYE_OUTER, :2]
        side = np.nanmean(np.linalg.norm(eyes, axis=1)) / _EYES_SHARE
        self._side = int(np.clip(round(float(side)), *_DETAIL_SIZES))
        self._embeddings: list[np.ndarray] = []
        self._details: list[float] = []
        self._places: list[int] = []

    def add(self, frame: np.ndarray) -> None:
        """The next frame [H, W, 3] uint8."""
        self._index += 1
        points = self._film.points[self._index]
        if self._index % self._step or not np.isfinite(points[0, 0]):
            return
        face = Face(1.0, np.concatenate([points[:, :2].min(0), points[:, :2].max(0)]), points)
        self._embeddings.append(_direction(self._identity, frame, face))
        self._details.append(detail(frame, points, self._side))
        self._places.append(self._index)

    def result(self) -> list[Measure]:
        """Identity over the film, identity with the portrait, sharpness against the portrait or the first frame."""
        if len(self._embeddings) < 2:
            note = "a face is seen in fewer than 2 of the frames looked at (5 a second)"
            return [Measure(name, None, note=note) for name in ("identity_stability", "identity_likeness", "sharpness")]
        embeddings = np.stack(self._embeddings)
        num = len(embeddings)
        mean_pair = float((np.sum(embeddings.sum(0) ** 2) - num) / (num * (num - 1)))
        return [Measure("identity_stability", mean_pair, "cosine"), self._likeness(embeddings), self._sharpness()]

    def _likeness(self, embeddings: np.ndarray) -> Measure:
        if self._reference is None:
            return Measure("identity_likeness", None, note="no portrait to compare with: give it with --reference")
        cosines = embeddings @ _direction(self._identity, self._reference.picture, self._reference.face)
        return Measure("identity_likeness", float(cosines.mean()), "cosine", curve=self._over_frames(cosines))

    def _sharpness(self) -> Measure:
        if self._reference is None:
            wanted, note = self._details[0], "against the first frame, since no --reference was given"
        else:
            wanted, note = detail(self._reference.picture, self._reference.face.landmarks, self._side), ""
        if wanted < 1e-3:
            return Measure("sharpness", None, note="the picture to compare with is blank where the face is")
        ratios = np.array(self._details) / wanted
        return Measure("sharpness", float(ratios.mean()), "ratio", note, curve=self._over_frames(ratios))

    def _over_frames(self, values: np.ndarray) -> np.ndarray:
        curve = np.full(self._film.num_frames, np.nan)
        curve[self._places] = values
        return curve


def detail(picture: np.ndarray, landmarks: np.ndarray, side: int) -> float:
    """Strength of the fine structure (between 1 and 2 pixels) of the upper face, aligned into a square of `side` pixels."""
    grey = cv2.cvtColor(align_face(picture, landmarks, side), cv2.COLOR_RGB2GRAY).astype(np.float32)
    band = cv2.GaussianBlur(grey, (0, 0), 1.0) - cv2.GaussianBlur(grey, (0, 0), 2.0)
    rows, columns = (slice(round(part.start * side), round(part.stop * side)) for part in _UPPER_FACE)
    return float(band[rows, columns].std())


def _direction(identity: IdentityEncoder, picture: np.ndarray, face: Face) -> np.ndarray:
    """The embedding [E] at length one."""
    embedding = identity.embed(picture, face).numpy().astype(np.float64)
    return embedding / max(float(np.linalg.norm(embedding)), 1e-9)
