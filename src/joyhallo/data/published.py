"""A dataset as the published scripts leave it: which files belong to a clip, and what they say.

ROOT/videos/STEM.mp4 or ROOT/images/STEM/*.png (25 fps), ROOT/face_mask/STEM.png (the face's rectangle), ROOT/sep_lip_mask,
sep_face_mask and sep_pose_mask/STEM.png (64×64), ROOT/face_emb/STEM.pt (a pickled numpy array), ROOT/audio_emb/STEM.pt (a
tensor [rows, blocks, channels]), ROOT/audios/STEM.wav. The metadata files of both stages name clips and may name other places.
"""

import json
import pickle
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from joyhallo.data.samples import MASK_SIDE
from joyhallo.errors import UserError
from joyhallo.media.image import ImageError, read_image

_FOLDERS = {
    "face_mask": "face_mask/{}.png",
    "lip_mask": "sep_lip_mask/{}.png",
    "expression_mask": "sep_face_mask/{}.png",
    "pose_mask": "sep_pose_mask/{}.png",
    "face_embedding": "face_emb/{}.pt",
    "speech_features": "audio_emb/{}.pt",
    "sound": "audios/{}.wav",
}
# how the metadata of either stage calls them
_META_NAMES = {
    "video_path": "video",
    "image_path": "images",
    "mask_path": "face_mask",
    "sep_mask_lip": "lip_mask",
    "sep_mask_face": "expression_mask",
    "sep_mask_border": "pose_mask",
    "face_emb": "face_embedding",
    "face_emb_path": "face_embedding",
    "vocals_emb_base_all": "speech_features",
    "audio_path": "sound",
}
_PICTURES = (".png", ".jpg", ".jpeg")
# What a file that is no such pickle makes torch raise.
_NOT_LOADABLE = (
    pickle.UnpicklingError, zipfile.BadZipFile, struct.error, RuntimeError, OSError, EOFError, ValueError, TypeError,
    LookupError, AttributeError, AssertionError, MemoryError, OverflowError,
)  # fmt: skip


class UnusableClip(UserError):
    """Something of a clip is missing or broken: `reason` in the same few words each time, the message says the rest."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class PublishedClip:
    """Where the files of a clip should be; whether they are there is found out when it is read."""

    name: str
    video: Path
    images: Path
    face_mask: Path
    lip_mask: Path
    expression_mask: Path
    pose_mask: Path
    face_embedding: Path
    speech_features: Path
    sound: Path

    @property
    def source(self) -> Path:
        """The folder of pictures or the film."""
        return self.images if self.pictures() else self.video

    def pictures(self) -> list[Path]:
        """The frames as files, in their order; none where only the film is there."""
        if not self.images.is_dir():
            return []
        return sorted(path for path in self.images.iterdir() if path.suffix.lower() in _PICTURES and path.name[0] != ".")


def find_clips(root: Path, meta: Path | None = None) -> list[PublishedClip]:
    """The clips below `root`, by name; with `meta`, a metadata file of either stage, only those that it names.

    Raises UserError when there is none, or `meta` is no such file.
    """
    if not root.is_dir():
        raise UserError(f"there is no folder '{root}': give the one with videos or images, face_mask, face_emb and the others")
    if meta is not None:
        return [_clip(root, entry) for entry in _read_meta(meta)]
    names = {path.name for path in _visible(root / "images") if path.is_dir()}
    names |= {path.stem for path in _visible(root / "videos") if path.suffix.lower() == ".mp4"}
    if not names:
        raise UserError(f"'{root}' has neither videos/*.mp4 nor images/*/: give what the published scripts were run on")
    return [_clip(root, {"video_path": f"videos/{name}.mp4"}) for name in sorted(names)]


def read_embedding(path: Path) -> np.ndarray:
    """The face embedding [E] float32, not normalised. Raises UnusableClip."""
    values = _load(path, "face embedding")
    if values is None:  # what the published script stores when it never saw a face
        raise UnusableClip("no face embedding", f"'{path}' says that no face was found")
    array = _to_array(values, path, "face embedding").astype(np.float32)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise UnusableClip("broken face embedding", f"'{path}' holds {list(array.shape)} numbers or some that are not finite")
    return array


def read_features(path: Path) -> np.ndarray:
    """The speech features [rows, blocks, channels] float16, one row a 25th of a second. Raises UnusableClip."""
    array = _to_array(_load(path, "speech features"), path, "speech features")
    with np.errstate(over="ignore"):
        array = array.astype(np.float16)
    if array.ndim != 3 or not len(array) or not np.isfinite(array).all():
        raise UnusableClip("broken speech features", f"'{path}' holds {list(array.shape)}, not finite [rows, blocks, channels]")
    return array


def read_masks(clip: PublishedClip) -> np.ndarray:
    """Lip, expression and pose, [3, 64, 64] uint8. Raises UnusableClip."""
    masks = []
    for path in (clip.lip_mask, clip.expression_mask, clip.pose_mask):
        grey = Image.fromarray(_read_grey(path))
        if grey.size != (MASK_SIDE, MASK_SIDE):
            grey = grey.resize((MASK_SIDE, MASK_SIDE), Image.Resampling.BILINEAR)
        masks.append(np.asarray(grey))
    if not masks[0].any():
        raise UnusableClip("empty mask", f"'{clip.lip_mask}' is black all over")
    return np.stack(masks)


def read_face_box(path: Path, size_px: int) -> np.ndarray:
    """The face's rectangle [4] int32 x0, y0, x1, y1 in frames resized to `size_px`. Raises UnusableClip."""
    mask = _read_grey(path) > 127
    if not mask.any():
        raise UnusableClip("empty mask", f"'{path}' is black all over")
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    height, width = mask.shape
    box = np.array([columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height])
    return np.round(box * size_px).astype(np.int32)


