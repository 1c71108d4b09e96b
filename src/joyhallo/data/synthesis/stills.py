"""Portraits that may be made to speak: found, measured once, and kept; those that cannot be used, with the reason."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from joyhallo.conditioning.anatomy import silhouette_box
from joyhallo.conditioning.face import FaceMesh
from joyhallo.conditioning.lips import closed_mouth, lip_gap
from joyhallo.conditioning.portrait import PortraitError, choose_face
from joyhallo.conditioning.similarity import Similarity
from joyhallo.conditioning.teeth import Teeth, read_teeth
from joyhallo.data.heldout import is_held_out_person, person_of
from joyhallo.data.synthesis import motion
from joyhallo.data.synthesis.canonical import CanonicalMesh
from joyhallo.errors import UserError
from joyhallo.media.files import written_whole
from joyhallo.media.image import ImageError, read_image

MAX_YAW_DEG, MAX_ROLL_DEG, MAX_OPENING_CM = 18.0, 10.0, 1.4
_MIN_FACE_SHARE = 0.42  # of the side of the frames that the face must have pixels for
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


@dataclass(frozen=True)
class Still:
    """A picture among those given."""

    path: Path
    name: str  # unique among them, of letters, digits, "_" and "-"
    person: str

    @property
    def is_held_out(self) -> bool:
        """Whether the person is never trained on."""
        return is_held_out_person(self.person)


@dataclass(frozen=True, eq=False)
class StudiedStill:
    """What was found in a picture."""

    points: np.ndarray  # [478, 3] float32 in pixels of the picture; none where there is no face
    reason: str | None  # why it cannot be used, in few words
    detail: str
    teeth: Teeth | None  # of a smile, natural enough for others too


def list_stills(folders: Sequence[Path]) -> list[Still]:
    """All pictures below folders (or single files), in the order of their names. Raises UserError when there is none."""
    found: dict[Path, Path] = {}
    for folder in folders:
        if not folder.exists():
            raise UserError(f"the folder of portraits '{folder}' does not exist: check the path")
        inside = [folder] if folder.is_file() else [path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES]
        found |= {path.resolve(): path for path in inside if not path.name.startswith(".")}
    if not found:
        raise UserError(f"there is no picture below {', '.join(map(str, folders))}: give folders with JPEG or PNG portraits")
    stills, names = [], set()
    for path in sorted(found):
        plain = _plain(f"{path.parent.name}_{path.stem}")
        name, number = plain, 1
        while name in names:
            number += 1
            name = f"{plain}-{number}"
        names.add(name)
        stills.append(Still(found[path], name, person_of(path)))
    return stills


def _plain(text: str) -> str:
    kept = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "_-") else "-" for letter in text)
    return kept[-56:].lstrip("-") or "portrait"


def study(still: Still, finder: FaceMesh, mesh: CanonicalMesh, size_px: int) -> StudiedStill:
    """Find and measure the face; a picture that cannot be used gets its reason, never an error."""
    try:
        image = read_image(still.path)
        face = choose_face(finder.detect(image), (image.shape[0], image.shape[1]))
    except PortraitError as problem:
        is_crowd = "choose" in str(problem)
        return refused_still("several faces" if is_crowd else "no face", str(problem))
    except (ImageError, OSError) as problem:
        return refused_still("unreadable picture", str(problem))
    face = finder.track(image, face) or face
    if face.landmarks.shape[0] != 478:
        raise UserError(
            "the face models give 468 points and 478 are needed: let JOYHALLO_WEIGHTS name a folder with "
            "face_landmarker_v2_with_blendshapes.task"
        )
    points = face.landmarks.astype(np.float64)
    pose = motion.fit_pose(points, mesh.vertices)
    canonical = pose.undo(points)
    reason, detail = _fault(points, pose, canonical, size_px)
    teeth = read_teeth(image, points, pose, closed_mouth(canonical))
    return StudiedStill(face.landmarks, reason, detail, teeth)


def _fault(points: np.ndarray, pose: Similarity, canonical: np.ndarray, size_px: int) -> tuple[str | None, str]:
    """Why a face would look wrong when it is stretched: beyond these limits it does. (None, "") when there is nothing."""
    yaw = float(np.degrees(np.arcsin(np.clip(pose.rotation[0, 2], -1, 1))))
    roll = float(np.degrees(np.arctan2(pose.rotation[1, 0], pose.rotation[0, 0])))
    opening = float(lip_gap(canonical))
    box = silhouette_box(points)
    side = float((box[2:] - box[:2]).max())
    if abs(yaw) > MAX_YAW_DEG:
        return "turned to the side", f"{abs(yaw):.0f}°, up to {MAX_YAW_DEG:.0f}° can be used"
    if abs(roll) > MAX_ROLL_DEG:
        return "tilted", f"{abs(roll):.0f}°, up to {MAX_ROLL_DEG:.0f}° can be used"
    if opening > MAX_OPENING_CM:
        return "mouth wide open", f"the lips are {opening:.1f} cm apart, up to {MAX_OPENING_CM:.1f} can be used"
    if side < _MIN_FACE_SHARE * size_px:
        return "face too small", f"{side:.0f} px, {_MIN_FACE_SHARE * size_px:.0f} are needed"
    return None, ""


def refused_still(reason: str, detail: str) -> StudiedStill:
    """What cannot be used, and why."""
    return StudiedStill(np.zeros((0, 3), np.float32), reason, detail, None)


def save_study(studied: StudiedStill, path: Path) -> None:
    """Write what was found, whole or not at all."""
    arrays = {"points": studied.points, "reason": np.array(studied.reason or ""), "detail": np.array(studied.detail)}
    if studied.teeth:
        arrays |= {"teeth": studied.teeth.pixels.round().astype(np.uint8), "alpha": studied.teeth.pixels[..., 3]}
        arrays |= {"white": studied.teeth.white, "edge": np.array([studied.teeth.edge_cm, studied.teeth.roughness])}
    with written_whole(path, "study of a portrait", UserError) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def load_study(path: Path, with_teeth: bool = True) -> StudiedStill:
    """Read what `save_study` wrote."""
    with np.load(path) as file:
        teeth = None
        if with_teeth and "teeth" in file:
            pixels = file["teeth"].astype(np.float32)
            pixels[..., 3] = file["alpha"]
            teeth = Teeth(pixels, file["white"], *(float(value) for value in file["edge"]))
        return StudiedStill(file["points"], str(file["reason"]) or None, str(file["detail"]), teeth)