def _clip(root: Path, entry: dict[str, str]) -> PublishedClip:
    """The file that the metadata names if it is there, else the one in its usual folder below `root`."""
    name = Path(entry["video_path"]).stem if "video_path" in entry else Path(entry["image_path"]).name
    given = {_META_NAMES[key]: Path(value) for key, value in entry.items() if key in _META_NAMES}
    usual = {key: root / place.format(name) for key, place in _FOLDERS.items()}
    usual |= {"video": root / "videos" / f"{name}.mp4", "images": root / "images" / name}
    places = {key: next((p for p in (root / given[key], given[key]) if p.exists()), usual[key]) for key in given}
    return PublishedClip(name=name, **{**usual, **places})


def _read_meta(path: Path) -> list[dict[str, str]]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise UserError(f"the metadata '{path}' cannot be read as JSON: give a file such as jdh-hallo_stage2.json") from problem
    rows = [{k: v for k, v in entry.items() if isinstance(v, str)} for entry in entries if isinstance(entry, dict)]
    if not rows or not all("video_path" in entry or "image_path" in entry for entry in rows):
        raise UserError(f"the metadata '{path}' names no clips: give a file such as jdh-hallo_stage2.json")
    return rows


def _visible(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []


def _read_grey(path: Path) -> np.ndarray:
    if not path.is_file():
        raise UnusableClip("no mask", f"'{path}' is missing")
    try:
        return np.ascontiguousarray(read_image(path)[..., 0])
    except ImageError as problem:
        raise UnusableClip("broken mask", str(problem)) from problem


def _load(path: Path, what: str) -> object:
    """A file of torch.save with tensors and arrays of numbers in it; nothing that it names is ever called."""
    if not path.is_file():
        raise UnusableClip(f"no {what}", f"'{path}' is missing")
    try:
        with torch.serialization.safe_globals(_numpy_names()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except _NOT_LOADABLE as problem:
        raise UnusableClip(f"broken {what}", f"'{path}' is not a file of torch.save with only numbers in it") from problem


def _numpy_names() -> list[Any]:
    """What pickled arrays of numbers are made with, under the names of old and new numpy."""
    from numpy._core import multiarray

    kinds = [type(np.dtype(kind)) for kind in ("float16", "float32", "float64")]
    rebuild = [(multiarray._reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")]
    return [*rebuild, np.ndarray, np.dtype, *kinds]


def _to_array(values: object, path: Path, what: str) -> np.ndarray:
    array = values.float().numpy() if isinstance(values, torch.Tensor) else values
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        raise UnusableClip(f"broken {what}", f"'{path}' holds {type(values).__name__}, not numbers")
    return array
